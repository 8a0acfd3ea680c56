"""The messages with which tagcache tells of invalidations: how to subscribe, and how to read them.

usage: invalidations.py [redis://HOST:PORT/ [COUNT]]

Prints each message; after COUNT of them it ends. The format stands in module/COMMANDS.md. A local cache that drops
what these messages say, and everything when its connection was lost, never serves what was invalidated for long.
The suite runs this file and compares what it prints with invalidations.expected.
"""

import struct
import sys
from dataclasses import dataclass

PATTERN = "__cache@*__:invalidate"
KINDS = {b"I": "gone", b"R": "stale", b"F": "flushed"}


@dataclass
class Invalidation:
    """`what` became of the entries that carry one of `tags`; "unknown": drop everything you have of the database."""

    database: int
    what: str
    clock: int = 0
    tags: tuple = ()


def decode(channel: bytes, message: bytes) -> Invalidation:
    """Takes a message apart: version, kind, clock, then each tag behind its length. Numbers are big-endian."""
    database = int(channel[len(b"__cache@") : channel.rindex(b"__:")])
    if len(message) < 10 or message[0] != 1 or message[1:2] not in KINDS:
        # Of a later version: the only safe thing to do is to believe that everything was invalidated.
        return Invalidation(database, "unknown")
    (clock,) = struct.unpack_from(">Q", message, 2)
    tags, at = [], 10
    while at < len(message):
        (length,) = struct.unpack_from(">I", message, at)
        tags.append(message[at + 4 : at + 4 + length])
        at += 4 + length
    return Invalidation(database, KINDS[message[1:2]], clock, tuple(tags))


def main():
    import redis

    url = sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/"
    left = int(sys.argv[2]) if len(sys.argv) > 2 else -1
    # No decode_responses: tags are bytes, and need not be text.
    subscriber = redis.Redis.from_url(url).pubsub(ignore_subscribe_messages=True)
    subscriber.psubscribe(PATTERN)
    for message in subscriber.listen():
        seen = decode(message["channel"], message["data"])
        print(f"database {seen.database}, clock {seen.clock}: {seen.what}", *seen.tags, flush=True)
        left -= 1
        if left == 0:
            break


if __name__ == "__main__":
    main()
