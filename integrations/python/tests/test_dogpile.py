"""Tags, leases and bad input of the dogpile.cache backend, which dogpile's own tests do not cover."""

import os
import threading

import pytest
import redis
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

from tagcache import ModuleMissing, call
from tagcache.dogpile import tagged


def region_of(port="TAGCACHE_PORT", **arguments):
    arguments = {"port": int(os.environ[port]), "distributed_lock": True, **arguments}
    return make_region().configure("tagcache", arguments=arguments)


@pytest.fixture
def region(client):
    return region_of()


def test_invalidation_drops_entries_with_the_tag(region):
    with tagged("t"):
        region.set("a", 1)
        with tagged("u"):
            region.set_multi({"b": 2})
            region.get_or_create("c", lambda: 3)
    region.set("d", 4)
    assert region.actual_backend.invalidate_tags("u") == 2
    assert region.get_multi(["a", "b", "c", "d"]) == [1, NO_VALUE, NO_VALUE, 4]
    assert region.actual_backend.invalidate_tags("t") == 1
    assert region.actual_backend.invalidate_tags() == 0


def test_key_tags_function_sets_tags_by_key(client):
    region = region_of(key_tags=lambda key: [key.split(":")[0]])
    region.set("user:1", "a")
    region.set_multi({"user:2": "b", "page:1": "c"})
    assert region.actual_backend.invalidate_tags("user") == 2


def test_string_instead_of_a_list_of_tags_is_refused(client):
    with pytest.raises(TypeError, match="list"):
        region_of(key_tags=lambda key: "user").set("k", 1)


def test_value_read_before_an_invalidation_is_not_cached(region):
    def create():
        region.actual_backend.invalidate_tags("t")
        return "old"

    with tagged("t"):
        assert region.get_or_create("k", create) == "old"
    assert region.get("k") is NO_VALUE
    assert region.actual_backend.leases == {}


def test_value_is_not_stored_without_the_lease(region, client):
    # As a loader in another language, which does not use dogpile's lock.
    assert call(client, "CACHE.FETCH", "k", "LEASE", 60_000, "TOKEN", 77)[3] == 77
    with tagged("t"):
        assert region.get_or_create("k", lambda: "own") == "own"
        assert region.get_or_create_multi(["k"], lambda *keys: ["own"]) == ["own"]
    assert region.get("k") is NO_VALUE
    assert region.actual_backend.leases == {}
    region.set("k", "set")
    assert region.get("k") == "set"


def test_creator_that_outlasts_its_lock_stores_nothing(client):
    region = region_of(lock_timeout=0.05)
    is_read, may_end = threading.Event(), threading.Event()

    def old():
        is_read.set()
        assert may_end.wait(timeout=30)
        return "old"

    def new():
        region.actual_backend.invalidate_tags("t")
        may_end.set()
        thread.join(timeout=30)
        # Its end did not release the lock and the lease of the other one.
        assert region.actual_backend.leases
        region.actual_backend.invalidate_tags("t")
        return "new"

    def create(creator):
        with tagged("t"):
            region.get_or_create("k", creator)

    thread = threading.Thread(target=create, args=(old,))
    thread.start()
    assert is_read.wait(timeout=30)
    create(new)
    assert region.get("k") is NO_VALUE
    assert region.actual_backend.leases == {}


def test_value_set_by_its_creator_is_checked_for_invalidations_again(region):
    def create():
        region.set("k", "first")
        region.actual_backend.invalidate_tags("t")
        return "old"

    with tagged("t"):
        assert region.get_or_create("k", create) == "old"
    assert region.get("k") is NO_VALUE


def test_failed_creator_releases_lock_and_lease(region, client):
    with pytest.raises(ZeroDivisionError):
        region.get_or_create("k", lambda: 1 // 0)
    assert not region.key_is_locked("k")
    assert call(client, "CACHE.FETCH", "k", "LEASE", 1000)[3]
    assert region.actual_backend.leases == {}


def test_only_one_of_two_processes_creates(client):
    """Two regions act as two processes: they share only the server's lock."""
    regions, creations, barrier = (region_of(), region_of()), [], threading.Barrier(2)

    def run(region):
        barrier.wait(timeout=30)
        region.get_or_create("k", lambda: creations.append(1))

    threads = [threading.Thread(target=run, args=(region,)) for region in regions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert creations == [1]


def test_lock_wait_ends_at_its_limit(client):
    backend = region_of(lock_blocking_timeout=0.05).actual_backend
    assert backend.get_mutex("k").acquire()
    assert not backend.get_mutex("k").acquire()


def test_lease_requests_pause_while_the_lease_is_not_granted(client, monkeypatch):
    pauses = []
    monkeypatch.setattr("tagcache.dogpile.time.sleep", pauses.append)
    monkeypatch.setattr("tagcache.dogpile.LeaseMutex._ask", lambda *command: len(pauses) == 3)
    assert region_of(lock_sleep=0.5).actual_backend.get_mutex("k").acquire()
    assert pauses == [0.5] * 3


def test_undecodable_bytes_are_a_miss(region, client, caplog):
    call(client, "CACHE.SET", "k", b'{"ct": 1, "v": 2}|\x80garbage')
    assert region.get("k") is NO_VALUE
    assert "cannot be decoded" in caplog.text


def test_server_errors_are_raised(region, client):
    client.set("k", "native")
    for use in (lambda: region.get("k"), lambda: region.set("k", 1), lambda: region.delete("k")):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            use()


def test_error_names_the_fix_if_the_module_is_missing():
    region = region_of("TAGCACHE_BARE_PORT")
    uses = [
        lambda: region.get("k"),
        lambda: region.set_multi({"k": 1}),
        lambda: region.get_or_create("k", lambda: 1),
    ]
    for use in uses:
        with pytest.raises(ModuleMissing, match="load tagcache.so"):
            use()
