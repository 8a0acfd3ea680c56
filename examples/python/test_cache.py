"""Tests of cache.py; scripts/test-helpers runs them beside a server, whose port is in TAGCACHE_PORT."""

import asyncio
import os
import threading
import time
import unittest

import redis
import redis.asyncio

from cache import AsyncCache, Cache

PORT = int(os.environ["TAGCACHE_PORT"])


def waiters(client):
    stats = client.execute_command("CACHE.STATS")
    stats = stats if isinstance(stats, dict) else dict(zip(stats[::2], stats[1::2]))
    return int(stats[b"lease_waiters"])


def until(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


class Sync(unittest.TestCase):
    def setUp(self):
        self.client = redis.Redis(port=PORT)
        self.client.flushall()
        self.cache = Cache(self.client, prefix="shop:")

    def tearDown(self):
        self.client.close()

    def test_one_caller_loads_and_the_others_wait(self):
        loads, values = [], []

        def load():
            loads.append(1)
            until(lambda: waiters(self.client) == 3)
            return {"name": "Ada"}

        def read():
            values.append(self.cache.get_or_load("user:7", load, ttl=60, tags=["tenant:7"]))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((len(loads), values), (1, [{"name": "Ada"}] * 4))

    def test_value_loaded_before_an_invalidation_is_not_cached(self):
        def load():
            self.cache.invalidate("tenant:7")
            return "old"

        self.assertEqual(self.cache.get_or_load("user:7", load, ttl=60, tags=["tenant:7"]), "old")
        self.assertIsNone(self.cache.get("user:7"))

    def test_stale_value_is_served_during_a_load_and_if_the_load_fails(self):
        self.cache.set("user:7", "old", 60, ["tenant:7"], grace=60)
        self.assertEqual(self.cache.invalidate("tenant:7", soft=True), 1)

        def load():
            self.assertEqual(self.cache.get_or_load("user:7", self.fail, ttl=60), "old")
            raise ConnectionError("the database is away")

        self.assertEqual(self.cache.get_or_load("user:7", load, ttl=60, tags=["tenant:7"], grace=60), "old")
        self.assertEqual(self.cache.get_or_load("user:7", lambda: "new", ttl=60, tags=["tenant:7"]), "new")
        self.assertEqual(self.cache.get("user:7"), "new")

    def test_failed_load_raises_and_releases_the_lease(self):
        with self.assertRaises(ZeroDivisionError):
            self.cache.get_or_load("user:7", lambda: 1 // 0, ttl=60)
        self.assertEqual(self.cache.get_or_load("user:7", lambda: 2, ttl=60), 2)
        self.assertEqual(self.cache.get("user:7"), 2)

    def test_prefix_is_added_to_keys_and_tags(self):
        self.cache.set("user:7", 1, 60, ["tenant:7"])
        self.assertEqual(Cache(self.client, prefix="blog:").invalidate("tenant:7"), 0)
        self.assertEqual(self.client.execute_command("CACHE.GET", "shop:user:7"), b"1")
        self.assertEqual(self.client.execute_command("CACHE.INVALIDATE", "shop:tenant:7"), 1)

    def test_string_instead_of_a_list_of_tags_is_refused(self):
        with self.assertRaises(TypeError):
            self.cache.get_or_load("user:7", self.fail, ttl=60, tags="tenant:7")


class Async(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = redis.asyncio.Redis(port=PORT)
        await self.client.flushall()
        self.cache = AsyncCache(self.client, prefix="shop:")

    async def asyncTearDown(self):
        await self.client.aclose()

    async def test_one_caller_loads_and_the_others_wait(self):
        loads = []
        with redis.Redis(port=PORT) as observer:

            async def load():
                loads.append(1)
                while waiters(observer) < 3:
                    await asyncio.sleep(0.005)
                return {"name": "Ada"}

            reads = (self.cache.get_or_load("user:7", load, ttl=60, tags=["tenant:7"]) for _ in range(4))
            values = await asyncio.wait_for(asyncio.gather(*reads), 30)
        self.assertEqual((len(loads), values), (1, [{"name": "Ada"}] * 4))

    async def test_value_loaded_before_an_invalidation_is_not_cached(self):
        async def load():
            await self.cache.invalidate("tenant:7")
            return "old"

        self.assertEqual(await self.cache.get_or_load("user:7", load, ttl=60, tags=["tenant:7"]), "old")
        self.assertIsNone(await self.cache.get("user:7"))

    async def test_failed_load_raises_or_serves_the_stale_value(self):
        async def load():
            raise ConnectionError("the database is away")

        with self.assertRaises(ConnectionError):
            await self.cache.get_or_load("user:7", load, ttl=60)
        await self.cache.set("user:7", "old", 60, ["tenant:7"], grace=60)
        self.assertEqual(await self.cache.invalidate("tenant:7", soft=True), 1)
        self.assertEqual(await self.cache.get_or_load("user:7", load, ttl=60, tags=["tenant:7"]), "old")


if __name__ == "__main__":
    unittest.main()
