"""A Django cache backend: django.core.cache.backends.redis.RedisCache, with tags.

    CACHES = {"default": {"BACKEND": "tagcache.django.TagcacheCache", "LOCATION": "redis://127.0.0.1:6379/1"}}

    cache.set("page:7", page, 300, tags=["tenant:7"])
    cache.invalidate_tags("tenant:7")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.redis import RedisCache

from .cluster import socket_timeout
from .django_client import TagcacheClient, Tags
from .load import get_or_load, get_or_load_async


class _InThread:
    """A client for coroutines, in the thread in which Django runs synchronous code."""

    def __init__(self, client: Any) -> None:
        self.execute_command, self.socket_timeout = sync_to_async(client.execute_command), socket_timeout(client)


def _in_thread(name: str) -> Callable[..., Any]:
    async def method(self: TagcacheCache, *args: Any, **kwargs: Any) -> Any:
        return await sync_to_async(getattr(self, name))(*args, **kwargs)

    return method


class TagcacheCache(RedisCache):
    """Django's cache interface; `add`, `set`, `set_many` and `get_or_set` and their async forms also take `tags`."""

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = TagcacheClient

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, *, tags: Tags = ()) -> bool:
        key = self.make_and_validate_key(key, version=version)
        return bool(self._cache.add(key, value, self.get_backend_timeout(timeout), tags))

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, *, tags: Tags = ()) -> None:
        self.set_many({key: value}, timeout, version, tags=tags)

    def set_many(self, data: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, *, tags: Tags = ()) -> list[Any]:
        named = {self.make_and_validate_key(key, version=version): value for key, value in data.items()}
        if named:
            self._cache.set_many(named, self.get_backend_timeout(timeout), tags)
        return []

    def get_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, *, tags: Tags = ()
    ) -> Any:
        """One process at a time calls `default`, the others wait for its value: see `tagcache.get_or_load`."""
        key = self.make_and_validate_key(key, version=version)
        options = self._cache.load_options(self.get_backend_timeout(timeout), tags)
        load = default if callable(default) else lambda: default
        return get_or_load(self._cache.get_client(key, write=True), key, load, **options)

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None, *, tags: Tags = ()
    ) -> Any:
        """Does not wait for another process: that would block the thread in which Django runs synchronous code."""
        key = self.make_and_validate_key(key, version=version)
        options = self._cache.load_options(self.get_backend_timeout(timeout), tags)

        async def load() -> Any:
            return default() if callable(default) else default

        return await get_or_load_async(_InThread(self._cache.get_client(key, write=True)), key, load, wait=0, **options)

    def incr_version(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """Renames the entry, which keeps its TTL and its tags."""
        before: int = self.version if version is None else version
        old, new = (self.make_and_validate_key(key, version=number) for number in (before, before + delta))
        if not self._cache.rename(old, new):
            raise ValueError(f"Key '{key}' not found")
        return before + delta

    def invalidate_tags(self, *tags: str) -> int:
        """Drops all entries with one of these tags, and returns their number, which does not affect the time."""
        return int(self._cache.invalidate_tags(tags))

    # adecr_version and adecr call these. Django's own aincr_version stores the value anew, without its tags.
    aadd, aset, aset_many, aincr = map(_in_thread, "add set set_many incr".split())
    aincr_version, ainvalidate_tags = map(_in_thread, "incr_version invalidate_tags".split())
