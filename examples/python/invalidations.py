"""The messages by which tagcache announces invalidations: how to subscribe, and how to read them.

usage: invalidations.py [redis://HOST:PORT/ [COUNT]]

Prints each message, and ends after COUNT of them. docs/src/messages.md describes the format. A local cache that drops
the entries of these messages, and everything after a lost connection, does not serve invalidated entries for long.
The suite runs this file and compares its output with invalidations.expected.
"""

import struct
import sys
from dataclasses import dataclass

PATTERN = "__cache@*__:invalidate"
KINDS = {b"I": "gone", b"R": "stale", b"F": "flushed", b"W": "gone", b"w": "stale"}
CLAUSES = {b"A": "all of", b"O": "any of", b"N": "none of"}


@dataclass
class Invalidation:
    """The change of the entries that carry one of `tags`, or that meet all `clauses`.

    `node` and `clock` are those of the node that executed the command, as CACHE.CLOCK returns them: a message with a
    clock that was seen before from that node is a copy, or late. If `what` is "unknown", drop the whole database.
    """

    database: int
    what: str
    node: str = ""
    clock: int = 0
    tags: tuple = ()
    clauses: tuple = ()


class Reader:
    """Reads numbers (big-endian) and tags from the front of a message."""

    def __init__(self, message: bytes):
        self.message = message

    def bytes(self, count: int) -> bytes:
        taken, self.message = self.message[:count], self.message[count:]
        return taken

    def number(self, form: str) -> int:
        return struct.unpack(form, self.bytes(struct.calcsize(form)))[0]

    def tag(self) -> bytes:
        return self.bytes(self.number(">I"))


def decode(channel: bytes, message: bytes) -> Invalidation:
    """Decodes a message: version, kind, node, clock, then each tag after its length, or each clause and its tags."""
    database = int(channel[len(b"__cache@") : channel.rindex(b"__:")])
    reader = Reader(message)
    version, kind = reader.bytes(1), reader.bytes(1)
    if version != b"\x02" or kind not in KINDS:
        # A message of a later version: the only safe reading is that everything was invalidated.
        return Invalidation(database, "unknown")
    seen = Invalidation(database, KINDS[kind], reader.bytes(8).hex(), reader.number(">Q"))
    while reader.message:
        if kind in b"Ww":
            clause = CLAUSES[reader.bytes(1)]
            seen.clauses += ((clause, [reader.tag() for _ in range(reader.number(">I"))]),)
        else:
            seen.tags += (reader.tag(),)
    return seen


def main():
    import redis

    url = sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/"
    left = int(sys.argv[2]) if len(sys.argv) > 2 else -1
    # No decode_responses: tags are bytes, not always text.
    subscriber = redis.Redis.from_url(url).pubsub(ignore_subscribe_messages=True)
    subscriber.psubscribe(PATTERN)
    for message in subscriber.listen():
        seen = decode(message["channel"], message["data"])
        words = [*seen.tags, *(f"{clause} {tags}" for clause, tags in seen.clauses)]
        print(f"database {seen.database}, clock {seen.clock}: {seen.what}", *words, flush=True)
        left -= 1
        if left == 0:
            break


if __name__ == "__main__":
    main()
