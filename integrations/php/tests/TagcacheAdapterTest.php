<?php

declare(strict_types=1);

namespace Tagcache\Tests;

use PHPUnit\Framework\TestCase;
use Psr\Cache\InvalidArgumentException;
use Psr\Log\AbstractLogger;
use Symfony\Contracts\Cache\ItemInterface;
use Tagcache\ModuleMissing;
use Tagcache\TagcacheAdapter;

/** Tags, leases, namespaces and bad input, which php-cache's suites do not cover. */
final class TagcacheAdapterTest extends TestCase
{
    private \Redis $redis;

    protected function setUp(): void
    {
        $this->redis = Connection::open();
        $this->redis->flushAll();
    }

    private function pool(string $namespace = 'shop', ?AbstractLogger $logger = null, int $leaseMs = 10_000): TagcacheAdapter
    {
        $pool = new TagcacheAdapter(Connection::open(), $namespace, leaseMs: $leaseMs);
        if ($logger) {
            $pool->setLogger($logger);
        }

        return $pool;
    }

    private function logger(): AbstractLogger
    {
        return new class extends AbstractLogger {
            /** @var list<string> */
            public array $messages = [];

            public function log($level, $message, array $context = []): void
            {
                $this->messages[] = $message;
            }
        };
    }

    public function testInvalidationDropsItemsWithTheTag(): void
    {
        $pool = $this->pool();
        foreach (['a' => ['t'], 'b' => ['t', 'u'], 'c' => ['u'], 'd' => []] as $key => $tags) {
            $pool->saveDeferred($pool->getItem($key)->set($key)->tag($tags));
        }
        self::assertTrue($pool->commit());
        self::assertTrue($pool->invalidateTags(['t']));
        $values = array_map(static fn ($item) => $item->get(), iterator_to_array($pool->getItems(['a', 'b', 'c', 'd'])));
        self::assertEquals(['a' => null, 'b' => null, 'c' => 'c', 'd' => 'd'], $values);
    }

    public function testItemSavedAgainHasOnlyItsNewTags(): void
    {
        $pool = $this->pool();
        $pool->save($pool->getItem('k')->set(1)->tag(['old', 'both']));
        $pool->save($pool->getItem('k')->set(2)->tag(['new', 'both']));
        $pool->invalidateTags(['old']);
        self::assertTrue($pool->hasItem('k'));
        $pool->invalidateTags(['both']);
        self::assertFalse($pool->hasItem('k'));
    }

    public function testTagsOfNamespacesAreSeparate(): void
    {
        [$shop, $blog] = [$this->pool('shop'), $this->pool('blog')];
        $shop->save($shop->getItem('k')->set(1)->tag('t'));
        $blog->invalidateTags(['t']);
        self::assertTrue($shop->hasItem('k'));
    }

    public function testClearRemovesOnlyTheNamespace(): void
    {
        [$shop, $blog] = [$this->pool('shop'), $this->pool('blog')];
        foreach ([$shop, $blog] as $pool) {
            $pool->save($pool->getItem('k')->set(1));
        }
        $this->redis->set('shop:native', 'x');
        self::assertTrue($shop->clear());
        self::assertFalse($shop->hasItem('k'));
        self::assertTrue($blog->hasItem('k'));
        self::assertSame('x', $this->redis->get('shop:native'));
    }

    public function testClearAcceptsAPrefix(): void
    {
        $pool = $this->pool();
        for ($i = 0; $i < 2500; ++$i) {
            $pool->saveDeferred($pool->getItem(($i % 2 ? 'odd.' : 'even.').$i)->set($i));
        }
        $pool->commit();
        self::assertTrue($pool->clear('odd.'));
        self::assertFalse($pool->hasItem('odd.1'));
        self::assertTrue($pool->hasItem('even.0'));
        self::assertSame(1250, (int) $this->redis->dbSize());
    }

    public function testLifetimeIsTheTtlOnTheServer(): void
    {
        $pool = $this->pool();
        $pool->save($pool->getItem('k')->set(1)->expiresAfter(100));
        self::assertEqualsWithDelta(100, $this->redis->ttl('shop:k'), 5);
        $pool->save($pool->getItem('k')->set(1)->expiresAfter(-1));
        self::assertFalse($pool->hasItem('k'));
    }

    public function testInvalidKeysAreRefusedWithoutAssertions(): void
    {
        $before = ini_set('assert.active', '0');
        try {
            $this->expectException(InvalidArgumentException::class);
            $this->pool()->getItem('a:b');
        } finally {
            ini_set('assert.active', (string) $before);
        }
    }

