"""A dogpile.cache backend: dogpile.cache.redis, with tags, and with locks that are leases.

    import tagcache.dogpile

    region = make_region().configure("tagcache", arguments={"host": "127.0.0.1", "distributed_lock": True})

    with tagcache.dogpile.tagged("tenant:7"):
        page = region.get_or_create("page:7", render)
    region.actual_backend.invalidate_tags("tenant:7")
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from dogpile.cache import register_backend
from dogpile.cache.api import NO_VALUE, CacheMutex, CantDeserializeException
from dogpile.cache.backends.redis import RedisBackend
from redis.cluster import RedisCluster

from .cluster import call_all, socket_timeout, together
from .command import Argument, call, explaining, fetched, listed, logger, milliseconds, new_token, tags_option

_tags: ContextVar[tuple[str, ...]] = ContextVar("tagcache_tags", default=())


@contextmanager
def tagged(*tags: str) -> Iterator[None]:
    """Adds these tags, and those of enclosing blocks, to all values that this thread or task stores inside the block."""
    before = _tags.set((*_tags.get(), *tags))
    try:
        yield
    finally:
        _tags.reset(before)


def _deserialize(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:
        logger.warning("tagcache: a value cannot be decoded, which counts as a miss", exc_info=True)
        raise CantDeserializeException from error


@dataclass
class Lease:
    """The lease of an entry for the thread that holds the entry's lock; 0: another caller has the lease."""

    token: int
    is_used: bool = False


class TagcacheBackend(RedisBackend):
    """Takes the arguments of dogpile.cache.redis (lock_blocking and thread_local_lock have no effect), and these:

    key_tags: a function from a key to its tags, which are added to those of `tagged`.
    cluster: the server is a node of a Redis Cluster, and leads to the others; `connection_kwargs` and `url` are then
        those of redis.RedisCluster.
    """

    deserializer = staticmethod(_deserialize)

    def __init__(self, arguments: dict[str, Any]) -> None:
        arguments = {"thread_local_lock": False, **arguments}
        self._key_tags: Callable[[str], Iterable[str]] = arguments.pop("key_tags", lambda key: ())
        self._is_cluster = bool(arguments.pop("cluster", False))
        # By key and thread: a creator that runs longer than its lock must not store under the next creator's lease.
        self.leases: dict[tuple[str, int], Lease] = {}
        super().__init__(arguments)  # type: ignore[no-untyped-call]

    def _create_client(self) -> None:
        if not self._is_cluster:
            return super()._create_client()  # type: ignore[no-untyped-call,no-any-return]
        options = {"password": self.password, "username": self.username, "socket_timeout": self.socket_timeout}
        options = {name: value for name, value in options.items() if value is not None} | self.connection_kwargs
        url = self.url or f"redis://{self.host}:{self.port}"
        client: Any = RedisCluster.from_url(url, **options)  # type: ignore[no-untyped-call]
        self.writer_client = self.reader_client = client

    def get_mutex(self, key: str) -> CacheMutex | None:
        return LeaseMutex(self, key) if self.distributed_lock else None

    def get_serialized(self, key: str) -> Any:
        value = call(self.reader_client, "CACHE.GET", key)
        return NO_VALUE if value is None else value

    def get_serialized_multi(self, keys: Iterable[str]) -> list[Any]:
        names = list(keys)
        found: dict[str, Any] = {}
        for some in together(self.reader_client, names):
            found.update(zip(some, call(self.reader_client, "CACHE.MGET", *some)))
        return [NO_VALUE if found[name] is None else found[name] for name in names]

    def set_serialized(self, key: str, value: bytes) -> None:
        if (command := self._set(key, value)) is not None:
            call(self.writer_client, *command)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        with self.writer_client.pipeline(transaction=False) as pipeline:
            for key, value in mapping.items():
                if (command := self._set(key, value)) is not None:
                    call(pipeline, *command)
            with explaining():
                pipeline.execute()

    def _set(self, key: str, value: bytes) -> tuple[Argument, ...] | None:
        """The command that stores a value; None if nothing may be stored."""
        expiry = ("EX", self.redis_expiration_time) if self.redis_expiration_time else ()
        held = self.leases.get((key, threading.get_ident()))
        lease: tuple[Argument, ...] = ()
        if held is not None:
            if not held.token:
                # The value may be older than an invalidation, which the server could not notice without a lease.
                return None
            # The server refuses the write, without an error, if one of the tags was invalidated while the creator ran.
            held.is_used, lease = True, ("LEASE", held.token)
        tags = (*_tags.get(), *listed(self._key_tags(key)))
        return ("CACHE.SET", key, value, *expiry, *lease, *tags_option(tags))

    def delete(self, key: str) -> None:
        call(self.writer_client, "CACHE.DEL", key)

    def delete_multi(self, keys: Iterable[str]) -> None:
        for some in together(self.writer_client, keys):
            call(self.writer_client, "CACHE.DEL", *some)

    def invalidate_tags(self, *tags: str) -> int:
        """Drops all entries with one of these tags, and returns their number, which does not affect the time."""
        return sum(call_all(self.writer_client, "CACHE.INVALIDATE", *tags)) if tags else 0


