"""A thin helper for redis-py: JSON values with tags, and loads under a lease. Copy it into your application.

    cache = Cache(redis.Redis(), prefix="shop:")
    user = cache.get_or_load("user:7", lambda: query(7), ttl=300, tags=["tenant:7"])
    cache.invalidate("tenant:7")

    cache = AsyncCache(redis.asyncio.Redis(), prefix="shop:")
    user = await cache.get_or_load("user:7", query_7, ttl=300, tags=["tenant:7"])

`prefix` stands before each key and each tag: applications that share a database do not share tags. Pass keys and
tags without it.

Only the Rust client has a local tier (here every read is a round trip), repeats invalidations to a server that was
unreachable, and supports clusters. Here a failed invalidation raises an error, and the caller must repeat it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar

from redis.client import NEVER_DECODE

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]
# The steps of a load: each is a command to run, or None, which runs the loader.
Steps = Generator[Command | None, Any, Any]


class _Commands:
    def __init__(self, client: Any, prefix: str = "", lease: float = 10, wait: float = 5) -> None:
        """`lease`: seconds that a load may take before another caller loads too. `wait`: seconds that a caller waits for
        another one's load; then it loads as well and stores nothing. Keep it below the client's socket_timeout."""
        self._client, self._prefix = client, prefix
        self._lease_ms, self._wait_ms = _ms(lease), _ms(wait)

    def _key(self, key: str) -> str:
        return self._prefix + key

    def _tags(self, tags: Sequence[str]) -> Command:
        if isinstance(tags, str):
            raise TypeError("tags is a list of strings, not one string")
        return ("TAGS", len(tags), *(self._prefix + tag for tag in tags))

    def _set(self, key: str, value: Any, ttl: float, tags: Sequence[str], grace: float, *lease: str | int) -> Command:
        times: Command = ("PX", _ms(ttl), "GRACE", _ms(grace))
        return ("CACHE.SET", self._key(key), json.dumps(value), *times, *lease, *self._tags(tags))

    def _invalidate(self, tags: tuple[str, ...], soft: bool) -> Command:
        name = "CACHE.REVALIDATE" if soft else "CACHE.INVALIDATE"
        return (name, *(self._prefix + tag for tag in tags))

    def _loading(self, key: str, ttl: float, tags: Sequence[str], grace: float) -> Steps:
        self._tags(tags)  # A mistake is reported before anything is loaded.
        token = secrets.randbelow(2**53 - 1) + 1
        ask = ("LEASE", self._lease_ms, "TOKEN", token, "WAIT", self._wait_ms)
        state, data, _, granted, _ = yield ("CACHE.FETCH", self._key(key), *ask)
        if state == b"HIT" or (state == b"STALE" and not granted):
            return json.loads(data)
        try:
            value = yield None
        except BaseException as error:
            if granted:
                yield ("CACHE.RELEASE", self._key(key), token)
            # A stale value is better than an error.
            if data is None or not isinstance(error, Exception):
                raise
            return json.loads(data)
        if granted:
            # A nil reply is no error: one of the tags was invalidated during the load, so the value is not cached.
            yield self._set(key, value, ttl, tags, grace, "LEASE", token)
        return value


def _ms(seconds: float) -> int:
    return -int(-seconds * 1000 // 1)


class Cache(_Commands):
    """On a `redis.Redis`."""

    def _run(self, command: Command) -> Any:
        return self._client.execute_command(*command, **{NEVER_DECODE: True})

    def get(self, key: str) -> Any | None:
        data = self._run(("CACHE.GET", self._key(key)))
        return None if data is None else json.loads(data)

    def set(self, key: str, value: Any, ttl: float, tags: Sequence[str] = (), grace: float = 0) -> None:
        self._run(self._set(key, value, ttl, tags, grace))

    def invalidate(self, *tags: str, soft: bool = False) -> int:
        """Drops the entries with one of these tags, or makes them stale, and returns their number."""
        return int(self._run(self._invalidate(tags, soft)))

    def get_or_load(
        self, key: str, load: Callable[[], T], *, ttl: float, tags: Sequence[str] = (), grace: float = 0
    ) -> T:
        """The cached value, or that of `load()`. One caller of all processes loads; the others wait, or get the
        stale value for up to `grace` seconds after it expired."""
        steps = self._loading(key, ttl, tags, grace)
        result, act = None, steps.send
        while True:
            try:
                step = act(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                result, act = (load() if step is None else self._run(step)), steps.send
            except BaseException as error:
                result, act = error, steps.throw


class AsyncCache(_Commands):
    """On a `redis.asyncio.Redis`. A wait holds one connection of its pool."""

    async def _run(self, command: Command) -> Any:
        return await self._client.execute_command(*command, **{NEVER_DECODE: True})

    async def get(self, key: str) -> Any | None:
        data = await self._run(("CACHE.GET", self._key(key)))
        return None if data is None else json.loads(data)

    async def set(self, key: str, value: Any, ttl: float, tags: Sequence[str] = (), grace: float = 0) -> None:
        await self._run(self._set(key, value, ttl, tags, grace))

    async def invalidate(self, *tags: str, soft: bool = False) -> int:
        """As `Cache.invalidate`."""
        return int(await self._run(self._invalidate(tags, soft)))

    async def get_or_load(
        self, key: str, load: Callable[[], Awaitable[T]], *, ttl: float, tags: Sequence[str] = (), grace: float = 0
    ) -> T:
        """As `Cache.get_or_load`."""
        steps = self._loading(key, ttl, tags, grace)
        result, act = None, steps.send
        while True:
            try:
                step = act(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                result, act = (await load() if step is None else await self._run(step)), steps.send
            except BaseException as error:
                result, act = error, steps.throw
