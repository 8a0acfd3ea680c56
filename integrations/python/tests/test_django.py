"""Tags, leases and bad input of the Django backend, which Django's own tests do not cover."""

import asyncio
import os

import pytest
import redis

from tagcache import ModuleMissing, call
from tagcache.django import TagcacheCache


def cache_of(port="TAGCACHE_PORT", **options):
    return TagcacheCache(f"redis://127.0.0.1:{os.environ[port]}", {"OPTIONS": options})


@pytest.fixture
def cache(client):
    return cache_of()


def test_invalidation_drops_entries_with_the_tag(cache):
    cache.set("a", 1, tags=["t"])
    cache.set_many({"b": 2, "c": 3}, tags=["t", "u"])
    cache.add("d", 4, tags=["u"])
    cache.get_or_set("e", lambda: 5, tags=["u"])
    assert cache.invalidate_tags("t") == 3
    assert cache.get_many("abcde") == {"d": 4, "e": 5}
    assert cache.invalidate_tags("t", "u") == 2
    assert cache.invalidate_tags() == 0


def test_tag_prefix_keeps_projects_apart(cache, client):
    cache_of(tag_prefix="shop:").set("k", 1, tags=["t"])
    assert cache.invalidate_tags("t") == 0
    assert call(client, "CACHE.INVALIDATE", "shop:t") == 1


def test_incr_keeps_tags_and_ttl(cache, client):
    cache.set("n", 2**60, 100, tags=["t"])
    assert cache.incr("n", 3) == 2**60 + 3
    assert 90 < client.ttl(":1:n") <= 100
    assert cache.invalidate_tags("t") == 1
    with pytest.raises(ValueError):
        cache.incr("n")


def test_incr_version_keeps_tags(cache):
    cache.set("k", 1, tags=["t"])
    assert cache.incr_version("k") == 2
    assert (cache.get("k"), cache.get("k", version=2)) == (None, 1)
    assert cache.invalidate_tags("t") == 1


def test_async_version_changes_keep_tags(cache):
    async def change():
        await cache.aset("k", 1, tags=["t"])
        return [await cache.aincr_version("k"), await cache.adecr_version("k", version=2)]

    assert asyncio.run(change()) == [2, 1]
    assert cache.invalidate_tags("t") == 1


def test_clear_leaves_other_types(cache, client):
    client.set("session", "x")
    cache.set("k", 1)
    assert cache.clear()
    assert client.dbsize() == 1


def test_callable_default_is_called_once_and_none_is_cached(cache):
    calls = []
    for _ in range(2):
        assert cache.get_or_set("k", lambda: calls.append(1)) is None
    assert calls == [1]


def test_value_read_before_an_invalidation_is_not_cached(cache):
    def load():
        cache.invalidate_tags("t")
        return "old"

    assert cache.get_or_set("k", load, tags=["t"]) == "old"
    assert "k" not in cache


def test_undecodable_bytes_are_a_miss(cache, client, caplog):
    call(client, "CACHE.SET", ":1:k", b"\x80garbage")
    assert cache.get("k", "default") == "default"
    assert cache.get_many(["k"]) == {}
    assert "cannot be decoded" in caplog.text
    assert cache.get_or_set("k", lambda: "new") == "new"
    assert cache.get("k") == "new"


def test_server_errors_are_raised(cache, client):
    client.set(":1:k", "native")
    for method in (cache.get, cache.delete, cache.incr):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            method("k")
    with pytest.raises(redis.ResponseError, match="tag"):
        cache.set("other", 1, tags=[""])


def test_string_instead_of_a_list_of_tags_is_refused(cache):
    with pytest.raises(TypeError, match="list"):
        cache.set("k", 1, tags="tenant")


@pytest.mark.parametrize("tag", [b"tenant", ["a", "b"], None])
def test_tag_that_is_not_a_string_is_refused(cache, tag):
    with pytest.raises(TypeError, match="string"):
        cache.set("k", 1, tags=[tag])
    with pytest.raises(TypeError, match="string"):
        cache.invalidate_tags(tag)


def test_incr_by_a_fraction_is_refused_and_changes_nothing(cache):
    cache.set("n", 5)
    with pytest.raises(TypeError):
        cache.incr("n", 1.5)
    assert cache.get("n") == 5


def test_error_names_the_fix_if_the_module_is_missing():
    cache = cache_of("TAGCACHE_BARE_PORT")
    for use in (lambda: cache.get("k"), lambda: cache.set("k", 1), lambda: cache.incr("k"), cache.clear):
        with pytest.raises(ModuleMissing, match="load tagcache.so"):
            use()


def test_async_methods_accept_tags(cache):
    async def use():
        await cache.aset("a", 1, tags=["t"])
        await cache.aadd("b", 2, tags=["t"])
        await cache.aset_many({"c": 3}, tags=["t"])
        assert await cache.aget_or_set("d", lambda: 4, tags=["t"]) == 4
        assert await cache.aincr("a") == 2
        return await cache.ainvalidate_tags("t")

    assert asyncio.run(use()) == 4


def test_async_value_read_before_an_invalidation_is_not_cached(cache):
    def load():
        cache.invalidate_tags("t")
        return "old"

    assert asyncio.run(cache.aget_or_set("k", load, tags=["t"])) == "old"
    assert "k" not in cache
