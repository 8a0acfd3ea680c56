"""A Django cache backend: django.core.cache.backends.redis.RedisCache, with tags.

    CACHES = {"default": {"BACKEND": "tagcache.django.TagcacheCache", "LOCATION": "redis://127.0.0.1:6379/1"}}

    cache.set("page:7", page, 300, tags=["tenant:7"])
    cache.invalidate_tags("tenant:7")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import redis
from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.redis import RedisCache, RedisCacheClient

from .command import Argument, call, explaining, listed, logger, tags_option
from .load import get_or_load, get_or_load_async

Tags = Iterable[str]
Version = int | None


class TagcacheClient(RedisCacheClient):
    """Runs the commands. Takes the options of Django's own client, and these.

    tag_prefix: stands before each tag, so that projects on one server do not share tags.
    lease: seconds that the callable of `get_or_set` may take before another process loads too.
    grace: seconds for which `get_or_set` may serve a value after its expiry, while one process loads it anew.
    """

    def __init__(self, servers: Any, tag_prefix: str = "", lease: float = 10, grace: float = 0, **options: Any) -> None:
        super().__init__(servers, **options)
        self._tag_prefix, self._lease, self._grace = tag_prefix, lease, grace

    def _write(self, key: str | None, *command: Argument) -> Any:
        return call(self.get_client(key, write=True), *command)

    def _decoded(self, key: str, data: bytes | None, default: Any) -> Any:
        """The value, or the default: for a miss, and for bytes that cannot be decoded."""
        if data is None:
            return default
        try:
            return self._serializer.loads(data)
        except Exception:
            logger.warning("tagcache: %r holds a value that cannot be decoded, which counts as a miss", key, exc_info=True)
            return default

    def tags(self, tags: Tags) -> list[str]:
        """With the prefix before each."""
        return [f"{self._tag_prefix}{tag}" for tag in listed(tags)]

    def add(self, key: str, value: Any, timeout: int | None, tags: Tags = ()) -> bool:
        data = self._serializer.dumps(value)
        if timeout == 0:
            # Nothing is stored; the result says whether it could have been.
            return not self._write(key, "CACHE.EXISTS", key)
        return bool(self._write(key, "CACHE.SET", key, data, *_expiry(timeout), "NX", *tags_option(self.tags(tags))))

    def get(self, key: str, default: Any) -> Any:
        return self._decoded(key, call(self.get_client(key), "CACHE.GET", key), default)

    def set(self, key: str, value: Any, timeout: int | None, tags: Tags = ()) -> None:
        self.set_many({key: value}, timeout, tags)

    def touch(self, key: str, timeout: int | None) -> bool:
        return bool(self._write(key, "CACHE.TOUCH", key, *(_expiry(timeout) or ("PERSIST",))))

    def delete(self, key: str) -> bool:
        return bool(self._write(key, "CACHE.DEL", key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        keys, absent = list(keys), object()
        found = call(self.get_client(None), "CACHE.MGET", *keys) if keys else []
        values = {key: self._decoded(key, data, absent) for key, data in zip(keys, found)}
        return {key: value for key, value in values.items() if value is not absent}

    def has_key(self, key: str) -> bool:
        return bool(call(self.get_client(key), "CACHE.EXISTS", key))

    def incr(self, key: str, delta: int) -> int:
        """Atomic: WATCH, and again if another client came between. Keeps time to live and tags."""
        changed = 0

        def change(pipeline: Any) -> None:
            nonlocal changed
            data = call(pipeline, "CACHE.GET", key)
            if data is None:
                raise ValueError(f"Key '{key}' not found.")
            try:
                changed = int(data) + delta
            except ValueError:
                raise redis.ResponseError("value is not an integer or out of range") from None
            pipeline.multi()
            call(pipeline, "CACHE.SET", key, changed, "XX", "KEEPTTL", "KEEPTAGS")

        with explaining():
            replies = self.get_client(key, write=True).transaction(change, key)
        if not replies[0]:
            # An invalidation came between, which WATCH need not notice and XX does.
            raise ValueError(f"Key '{key}' not found.")
        return changed

    def set_many(self, data: Mapping[str, Any], timeout: int | None, tags: Tags = ()) -> None:
        pairs = [part for key, value in data.items() for part in (key, self._serializer.dumps(value))]
        if timeout == 0:
            self.delete_many(data)
        else:
            self._write(pairs[0], "CACHE.MSET", len(data), *pairs, *_expiry(timeout), *tags_option(self.tags(tags)))

    def delete_many(self, keys: Iterable[str]) -> None:
        self._write(None, "CACHE.DEL", *keys)

    def clear(self) -> bool:
        """Drops all entries of the database. Keys of other types stay."""
        self._write(None, "CACHE.FLUSH")
        return True

    def load_options(self, timeout: int | None, tags: Tags) -> dict[str, Any]:
        """Those of `get_or_load`."""
        times = {"ttl": timeout, "grace": self._grace, "lease": self._lease}
        return {**times, "tags": self.tags(tags), "dumps": self._serializer.dumps, "loads": self._serializer.loads}


def _expiry(timeout: int | None) -> tuple[Argument, ...]:
    return () if timeout is None else ("EX", timeout)


class _InThread:
    """A `redis.Redis` for coroutines, in the thread in which Django runs synchronous code."""

    def __init__(self, client: Any) -> None:
        self.connection_pool, self.execute_command = client.connection_pool, sync_to_async(client.execute_command)


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
        """Does not wait for another process: that would hold up the thread in which Django runs synchronous code."""
        key = self.make_and_validate_key(key, version=version)
        options = self._cache.load_options(self.get_backend_timeout(timeout), tags)

        async def load() -> Any:
            return default() if callable(default) else default

        return await get_or_load_async(_InThread(self._cache.get_client(key, write=True)), key, load, wait=0, **options)

    def incr_version(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """Renames the entry, which keeps its time to live and its tags."""
        before: int = self.version if version is None else version
        old, new = (self.make_and_validate_key(key, version=number) for number in (before, before + delta))
        client = self._cache.get_client(old, write=True)
        if not (call(client, "CACHE.EXISTS", old) and client.rename(old, new)):
            raise ValueError(f"Key '{key}' not found")
        return before + delta

    def invalidate_tags(self, *tags: str) -> int:
        """Drops all entries with one of these tags, and returns their number. Its time does not grow with it."""
        names = self._cache.tags(tags)
        return int(call(self._cache.get_client(write=True), "CACHE.INVALIDATE", *names)) if names else 0

    aadd, aset, aset_many, aincr, ainvalidate_tags = map(_in_thread, "add set set_many incr invalidate_tags".split())
