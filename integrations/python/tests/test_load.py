"""`get_or_load` and `get_or_load_async`."""

import asyncio
import logging
import os
import threading

import pytest
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from tagcache import ModuleMissing, call, get_or_load, get_or_load_async


def state(client, key):
    return call(client, "CACHE.FETCH", key)[0]


def grant(client, key, *more):
    return call(client, "CACHE.FETCH", key, "LEASE", 5000, *more)[3]


def test_value_is_loaded_once_and_then_served(client):
    loads = []

    def load():
        loads.append(1)
        return b"value"

    for _ in range(2):
        assert get_or_load(client, "k", load, ttl=60, tags=["t"]) == b"value"
    assert len(loads) == 1
    assert call(client, "CACHE.FETCH", "k")[4] == [b"t"]
    assert 0 < client.pttl("k") <= 60_000


def test_tags_can_depend_on_the_value(client):
    get_or_load(client, "k", lambda: b"7", ttl=60, tags=lambda value: [b"row:" + value])
    assert call(client, "CACHE.INVALIDATE", "row:7") == 1


def test_only_one_of_many_threads_loads(client):
    loads, barrier = [], threading.Barrier(8)

    def load():
        loads.append(1)
        return b"value"

    found = []

    def run():
        barrier.wait(timeout=30)
        found.append(get_or_load(client, "k", load, ttl=60))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == [b"value"] * 8
    assert len(loads) == 1


def test_value_read_before_an_invalidation_is_returned_but_not_cached(client):
    def load():
        call(client, "CACHE.INVALIDATE", "t")
        return b"old"

    assert get_or_load(client, "k", load, ttl=60, tags=["t"]) == b"old"
    assert state(client, "k") == b"MISS"


def test_value_with_a_ttl_of_zero_is_not_cached(client):
    assert get_or_load(client, "k", lambda: b"value", ttl=0) == b"value"
    assert state(client, "k") == b"MISS"
    assert grant(client, "k")


def test_failed_load_releases_its_lease(client):
    def load():
        raise LookupError("no row")

    with pytest.raises(LookupError):
        get_or_load(client, "k", load, ttl=60)
    assert grant(client, "k")


def test_lease_is_released_if_the_value_cannot_be_encoded(client):
    def dumps(value):
        raise TypeError("not for caches")

    with pytest.raises(TypeError, match="not for caches"):
        get_or_load(client, "k", lambda: b"value", ttl=60, dumps=dumps)
    assert grant(client, "k")


def test_stale_value_is_served_while_another_caller_loads(client):
    call(client, "CACHE.SET", "k", "old", "GRACE", 60000, "TAGS", 1, "t")
    call(client, "CACHE.REVALIDATE", "t")
    assert grant(client, "k")
    assert get_or_load(client, "k", lambda: pytest.fail("loads"), ttl=60) == b"old"


def test_stale_value_is_served_if_the_load_fails(client, caplog):
    call(client, "CACHE.SET", "k", "old", "GRACE", 60000, "TAGS", 1, "t")
    call(client, "CACHE.REVALIDATE", "t")
    assert get_or_load(client, "k", lambda: 1 // 0, ttl=60) == b"old"
    assert "ZeroDivisionError" in caplog.text
    assert get_or_load(client, "k", lambda: b"new", ttl=60) == b"new"


def test_caller_loads_without_caching_after_its_wait_times_out(client):
    assert grant(client, "k")
    assert get_or_load(client, "k", lambda: b"own", ttl=60, wait=0.05) == b"own"
    assert state(client, "k") == b"MISS"


class ImpatientConnection(redis.Connection):
    """As in redis-py 8, with a time-out that the options of a pool made from a URL do not contain."""

    def __init__(self, socket_timeout=1, **options):
        super().__init__(socket_timeout=socket_timeout, **options)


@pytest.mark.parametrize("timeout", [{"socket_timeout": 1}, {"connection_class": ImpatientConnection}])
def test_wait_longer_than_the_socket_timeout_ends_with_the_value(client, timeout):
    token = grant(client, "k")
    # Without retries, which would hide a dropped connection.
    options = {"retry": Retry(NoBackoff(), 0), **timeout}
    impatient = redis.Redis.from_url(f"redis://127.0.0.1:{os.environ['TAGCACHE_PORT']}", **options)
    writer = threading.Timer(1.2, call, (client, "CACHE.SET", "k", "theirs", "LEASE", token))
    writer.start()
    assert get_or_load(impatient, "k", lambda: pytest.fail("loads"), ttl=60) == b"theirs"
    writer.join(timeout=30)


def test_undecodable_value_is_loaded_again(client, caplog):
    call(client, "CACHE.SET", "k", b"\xff")
    options = {"ttl": 60, "dumps": str.encode, "loads": bytes.decode}
    assert get_or_load(client, "k", lambda: "text", **options) == "text"
    assert "cannot be decoded" in caplog.text
    assert get_or_load(client, "k", lambda: pytest.fail("loads"), **options) == "text"


def test_refused_write_is_logged_and_the_value_returned(client, caplog):
    assert get_or_load(client, "k", lambda: b"value", ttl=60, tags=[""]) == b"value"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert grant(client, "k")


def test_key_of_another_type_is_an_error(client):
    client.set("k", "native")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        get_or_load(client, "k", lambda: b"value", ttl=60)


def test_error_names_the_fix_if_the_module_is_missing(bare_client):
    with pytest.raises(ModuleMissing, match="load tagcache.so"):
        get_or_load(bare_client, "k", lambda: b"value", ttl=60)


def test_string_instead_of_a_list_of_tags_is_refused(client):
    with pytest.raises(TypeError, match="list"):
        get_or_load(client, "k", lambda: b"value", ttl=60, tags="tenant")


def run_async(test, **options):
    async def connected():
        async with redis.asyncio.Redis(host="127.0.0.1", port=int(os.environ["TAGCACHE_PORT"]), **options) as client:
            return await asyncio.wait_for(test(client), 30)

    return asyncio.run(connected())


def test_only_one_of_many_tasks_loads(client):
    loads = []

    async def load():
        loads.append(1)
        await asyncio.sleep(0)
        return b"value"

    async def test(connected):
        return await asyncio.gather(*(get_or_load_async(connected, "k", load, ttl=60) for _ in range(8)))

    # Values are bytes even if the client decodes replies, and in RESP3.
    assert run_async(test, decode_responses=True, protocol=3) == [b"value"] * 8
    assert len(loads) == 1


def test_cancelled_load_releases_its_lease(client):
    async def test(connected):
        started = asyncio.Event()

        async def load():
            started.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(get_or_load_async(connected, "k", load, ttl=60))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_async(test)
    assert grant(client, "k")
