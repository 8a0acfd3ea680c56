"""Commands on a Redis Cluster, where a key belongs to one node, and a tag's entries are on all nodes.

redis-py sends a command to the node of its keys by itself; commands with keys of several slots, or none, are here.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

import redis.asyncio.cluster
from redis.cluster import RedisCluster
from redis.crc import key_slot

from .command import Argument, call

Key = TypeVar("Key", str, bytes)

# If all primaries reply within this many seconds, the command counts as simultaneous: half of the module's limit.
AT_ONCE = 0.5


def is_cluster(client: Any) -> bool:
    """Whether `client` belongs to a cluster, synchronous or not."""
    return isinstance(client, (RedisCluster, redis.asyncio.cluster.RedisCluster))


def call_all(client: Any, *command: Argument) -> list[Any]:
    """Runs a command on the server, or on each primary of a cluster. If one fails the others have run it, and its error
    is raised. If that took too long, all run it twice: slots may have moved meanwhile, with entries that the last
    primary wrote before it got the command."""
    if not is_cluster(client):
        return [call(client, *command)]
    begun = time.monotonic()
    replies = _call_each(client, *command)
    if time.monotonic() - begun > AT_ONCE:
        _call_each(client, *command)
    return replies


def _call_each(client: Any, *command: Argument) -> list[Any]:
    replies, failed = [], None
    for node in client.get_primaries():
        try:
            replies.append(call(client.get_redis_connection(node), *command))
        except Exception as error:
            failed = error
    if failed is not None:
        raise failed
    return replies


def together(client: Any, keys: Iterable[Key]) -> list[list[Key]]:
    """The keys that one command may name: all, or in a cluster those of each slot."""
    names = list(keys)
    if not is_cluster(client):
        return [names] if names else []
    slots: dict[int, list[Key]] = {}
    for key in names:
        slots.setdefault(key_slot(key if isinstance(key, bytes) else key.encode()), []).append(key)
    return list(slots.values())


def node_of(client: Any, key: str | bytes) -> Any:
    """The client itself, or that of the key's node: for WATCH, which belongs to one connection."""
    return client.get_redis_connection(client.get_node_from_key(key)) if is_cluster(client) else client


def socket_timeout(client: Any) -> Any:
    """Seconds after which redis-py considers a connection dead."""
    if hasattr(client, "socket_timeout"):
        return client.socket_timeout
    connection: type
    if isinstance(client, redis.asyncio.cluster.RedisCluster):
        connection, options = redis.asyncio.Connection, client.connection_kwargs
    elif isinstance(client, RedisCluster):
        connection, options = redis.Connection, client.nodes_manager.connection_kwargs
    else:
        connection, options = client.connection_pool.connection_class, client.connection_pool.connection_kwargs
    return options.get("socket_timeout", _default_socket_timeout(connection))


@cache
def _default_socket_timeout(connection: type) -> Any:
    """None until redis-py 7, 5 s since: the options of a pool made from a URL do not contain it."""
    parameters = (inspect.signature(base).parameters for base in connection.__mro__)
    return next((known["socket_timeout"].default for known in parameters if "socket_timeout" in known), None)
