"""The commands of the Django backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index
from typing import Any

import redis
from django.core.cache.backends.redis import RedisCacheClient
from redis.cluster import RedisCluster

from .cluster import call_all, node_of, together
from .command import Argument, call, explaining, fetched, listed, logger, tags_option

Tags = Iterable[str]


class TagcacheClient(RedisCacheClient):
    """Runs the commands. Takes the options of Django's own client, and these:

    tag_prefix: stands before each tag, so that projects on one server do not share tags.
    lease: seconds that the callable of `get_or_set` may take before another process loads too.
    grace: seconds for which `get_or_set` may serve a value after its expiry, while one process loads it anew.
    cluster: the servers are nodes of a Redis Cluster; all other options are then those of redis.RedisCluster.
    """

    def __init__(
        self,
        servers: Any,
        tag_prefix: str = "",
        lease: float = 10,
        grace: float = 0,
        cluster: bool = False,
        serializer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(servers, serializer, **({} if cluster else options))
        self._tag_prefix, self._lease, self._grace = tag_prefix, lease, grace
        # redis-py annotates neither of them.
        from_url: Any = RedisCluster.from_url
        self._cluster = from_url(servers[0], **options) if cluster else None

    def get_client(self, key: str | None = None, *, write: bool = False) -> Any:
        return self._cluster or super().get_client(key, write=write)

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
        """The tags with the prefix. Only strings are allowed: a list in place of a tag would become one tag."""
        names = listed(tags)
        if not all(isinstance(tag, str) for tag in names):
            raise TypeError(f"each tag must be a string: {names!r}")
        return [f"{self._tag_prefix}{tag}" for tag in names]

    def add(self, key: str, value: Any, timeout: int | None, tags: Tags = ()) -> bool:
        data = self._serializer.dumps(value)
        if timeout == 0:
            # Nothing is stored; the result is whether it could have been.
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
        absent, values, client = object(), {}, self.get_client(None)
        for some in together(client, keys):
            for key, data in zip(some, call(client, "CACHE.MGET", *some)):
                values[key] = self._decoded(key, data, absent)
        return {key: value for key, value in values.items() if value is not absent}

    def has_key(self, key: str) -> bool:
        return bool(call(self.get_client(key), "CACHE.EXISTS", key))

    def incr(self, key: str, delta: int) -> int:
        """Atomic: WATCH, and a retry if another client changed the key meanwhile. Keeps TTL and tags."""
        changed = 0

        def change(pipeline: Any) -> None:
            nonlocal changed
            data = call(pipeline, "CACHE.GET", key)
            if data is None:
                raise ValueError(f"Key '{key}' not found.")
            try:
                changed = int(data) + index(delta)
            except ValueError:
                raise redis.ResponseError("value is not an integer or out of range") from None
            pipeline.multi()
            call(pipeline, "CACHE.SET", key, changed, "XX", "KEEPTTL", "KEEPTAGS")

        with explaining():
            replies = node_of(self.get_client(key, write=True), key).transaction(change, key)
        if not replies[0]:
            # The entry was invalidated meanwhile, which XX notices and WATCH may not.
            raise ValueError(f"Key '{key}' not found.")
        return changed

    def set_many(self, data: Mapping[str, Any], timeout: int | None, tags: Tags = ()) -> None:
        encoded = {key: self._serializer.dumps(value) for key, value in data.items()}
        options = (*_expiry(timeout), *tags_option(self.tags(tags)))
        if timeout == 0:
            return self.delete_many(data)
        for keys in together(self.get_client(None, write=True), data):
            pairs = [part for key in keys for part in (key, encoded[key])]
            self._write(keys[0], "CACHE.MSET", len(keys), *pairs, *options)

    def delete_many(self, keys: Iterable[str]) -> None:
        for some in together(self.get_client(None, write=True), keys):
            self._write(None, "CACHE.DEL", *some)

    def clear(self) -> bool:
        """Drops all entries of the database. Keys of other types stay."""
        call_all(self.get_client(None, write=True), "CACHE.FLUSH")
        return True

    def rename(self, old: str, new: str) -> bool:
        """Renames an entry and returns whether it existed. It keeps TTL and tags. In a cluster it is stored anew."""
        client = self.get_client(old, write=True)
        if self._cluster is None:
            return bool(call(client, "CACHE.EXISTS", old) and client.rename(old, new))
        # Before the read, so that an entry invalidated after it is not stored. 0: another process loads the new key.
        token = fetched(call(client, "CACHE.FETCH", new, "LEASE", 1000, "EARLY")).token
        state, value, pttl, _, tags = fetched(call(client, "CACHE.FETCH", old))
        if state != "HIT" or value is None:
            if token:
                call(client, "CACHE.RELEASE", new, token)
            return False
        options = [*(("PX", pttl) if pttl > 0 else ()), *(("LEASE", token) if token else ())]
        stored = call(client, "CACHE.SET", new, value, *options, *tags_option(tags))
        return call(client, "CACHE.DEL", old) > 0 and stored is not None

    def invalidate_tags(self, tags: Tags) -> int:
        names = self.tags(tags)
        return sum(call_all(self.get_client(write=True), "CACHE.INVALIDATE", *names)) if names else 0

    def load_options(self, timeout: int | None, tags: Tags) -> dict[str, Any]:
        """The options of `get_or_load`."""
        times = {"ttl": timeout, "grace": self._grace, "lease": self._lease}
        return {**times, "tags": self.tags(tags), "dumps": self._serializer.dumps, "loads": self._serializer.loads}


def _expiry(timeout: int | None) -> tuple[Argument, ...]:
    return () if timeout is None else ("EX", timeout)
