"""tagcache from Python, with redis-py: its execute_command sends any command.

usage: quickstart.py [redis://HOST:PORT/]

Start a server with `make run` in the repository's root, take the port that it prints, and
`pip install redis`. The suite runs this file and compares its output with quickstart.expected.
"""

import sys

import redis

url = sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/"
server = redis.Redis.from_url(url, decode_responses=True)


def cache_set(key, value, ttl_s, *tags):
    tagged = ("TAGS", len(tags), *tags) if tags else ()
    return server.execute_command("CACHE.SET", key, value, "EX", ttl_s, *tagged)


def pairs(reply):
    """Maps come as flat lists in RESP2 and as dicts in RESP3 (protocol=3)."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2]))


# Values with tags: entries that may be dropped together get a common tag.
for tenant in (7, 8):
    for page in range(3):
        cache_set(f"quickstart:{tenant}:{page}", f"page {page}", 300, f"tenant:{tenant}", "kind:page")

print("value:", server.execute_command("CACHE.GET", "quickstart:7:0"))
print("ttl is set:", 0 < server.ttl("quickstart:7:0") <= 300)

# A whole tenant in one command, for any number of entries.
print("dropped:", server.execute_command("CACHE.INVALIDATE", "tenant:7"))
print("value now:", server.execute_command("CACHE.GET", "quickstart:7:0"))
print("other tenant:", server.execute_command("CACHE.MGET", "quickstart:8:0", "quickstart:8:1"))

# Details of an entry, and statistics.
print("kind:page has", pairs(server.execute_command("CACHE.TAGINFO", "kind:page"))["entries"], "entries")
entry = pairs(server.execute_command("CACHE.INSPECT", "quickstart:8:0"))
print("state:", entry["state"], "tags:", ", ".join(entry["tags"]), "hits:", entry["hits"])

cursor, keys = server.execute_command("CACHE.TAGSCAN", "tenant:8", 0, "COUNT", 100)
print("tagged tenant:8:", ", ".join(sorted(keys)))

# Errors are ordinary ResponseErrors.
try:
    server.execute_command("CACHE.SET", "quickstart:bad", "x", "TAGS", 1, "")
except redis.ResponseError:
    print("an empty tag is refused")

# redis-py pipelines take custom commands too: one round trip for any number of commands.
with server.pipeline(transaction=False) as pipe:
    for page in range(3):
        pipe.execute_command("CACHE.GET", f"quickstart:8:{page}")
    print("pipelined:", pipe.execute())

print("deleted:", server.execute_command("CACHE.DEL", *(f"quickstart:8:{page}" for page in range(3))))
