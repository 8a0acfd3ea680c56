"""`get_or_load`: one caller of all processes loads a missing value, the others wait for it.

A value that was read from the database before an invalidation is never cached after it: the server refuses the write.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, Generic, Required, TypedDict, TypeVar, Unpack

from redis.exceptions import RedisError

from .cluster import socket_timeout
from .command import Argument, call, call_async, fetched, logger, milliseconds, new_token, tags_option

T = TypeVar("T")
Tags = Iterable[str | bytes]
# One step of a load, which the caller of `_steps` executes: the loader (None), or a command.
_Step = tuple[Argument, ...] | None

SLICE_MS = 30_000
"""The longest wait of one command; a longer one is cut into slices."""


class Options(TypedDict, Generic[T], total=False):
    """How a value is loaded and stored."""

    ttl: Required[float | None]
    """Seconds until the value expires; None: `tagcache.default-ttl-ms` applies; zero or less: it is not stored."""
    grace: float
    """Seconds for which a stale value may be served after expiry or a soft invalidation, while one caller loads; 0."""
    tags: Tags | Callable[[T], Tags]
    """The entry's tags, or a function from the value to its tags."""
    lease: float
    """Seconds that a load may take until another caller loads too; 10, at most `tagcache.lease-max-ms`."""
    wait: float
    """Seconds to wait for another caller's load, by default those of `lease`; then this caller loads uncached."""
    dumps: Callable[[T], bytes]
    """Converts a value to bytes; without it values are bytes."""
    loads: Callable[[bytes], T]
    """Converts bytes to a value. If it raises, the error is logged and the value counts as a miss."""


def get_or_load(client: Any, key: str | bytes, load: Callable[[], T], **options: Unpack[Options[T]]) -> T:
    """Returns the cached value of `key`, or that of `load()`, and caches it.

    `client` is a `redis.Redis` or `redis.RedisCluster`. A wait occupies one connection of its pool. One to three round trips.
    Raises the errors of `load`, unless a stale value can be served, and those of redis-py if the read fails. If a
    loaded value cannot be written, it is returned and the error is logged.
    """
    steps: Generator[_Step, Any, T] = _steps(key, _longest_wait(client), **options)
    try:
        step = next(steps)
        while True:
            try:
                result = call(client, *step) if step else load()
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        loaded: T = end.value
        return loaded


async def get_or_load_async(
    client: Any, key: str | bytes, load: Callable[[], Awaitable[T]], **options: Unpack[Options[T]]
) -> T:
    """As `get_or_load`, with a `redis.asyncio.Redis` or its `RedisCluster`, and a coroutine function."""
    steps: Generator[_Step, Any, T] = _steps(key, _longest_wait(client), **options)
    try:
        step = next(steps)
        while True:
            try:
                result = await (call_async(client, *step) if step else load())
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        loaded: T = end.value
        return loaded


def _longest_wait(client: Any) -> int:
    """Milliseconds that one command may wait before redis-py considers the connection dead."""
    timeout = socket_timeout(client)
    return SLICE_MS if timeout is None else min(SLICE_MS, milliseconds(timeout / 2))


def _steps(
    key: str | bytes,
    longest_wait: int,
    *,
    ttl: float | None,
    grace: float = 0,
    tags: Tags | Callable[[Any], Tags] = (),
    lease: float = 10,
    wait: float | None = None,
    dumps: Callable[[Any], bytes] | None = None,
    loads: Callable[[bytes], Any] | None = None,
) -> Generator[_Step, Any, Any]:
    """The logic of a load: yields each step to its caller and receives the result."""
    token = new_token()
    deadline = time.monotonic() + (lease if wait is None else wait)
    discarded = False
    while True:
        begun = time.monotonic()
        left = max(0, milliseconds(deadline - begun))
        patience = ("WAIT", min(left, longest_wait)) if left else ()
        found = fetched((yield ("CACHE.FETCH", key, "LEASE", milliseconds(lease), "TOKEN", token, *patience)))
        held: Any = None
        if found.value is not None:
            try:
                held = loads(found.value) if loads else found.value
            except Exception:
                logger.warning("tagcache: %r holds a value that cannot be decoded; it is loaded anew", key, exc_info=True)
                if discarded:
                    return (yield None)
                discarded = True
                yield ("CACHE.DEL", key)
                # The removal ends the lease too, and the server does not grant a token again.
                token = new_token()
                continue
            if found.state == "HIT" or not found.token:
                return held
        # A server that grants no leases (a replica, or one at its limits) does not wait either.
        waited_ms = (time.monotonic() - begun) * 1000
        if found.token or left <= longest_wait or waited_ms < longest_wait / 2:
            break

    try:
        value = yield None
    except BaseException as error:
        if found.token:
            yield from _logged("release the lease of", key, ("CACHE.RELEASE", key, token))
        if found.value is None or not isinstance(error, Exception):
            raise
        logger.warning("tagcache: the load of %r failed, the stale value is served", key, exc_info=True)
        return held
    if found.token and ttl is not None and ttl <= 0:
        yield from _logged("release the lease of", key, ("CACHE.RELEASE", key, token))
    elif found.token:
        try:
            data = dumps(value) if dumps else value
            listed = tags_option(tags(value) if callable(tags) else tags)
            times: tuple[Argument, ...] = () if ttl is None else ("PX", milliseconds(ttl))
            if grace:
                times += ("GRACE", milliseconds(grace))
        except BaseException:
            yield from _logged("release the lease of", key, ("CACHE.RELEASE", key, token))
            raise
        # A nil reply is no error: a tag was invalidated while the value was loaded.
        written = yield from _logged("write", key, ("CACHE.SET", key, data, *times, "LEASE", token, *listed))
        if not written:
            yield from _logged("release the lease of", key, ("CACHE.RELEASE", key, token))
    return value


def _logged(what: str, key: str | bytes, command: tuple[Argument, ...]) -> Generator[_Step, Any, bool]:
    """Runs a command after a load and logs an error of the server, which must not replace the load's result."""
    try:
        yield command
    except RedisError:
        logger.error("tagcache: cannot %s %r", what, key, exc_info=True)
        return False
    return True
