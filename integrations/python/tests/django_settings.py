"""Settings for Django's own cache tests: this package's classes replace those of Django's Redis backend.

The tests find the backend by its name, so that they run unchanged.
"""

import os

import django.core.cache.backends.redis as native

from tagcache.django import TagcacheCache, TagcacheClient

native.RedisCache, native.RedisCacheClient = TagcacheCache, TagcacheClient

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": os.environ["TAGCACHE_URL"],
    }
}
DATABASES = {alias: {"ENGINE": "django.db.backends.sqlite3"} for alias in ("default", "other")}
SECRET_KEY = "tests"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = False
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