    public function testCallbackRunsOnceAndItsTagsAreStored(): void
    {
        $pool = $this->pool();
        $runs = 0;
        $callback = static function (ItemInterface $item) use (&$runs) {
            $item->tag('t');

            return ++$runs;
        };
        self::assertSame([1, 1], [$pool->get('k', $callback), $pool->get('k', $callback)]);
        $pool->invalidateTags(['t']);
        self::assertSame(2, $pool->get('k', $callback));
    }

    public function testValueReadBeforeAnInvalidationIsReturnedButNotCached(): void
    {
        $pool = $this->pool('shop', $logger = $this->logger());
        $value = $pool->get('k', function (ItemInterface $item) {
            $item->tag('t');
            $this->pool()->invalidateTags(['t']);

            return 'old';
        });
        self::assertSame('old', $value);
        self::assertFalse($pool->hasItem('k'));
        self::assertSame([], $logger->messages);
    }

    public function testCallbackThatFailsOrDoesNotSaveReleasesItsLease(): void
    {
        $pool = $this->pool();
        try {
            $pool->get('k', static fn () => throw new \DomainException('no row'));
            self::fail('The exception is lost.');
        } catch (\DomainException) {
            self::assertLeaseIsFree();
        }
        $pool->get('k', static function (ItemInterface $item, bool &$save) {
            $save = false;
        });
        self::assertLeaseIsFree();
        $pool->get('k', static fn () => static fn () => 'closures cannot be serialized');
        self::assertLeaseIsFree();
    }

    private function assertLeaseIsFree(): void
    {
        $token = $this->redis->rawCommand('CACHE.FETCH', 'shop:k', 'LEASE', '1000')[3];
        self::assertGreaterThan(0, $token);
        $this->redis->rawCommand('CACHE.RELEASE', 'shop:k', (string) $token);
    }

    public function testCallbackRunsInOneOfTwoProcesses(): void
    {
        $code = <<<'PHP'
            require 'tests/bootstrap.php';
            $pool = new Tagcache\TagcacheAdapter(Tagcache\Tests\Connection::open(), 'shop');
            $pool->get('k', static function () {
                echo "started\n";
                usleep(300_000);

                return 'theirs';
            });
            PHP;
        $other = proc_open([\PHP_BINARY, '-r', $code], [1 => ['pipe', 'w']], $pipes, \dirname(__DIR__));
        self::assertSame("started\n", fgets($pipes[1]));
        self::assertSame('theirs', $this->pool()->get('k', static fn () => 'own'));
        self::assertSame(0, proc_close($other));
    }

    public function testStaleValueIsServedWhileAnotherProcessLoads(): void
    {
        $pool = $this->pool();
        $pool->save($pool->getItem('k')->set('old'));
        $stored = $this->redis->rawCommand('CACHE.GET', 'shop:k');
        $this->redis->rawCommand('CACHE.SET', 'shop:k', $stored, 'GRACE', '60000', 'TAGS', '1', 'shop:t');
        $this->redis->rawCommand('CACHE.REVALIDATE', 'shop:t');
        $this->redis->rawCommand('CACHE.FETCH', 'shop:k', 'LEASE', '5000');
        self::assertSame('old', $pool->get('k', static fn () => self::fail('computes')));
    }

    public function testGetComputesWithoutCachingAfterItsWaitTimesOut(): void
    {
        $this->redis->rawCommand('CACHE.FETCH', 'shop:k', 'LEASE', '60000');
        $pool = $this->pool(leaseMs: 50);
        self::assertSame('own', $pool->get('k', static fn () => 'own'));
        self::assertFalse($pool->hasItem('k'));
    }

    public function testValueIsReturnedButNotCachedIfTheLeaseRequestIsDenied(): void
    {
        $client = Connection::open();
        $pool = new TagcacheAdapter($client, 'shop');
        $pool->setLogger($logger = $this->logger());
        $client->rawCommand('ACL', 'SETUSER', 'nofetch', 'on', 'nopass', '~*', '+@all', '-cache.fetch');
        $client->rawCommand('AUTH', 'nofetch', 'x');
        $value = $pool->get('k', function (ItemInterface $item) {
            $item->tag('t');
            $this->pool()->invalidateTags(['t']);

            return 'old';
        });
        $this->redis->rawCommand('ACL', 'DELUSER', 'nofetch');
        self::assertSame('old', $value);
        self::assertFalse($this->pool()->hasItem('k'));
        self::assertStringContainsString('Failed to fetch', $logger->messages[0]);
    }

