"""Sends the module's commands with redis-py, and reads their options and replies."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

logger = logging.getLogger("tagcache")

Tag = TypeVar("Tag", str, bytes, str | bytes)
Argument = str | bytes | int
"""redis-py sends these types unchanged; numbers in decimal digits."""


class ModuleMissing(ResponseError):
    """The server does not know the CACHE commands."""


@contextmanager
def explaining() -> Iterator[None]:
    """Turns the server's error for an unknown command into `ModuleMissing`, which names the fix."""
    try:
        yield
    except ResponseError as error:
        if "unknown command" not in str(error).lower():
            raise
        raise ModuleMissing(
            f"{error} (load tagcache.so into the server, by `loadmodule /path/to/tagcache.so` in its configuration;"
            " if it is loaded, it is older than this package)"
        ) from error


def call(client: Any, *command: Argument) -> Any:
    """Runs one command on a `redis.Redis`, or on one of its pipelines. The reply has bytes, even with decode_responses.

    Raises redis-py's errors, and `ModuleMissing` if the server lacks the module or the command.
    """
    with explaining():
        return client.execute_command(*command, **{NEVER_DECODE: True})


async def call_async(client: Any, *command: Argument) -> Any:
    """As `call`, on a `redis.asyncio.Redis`."""
    with explaining():
        return await client.execute_command(*command, **{NEVER_DECODE: True})


def listed(tags: Iterable[Tag]) -> tuple[Tag, ...]:
    """The tags. A single string is an error: its letters would become tags."""
    if isinstance(tags, (str, bytes)):
        raise TypeError(f"tags must be a list of strings, not one: {tags!r}")
    return tuple(tags)


def tags_option(tags: Iterable[str | bytes]) -> tuple[Argument, ...]:
    """`TAGS count tag ...`"""
    names = listed(tags)
    return ("TAGS", len(names), *names)


def milliseconds(seconds: float) -> int:
    """Rounded up, so that a positive time never becomes zero, which the server refuses."""
    return -int(-seconds * 1000 // 1)


def new_token() -> int:
    """A random lease token: 1 to 2^53 - 1 (the server takes up to 2^63 - 1), new for each load."""
    return secrets.randbelow(2**53 - 1) + 1


class Fetched(NamedTuple):
    """The reply of CACHE.FETCH. `state` is HIT, STALE or MISS; `token` is 0 if no lease was granted."""

    state: str
    value: bytes | None
    pttl: int
    token: int
    tags: list[bytes]


def fetched(reply: list[Any]) -> Fetched:
    """Reads the reply of CACHE.FETCH."""
    state, value, pttl, token, tags = reply
    return Fetched(state.decode(), value, pttl, token, tags)
