<?php

declare(strict_types=1);

namespace TagcacheExample;

/**
 * A thin helper for phpredis: JSON values with tags, and loads under a lease. Copy it into your application.
 *
 *     $cache = new Cache($redis, prefix: 'shop:');
 *     $user = $cache->getOrLoad('user:7', fn () => query(7), ttlMs: 300_000, tags: ['tenant:7']);
 *     $cache->invalidate(['tenant:7']);
 *
 * The prefix stands before each key and each tag: applications that share a database do not share tags. OPT_PREFIX of
 * phpredis does not reach these commands.
 *
 * Only the Rust client has a local tier (here every read is a round trip), repeats invalidations to a server that was
 * unreachable, and supports clusters. Here a failed invalidation throws, and the caller must repeat it.
 */
final class Cache
{
    /** The database to select on the next connection. */
    private int $database = 0;

    /**
     * @param int $leaseMs how long a load may take before another caller loads too
     * @param int $waitMs  how long a caller waits for another one's load; then it loads as well and stores nothing. Keep it
     *                     below the connection's read time-out (default_socket_timeout, 60 s)
     */
    public function __construct(
        private readonly \Redis $redis,
        private readonly string $prefix = '',
        private readonly int $leaseMs = 10_000,
        private readonly int $waitMs = 5_000,
    ) {
    }

    /** The value, or null if there is none. */
    public function get(string $key): mixed
    {
        $data = $this->run('CACHE.GET', $this->prefix.$key);

        return \is_string($data) ? self::decode($data) : null;
    }

    /** @param list<string> $tags */
    public function set(string $key, mixed $value, int $ttlMs, array $tags = [], int $graceMs = 0): void
    {
        $this->write($key, $value, $ttlMs, $tags, $graceMs, []);
    }

    /**
     * Drops the entries with one of these tags, or makes them stale, and returns their number.
     *
     * @param non-empty-list<string> $tags
     */
    public function invalidate(array $tags, bool $soft = false): int
    {
        return (int) $this->run($soft ? 'CACHE.REVALIDATE' : 'CACHE.INVALIDATE', ...$this->prefixed($tags));
    }

    /**
     * The cached value, or that of $load(). One caller of all processes loads; the others wait, or get the stale
     * value for up to $graceMs after it expired.
     *
     * @template T
     *
     * @param callable(): T $load
     * @param list<string>  $tags
     *
     * @return T
     */
    public function getOrLoad(string $key, callable $load, int $ttlMs, array $tags = [], int $graceMs = 0): mixed
    {
        $token = random_int(1, 2 ** 53 - 1);
        $ask = ['LEASE', $this->leaseMs, 'TOKEN', $token, 'WAIT', $this->waitMs];
        [$state, $data, , $granted] = $this->run('CACHE.FETCH', $this->prefix.$key, ...$ask);
        // A state is HIT, STALE or MISS; a token of 0 means no lease.
        if ('HIT' === $state || ('STALE' === $state && 0 === $granted)) {
            return self::decode($data);
        }
        try {
            $value = $load();
        } catch (\Throwable $error) {
            if (0 !== $granted) {
                $this->run('CACHE.RELEASE', $this->prefix.$key, $token);
            }
            // A stale value is better than an exception.
            if ('STALE' === $state && $error instanceof \Exception) {
                return self::decode($data);
            }
            throw $error;
        }
        if (0 !== $granted) {
            // False is no error: one of the tags was invalidated during the load, so the value is not cached.
            $this->write($key, $value, $ttlMs, $tags, $graceMs, ['LEASE', $token]);
        }

        return $value;
    }

    /**
     * @param list<string>     $tags
     * @param list<string|int> $lease
     */
    private function write(string $key, mixed $value, int $ttlMs, array $tags, int $graceMs, array $lease): void
    {
        $data = json_encode($value, \JSON_THROW_ON_ERROR | \JSON_PRESERVE_ZERO_FRACTION);
        $times = ['PX', $ttlMs, 'GRACE', $graceMs];
        $tags = ['TAGS', \count($tags), ...$this->prefixed($tags)];
        $this->run('CACHE.SET', $this->prefix.$key, $data, ...$times, ...$lease, ...$tags);
    }

    /**
     * @param list<string> $tags
     *
     * @return list<string>
     */
    private function prefixed(array $tags): array
    {
        return array_map(fn (string $tag): string => $this->prefix.$tag, $tags);
    }

    /** phpredis returns false both for nil and for an error, and stores the error's text. */
    private function run(string|int ...$command): mixed
    {
        try {
            if (0 !== $this->database && $this->redis->select($this->database)) {
                $this->database = 0;
            }
            $this->redis->clearLastError();
            $reply = $this->redis->rawCommand(...array_map('strval', $command));
        } catch (\RedisException $error) {
            // A late reply would be taken for the next command's. phpredis connects again, but to database 0.
            $this->database = ($this->redis->isConnected() ? $this->redis->getDbNum() : 0) ?: $this->database;
            $this->redis->close();
            throw $error;
        }
        if (null !== $error = $this->redis->getLastError()) {
            throw new \RedisException($error);
        }

        return $reply;
    }

    private static function decode(string $data): mixed
    {
        return json_decode($data, true, flags: \JSON_THROW_ON_ERROR);
    }
}