    /** @dataProvider leasesOfOthers */
    public function testUndecodableBytesAreReplacedOnlyUnderALease(bool $isHeld, mixed $stored): void
    {
        $this->redis->rawCommand('CACHE.SET', 'shop:k', 'garbage');
        if ($isHeld) {
            $this->redis->rawCommand('CACHE.FETCH', 'shop:k', 'LEASE', '60000', 'EARLY');
        }
        $callback = function (ItemInterface $item) {
            $item->tag('t');
            $this->pool()->invalidateTags(['t']);

            return 'old';
        };
        $pool = $this->pool();
        self::assertSame('old', $pool->get('k', $callback));
        self::assertNull($pool->getItem('k')->get());
        self::assertSame('new', $pool->get('k', static fn () => 'new'));
        self::assertSame($stored, $pool->getItem('k')->get());
    }

    public static function leasesOfOthers(): array
    {
        return ['free' => [false, 'new'], 'held by another process' => [true, null]];
    }

    public function testUndecodableBytesAreALoggedMiss(): void
    {
        $pool = $this->pool('shop', $logger = $this->logger());
        $this->redis->rawCommand('CACHE.SET', 'shop:k', 'garbage');
        $pool->save($pool->getItem('good')->set(1));
        $items = iterator_to_array($pool->getItems(['k', 'good']));
        self::assertFalse($items['k']->isHit());
        self::assertTrue($items['good']->isHit());
        self::assertNotSame([], $logger->messages);
        self::assertSame('new', $pool->get('k', static fn () => 'new'));
        self::assertSame('new', $pool->getItem('k')->get());
    }

    public function testServerErrorsAreLogged(): void
    {
        $pool = $this->pool('shop', $logger = $this->logger());
        $this->redis->set('shop:k', 'native');
        self::assertFalse($pool->save($pool->getItem('k2')->set(1)->tag(str_repeat('t', 600))));
        self::assertFalse($pool->save($pool->getItem('k')->set(1)));
        self::assertFalse($pool->deleteItem('k'));
        self::assertFalse($pool->hasItem('k'));
        self::assertStringContainsString('tagcache.max-tag-bytes', $logger->messages[0]);
        self::assertStringContainsString('WRONGTYPE', end($logger->messages));
    }

    /** @dataProvider commandsThatTimeOut */
    public function testLateReplyIsNotReturnedForAnotherItem(callable $use): void
    {
        $client = Connection::open();
        $client->select(1);
        $pool = new TagcacheAdapter($client, 'shop');
        $pool->setLogger($logger = $this->logger());
        $pool->save($pool->getItem('a')->set('A'));
        $pool->save($pool->getItem('b')->set('B'));
        $pool->saveDeferred($pool->getItem('c')->set('C'));
        $pool->saveDeferred($pool->getItem('d')->set('D'));
        $client->setOption(\Redis::OPT_READ_TIMEOUT, 0.1);
        $this->redis->rawCommand('CLIENT', 'PAUSE', '60000', 'WRITE');
        $use($pool);
        $this->redis->rawCommand('CLIENT', 'UNPAUSE');
        self::assertNotSame([], $logger->messages);
        $client->setOption(\Redis::OPT_READ_TIMEOUT, 10);
        self::assertSame('B', $pool->getItem('b')->get());
        self::assertFalse($pool->hasItem('none'));
        self::assertSame(1, $client->getDbNum());
    }

    public static function commandsThatTimeOut(): array
    {
        return [
            'one command' => [static fn (TagcacheAdapter $pool) => $pool->deleteItem('a')],
            'a pipeline' => [static fn (TagcacheAdapter $pool) => $pool->commit()],
        ];
    }

    public function testTagOfAllItemsIsRefused(): void
    {
        $pool = $this->pool();
        $pool->save($pool->getItem('k')->set(1));
        try {
            $pool->invalidateTags(['t', '@']);
            self::fail('It is invalidated.');
        } catch (InvalidArgumentException) {
            self::assertTrue($pool->hasItem('k'));
        }
    }

    public function testClientOptionsDoNotAffectTheEntries(): void
    {
        $redis = Connection::open();
        $redis->setOption(\Redis::OPT_SERIALIZER, \Redis::SERIALIZER_PHP);
        $redis->setOption(\Redis::OPT_PREFIX, 'prefix:');
        $redis->setOption(\Redis::OPT_REPLY_LITERAL, true);
        $pool = new TagcacheAdapter($redis, 'shop');
        self::assertTrue($pool->save($pool->getItem('k')->set(['x' => 1])));
        self::assertSame(['x' => 1], $this->pool()->getItem('k')->get());
    }

    public function testErrorNamesTheFixIfTheModuleIsMissing(): void
    {
        $pool = new TagcacheAdapter(Connection::open('TAGCACHE_BARE_PORT'));
        $this->expectException(ModuleMissing::class);
        $this->expectExceptionMessage('load tagcache.so');
        $pool->getItem('k');
    }
}
