<?php

declare(strict_types=1);

namespace Tagcache\Tests;

require_once __DIR__.'/../../../examples/php/Cache.php';

use PHPUnit\Framework\TestCase;
use TagcacheExample\Cache;

/** The helper in examples/php. */
final class ExampleCacheTest extends TestCase
{
    private const USER = ['ttlMs' => 60_000, 'tags' => ['tenant:7'], 'graceMs' => 60_000];

    private \Redis $redis;
    private Cache $cache;

    protected function setUp(): void
    {
        $this->redis = Connection::open();
        $this->redis->flushAll();
        $this->cache = $this->open();
    }

    /** A cache as in a process of its own. */
    private function open(string $prefix = 'shop:'): Cache
    {
        return new Cache(Connection::open(), $prefix);
    }

    private static function notCalled(): never
    {
        throw new \LogicException('it is not to be loaded');
    }

    public function testLateReplyIsNotReturnedForAnotherKey(): void
    {
        $client = Connection::open();
        $client->select(1);
        $cache = new Cache($client, 'shop:');
        $cache->set('a', 'A', 60_000);
        $client->setOption(\Redis::OPT_READ_TIMEOUT, 0.1);
        $this->redis->rawCommand('CLIENT', 'PAUSE', '60000', 'WRITE');
        try {
            $cache->invalidate(['tenant:7']);
            self::fail('it is not to be answered');
        } catch (\RedisException) {
        }
        $this->redis->rawCommand('CLIENT', 'UNPAUSE');
        $client->setOption(\Redis::OPT_READ_TIMEOUT, 10);
        self::assertSame('A', $cache->get('a'));
        self::assertNull($cache->get('none'));
        self::assertSame(1, $client->getDbNum());
    }

    public function testOneCallerLoadsAndAnotherProcessWaits(): void
    {
        $code = 'require $argv[1]; $redis = new Redis(); $redis->connect("127.0.0.1", (int) getenv("TAGCACHE_PORT"));'
            .'echo json_encode((new TagcacheExample\Cache($redis, "shop:", waitMs: 30_000))'
            .'->getOrLoad("user:7", fn () => "loaded twice", 60_000));';
        $output = null;
        $load = function () use ($code, &$output): array {
            $program = [\PHP_BINARY, '-r', $code, '--', __DIR__.'/../../../examples/php/Cache.php'];
            $process = proc_open($program, [1 => ['pipe', 'w']], $pipes);
            $deadline = microtime(true) + 30;
            while (1 !== $this->waiters()) {
                self::assertLessThan($deadline, microtime(true), 'nobody waits');
                usleep(5_000);
            }
            $output = static function () use ($process, $pipes): string {
                $text = (string) stream_get_contents($pipes[1]);
                proc_close($process);

                return $text;
            };

            return ['name' => 'Ada'];
        };
        self::assertSame(['name' => 'Ada'], $this->cache->getOrLoad('user:7', $load, ...self::USER));
        self::assertSame('{"name":"Ada"}', $output());
    }

    private function waiters(): int
    {
        $stats = $this->redis->rawCommand('CACHE.STATS');

        return (int) $stats[array_search('lease_waiters', $stats, true) + 1];
    }

    public function testValueLoadedBeforeAnInvalidationIsNotCached(): void
    {
        $load = function (): string {
            $this->cache->invalidate(['tenant:7']);

            return 'old';
        };
        self::assertSame('old', $this->cache->getOrLoad('user:7', $load, ...self::USER));
        self::assertNull($this->cache->get('user:7'));
    }

    public function testStaleValueIsServedDuringALoadAndIfTheLoadFails(): void
    {
        $this->cache->set('user:7', 'old', ...self::USER);
        self::assertSame(1, $this->cache->invalidate(['tenant:7'], soft: true));
        $load = function (): never {
            self::assertSame('old', $this->open()->getOrLoad('user:7', self::notCalled(...), ...self::USER));
            throw new \RuntimeException('the database is away');
        };
        self::assertSame('old', $this->cache->getOrLoad('user:7', $load, ...self::USER));
        self::assertSame('new', $this->cache->getOrLoad('user:7', static fn () => 'new', ...self::USER));
        self::assertSame('new', $this->cache->getOrLoad('user:7', self::notCalled(...), ...self::USER));
    }

    public function testFailedLoadThrowsAndReleasesTheLease(): void
    {
        try {
            $this->cache->getOrLoad('user:7', self::notCalled(...), ...self::USER);
            self::fail('it does not throw');
        } catch (\LogicException) {
        }
        self::assertSame(2, $this->cache->getOrLoad('user:7', static fn () => 2, ...self::USER));
        self::assertSame(2, $this->open()->get('user:7'));
    }

    public function testPrefixIsAddedToKeysAndTags(): void
    {
        $this->cache->set('user:7', 1, ...self::USER);
        self::assertSame(0, $this->open('blog:')->invalidate(['tenant:7']));
        self::assertSame('1', $this->redis->rawCommand('CACHE.GET', 'shop:user:7'));
        self::assertSame(1, $this->redis->rawCommand('CACHE.INVALIDATE', 'shop:tenant:7'));
    }
}
