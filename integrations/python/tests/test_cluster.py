"""The backends and `get_or_load` on a cluster of three primaries, which integrations/with-server starts."""

import asyncio
import os
import threading

import pytest
import redis
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

import tagcache.django_client
import tagcache.dogpile
from tagcache import call, get_or_load, get_or_load_async
from tagcache.cluster import call_all, together
from tagcache.django import TagcacheCache

PORTS = [int(port) for port in os.environ["TAGCACHE_CLUSTER_PORTS"].split()]
URL = f"redis://127.0.0.1:{PORTS[0]}"
KEYS = [f"key:{n}" for n in range(60)]


@pytest.fixture
def cluster():
    """A client of an empty cluster."""
    with redis.RedisCluster.from_url(URL) as connected:
        connected.flushall(target_nodes=redis.RedisCluster.PRIMARIES)
        assert len(connected.get_primaries()) == 3
        yield connected


def sizes(cluster):
    return [cluster.get_redis_connection(node).dbsize() for node in cluster.get_primaries()]


def test_keys_of_a_slot_are_grouped(cluster):
    groups = together(cluster, KEYS)
    assert sorted(key for group in groups for key in group) == sorted(KEYS)
    assert together(cluster, ["a{1}", b"b{1}".decode(), "c{2}"]) == [["a{1}", "b{1}"], ["c{2}"]]
    assert together(cluster, []) == []


def invalidations(cluster):
    """The number of CACHE.INVALIDATE calls of each node."""
    stats = [cluster.get_redis_connection(node).info("commandstats") for node in cluster.get_primaries()]
    return [node.get("cmdstat_cache.invalidate", {"calls": 0})["calls"] for node in stats]


def test_invalidation_that_reaches_a_node_late_is_sent_to_all_again(cluster):
    for node in cluster.get_primaries():
        cluster.get_redis_connection(node).config_resetstat()
    cluster.get_redis_connection(cluster.get_primaries()[-1]).client_pause(700, all=False)
    assert call_all(cluster, "CACHE.INVALIDATE", "t") == [0, 0, 0]
    assert invalidations(cluster) == [2, 2, 2]


def test_django_backend_works(cluster):
    cache = TagcacheCache(URL, {"OPTIONS": {"cluster": True, "tag_prefix": "shop:"}})
    assert cache.set_many({key: [key] for key in KEYS}, 100, tags=["t"]) == []
    assert min(sizes(cluster)) > 0
    assert cache.get_many([*KEYS, "none"]) == {key: [key] for key in KEYS}
    assert all(cache.get(key) == [key] and cache.has_key(key) for key in KEYS)
    assert cache.add("key:0", 1) is False
    assert cache.touch("key:0", 50)
    cache.delete_many(KEYS[:10])
    assert cache.invalidate_tags("t") == 50
    assert cache.get_many(KEYS) == {}
    cache.set("n", 5, 100, tags=["t"])
    assert cache.incr("n", 2) == 7
    assert cache.incr_version("n") == 2
    assert (cache.get("n"), cache.get("n", version=2)) == (None, 7)
    assert 90 < cluster.ttl(":2:n") <= 100
    assert cache.invalidate_tags("t") == 1
    with pytest.raises(ValueError):
        cache.incr_version("n")
    assert cache.get_or_set("loaded", lambda: "value", 100, tags=["t"]) == "value"
    assert asyncio.run(cache.aget_or_set("loaded", lambda: "other")) == "value"
    assert cache.clear()
    assert sizes(cluster) == [0, 0, 0]


def test_django_key_invalidated_during_incr_version_is_not_stored(cluster, monkeypatch):
    cache = TagcacheCache(URL, {"OPTIONS": {"cluster": True}})
    cache.set("n", 5, 100, tags=["t"])

    def call_late(client, command, *args):
        if command == "CACHE.SET":
            call_all(cluster, "CACHE.INVALIDATE", "t")
        return call(client, command, *args)

    monkeypatch.setattr(tagcache.django_client, "call", call_late)
    with pytest.raises(ValueError):
        cache.incr_version("n")
    assert cache.get("n", version=2) is None


def test_dogpile_backend_works(cluster):
    arguments = {"host": "127.0.0.1", "port": PORTS[0], "distributed_lock": True, "cluster": True}
    region = make_region().configure("tagcache", arguments=arguments)
    with tagcache.dogpile.tagged("t"):
        region.set_multi(dict.fromkeys(KEYS, 1))
        assert region.get_or_create("made", lambda: 2) == 2
    assert min(sizes(cluster)) > 0
    assert region.get_multi([*KEYS, "none"]) == [1] * 60 + [NO_VALUE]
    region.delete_multi(KEYS[:10])
    assert region.get_or_create("made", lambda: 3) == 2
    assert region.actual_backend.invalidate_tags("t") == 51
    assert region.get_multi(KEYS) == [NO_VALUE] * 60
    by_url = make_region().configure("tagcache", arguments={"url": URL, "cluster": True})
    by_url.set("key", 4)
    assert region.get("key") == 4


def test_one_caller_loads_and_the_others_wait(cluster):
    begun, go, loads = threading.Event(), threading.Event(), []

    def load():
        loads.append(1)
        begun.set()
        assert go.wait(10)
        return b"value"

    found = []

    def caller():
        with redis.RedisCluster.from_url(URL) as own:
            found.append(get_or_load(own, "key", load, ttl=100, tags=["t"]))

    threads = [threading.Thread(target=caller) for _ in range(3)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert (found, len(loads)) == ([b"value"] * 3, 1)
    assert call_all(cluster, "CACHE.INVALIDATE", "t").count(1) == 1


def test_get_or_load_async_works(cluster):
    async def run():
        async with redis.asyncio.RedisCluster.from_url(URL) as client:

            async def load():
                return b"\xff"

            first = await get_or_load_async(client, "key", load, ttl=100)
            return first, await get_or_load_async(client, "key", None, ttl=100)

    assert asyncio.run(run()) == (b"\xff", b"\xff")


def test_invalidation_refused_by_one_node_raises_and_others_apply_it(cluster):
    for key in KEYS:
        call(cluster, "CACHE.SET", key, "v", "TAGS", 1, "t")
    refusing = cluster.get_redis_connection(cluster.get_primaries()[0])
    held = refusing.dbsize()
    refusing.execute_command("ACL", "SETUSER", "default", "-cache.invalidate")
    try:
        with pytest.raises(redis.exceptions.NoPermissionError):
            call_all(cluster, "CACHE.INVALIDATE", "t")
    finally:
        refusing.execute_command("ACL", "SETUSER", "default", "+cache.invalidate")
    assert sum(call(cluster, "CACHE.EXISTS", key) for key in KEYS) == held
