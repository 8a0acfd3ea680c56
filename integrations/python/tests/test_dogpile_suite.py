"""dogpile.cache's own tests of its Redis backend, run on the backend `tagcache`."""

import pytest
from tests.cache import test_redis_backend as suite

import tagcache.dogpile  # registers the backend


class TagcacheTest(suite.RedisTest):
    backend = "tagcache"


class TagcacheSerializerTest(suite.RedisSerializerTest):
    backend = "tagcache"


class TagcacheMutexTest(suite.RedisDistributedMutexTest):
    backend = "tagcache"


class TagcacheMutexPrefixTest(suite.RedisDistributedMutexPrefixTest):
    backend = "tagcache"


class TagcacheAsyncCreationTest(suite.RedisAsyncCreationTest):
    backend = "tagcache"


@pytest.mark.time_intensive
class TagcacheConnectionTest(suite.RedisConnectionTest):
    backend = "tagcache"