class LeaseMutex(CacheMutex):
    """A lock over all processes: the lease of a key that never exists. The server wakes a waiter, which need not poll.

    The holder also has the lease of the entry, so that a value that it read before an invalidation is not stored.
    A lock that is not released ends after lock_timeout (60 s), or a second after its connection closed.
    """

    def __init__(self, backend: TagcacheBackend, key: str) -> None:
        self._backend, self._key = backend, key
        # By the thread that holds the lock: dogpile shares this object, and a lock may end before its release.
        self._tokens: dict[int, int] = {}
        self._lock = backend.lock_template.format(key)
        self._timeout = milliseconds(backend.lock_timeout or 60)

    def _ask(self, key: str, *options: Argument) -> int:
        return fetched(call(self._backend.writer_client, "CACHE.FETCH", key, "LEASE", self._timeout, *options)).token

    def acquire(self, wait: bool = True) -> bool:
        token, limit = new_token(), self._backend.lock_blocking_timeout
        deadline = None if limit is None else time.monotonic() + limit
        longest = (socket_timeout(self._backend.writer_client) or 20) / 2
        while True:
            begun = time.monotonic()
            left = longest if deadline is None else min(longest, deadline - begun)
            patience = ("WAIT", milliseconds(left)) if wait and left > 0 else ()
            if self._ask(self._lock, "TOKEN", token, *patience):
                break
            if not patience:
                return False
            if time.monotonic() - begun < left / 2:
                # A server that grants no leases (a replica, or one at its limits) does not wait either.
                time.sleep(self._backend.lock_sleep)
        thread = threading.get_ident()
        self._tokens[thread] = token
        try:
            self._backend.leases[self._key, thread] = Lease(self._ask(self._key, "TOKEN", token, "EARLY"))
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        thread = threading.get_ident()
        if thread not in self._tokens:
            # An async_creation_runner releases the lock in another thread.
            thread = next(iter(self._tokens))
        token, held = self._tokens.pop(thread), self._backend.leases.pop((self._key, thread), None)
        call(self._backend.writer_client, "CACHE.RELEASE", self._lock, token)
        if held and held.token and not held.is_used:
            # The creator failed, or its value must not be cached.
            call(self._backend.writer_client, "CACHE.RELEASE", self._key, held.token)

    def locked(self) -> bool:
        token = self._ask(self._lock, "TOKEN", new_token())
        if token:
            call(self._backend.writer_client, "CACHE.RELEASE", self._lock, token)
        return not token


register_backend("tagcache", __name__, "TagcacheBackend")  # type: ignore[no-untyped-call]
