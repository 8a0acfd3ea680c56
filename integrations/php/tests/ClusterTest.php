<?php

declare(strict_types=1);

namespace Tagcache\Tests;

use PHPUnit\Framework\TestCase;
use Symfony\Contracts\Cache\ItemInterface;
use Tagcache\Server;
use Tagcache\TagcacheAdapter;

/** The pool on a cluster of three primaries. */
final class ClusterTest extends TestCase
{
    private \RedisCluster $redis;

    protected function setUp(): void
    {
        $this->redis = Connection::cluster();
        self::assertCount(3, $this->redis->_masters());
        foreach ($this->redis->_masters() as $node) {
            $this->redis->flushAll($node);
        }
    }

    /** @return list<int> the number of keys in each node */
    private function sizes(): array
    {
        return array_map(fn (array $node) => $this->redis->dbSize($node), $this->redis->_masters());
    }

    /** @return list<string> */
    private function fill(TagcacheAdapter $pool): array
    {
        $keys = array_map(static fn (int $number) => 'key'.$number, range(0, 59));
        foreach ($keys as $key) {
            $pool->saveDeferred($pool->getItem($key)->set($key)->tag(['t']));
        }
        self::assertTrue($pool->commit());
        self::assertGreaterThan(0, min($this->sizes()));

        return $keys;
    }

    /** @param list<string> $keys */
    private static function hits(TagcacheAdapter $pool, array $keys): int
    {
        return \count(array_filter(iterator_to_array($pool->getItems($keys)), static fn ($item) => $item->isHit()));
    }

    public function testKeysGoToTheirNodesAndInvalidationsToAllNodes(): void
    {
        $pool = new TagcacheAdapter(Connection::cluster(), 'shop');
        $keys = $this->fill($pool);
        self::assertSame(60, self::hits($pool, [...$keys, 'none']));
        self::assertTrue($pool->hasItem('key7'));
        self::assertTrue($pool->deleteItems(['key7', 'key8']));
        self::assertSame(58, self::hits($pool, $keys));
        self::assertTrue($pool->invalidateTags(['t']));
        self::assertSame(0, self::hits($pool, $keys));
        $this->fill($pool);
        self::assertTrue($pool->clear('key1'));
        self::assertSame(49, self::hits($pool, $keys));
        self::assertTrue($pool->clear());
        self::assertSame([0, 0, 0], $this->sizes());
    }

    public function testValueOvertakenByAnInvalidationIsNotStored(): void
    {
        $pool = new TagcacheAdapter(Connection::cluster(), 'shop');
        $other = new TagcacheAdapter(Connection::cluster(), 'shop');
        $compute = static function (ItemInterface $item) use ($other) {
            $item->tag(['t']);
            $other->invalidateTags(['t']);

            return 'old';
        };
        self::assertSame('old', $pool->get('key', $compute));
        self::assertFalse($other->hasItem('key'));
        self::assertSame('new', $pool->get('key', static fn () => 'new'));
        self::assertSame('new', $other->get('key', static fn () => 'never'));
    }

    public function testInvalidationThatReachesANodeLateIsSentToAllAgain(): void
    {
        $nodes = $this->redis->_masters();
        foreach ($nodes as $node) {
            $this->redis->rawCommand($node, 'CONFIG', 'RESETSTAT');
        }
        $this->redis->rawCommand(end($nodes), 'CLIENT', 'PAUSE', '700', 'WRITE');
        self::assertSame([0, 0, 0], (new Server($this->redis))->everywhere('CACHE.INVALIDATE', 't'));
        foreach ($nodes as $node) {
            self::assertStringContainsString('cmdstat_cache.invalidate:calls=2,', $this->redis->rawCommand($node, 'INFO', 'commandstats'));
        }
    }

    public function testInvalidationRefusedByOneNodeReachesTheOthers(): void
    {
        $pool = new TagcacheAdapter(Connection::cluster(), 'shop');
        $keys = $this->fill($pool);
        [$refusing] = $this->redis->_masters();
        $held = $this->redis->dbSize($refusing);
        $this->redis->rawCommand($refusing, 'ACL', 'SETUSER', 'default', '-cache.invalidate');
        try {
            self::assertFalse($pool->invalidateTags(['t']));
        } finally {
            $this->redis->rawCommand($refusing, 'ACL', 'SETUSER', 'default', '+cache.invalidate');
        }
        self::assertSame($held, self::hits($pool, $keys));
    }

    public function testLateReplyIsNotReturnedForAnotherItem(): void
    {
        $client = Connection::cluster(0.5);
        $pool = new TagcacheAdapter($client, 'shop');
        $pool->save($pool->getItem('a')->set('A'));
        $pool->save($pool->getItem('b')->set('B'));
        foreach ($this->redis->_masters() as $node) {
            $this->redis->rawCommand($node, 'CLIENT', 'PAUSE', '60000', 'WRITE');
        }
        self::assertFalse($pool->deleteItem('a'));
        foreach ($this->redis->_masters() as $node) {
            $this->redis->rawCommand($node, 'CLIENT', 'UNPAUSE');
        }
        self::assertSame('B', $pool->getItem('b')->get());
        self::assertFalse($pool->hasItem('none'));
    }

    public function testMovedSlotIsFound(): void
    {
        $server = new Server(Connection::cluster());
        $slot = (int) $this->redis->cluster('key', 'KEYSLOT', 'key');
        $nodes = $this->redis->_masters();
        $ids = array_map(fn (array $node) => $this->redis->rawCommand($node, 'CLUSTER', 'MYID'), $nodes);
        self::assertNotContains('v', [$server->run('CACHE.GET', 'key')]);
        // The key does not exist, so that the slot can move to another node at once.
        foreach ($nodes as $number => $node) {
            $owned = $this->redis->rawCommand($node, 'CLUSTER', 'COUNTKEYSINSLOT', $slot);
            self::assertSame(0, $owned);
        }
        $before = $this->ownerOf($slot);
        $to = (array_search($before, $ids, true) + 1) % 3;
        $this->give($nodes, $slot, $ids[$to]);
        try {
            self::assertTrue($server->run('CACHE.SET', 'key', 'v'));
            self::assertSame('v', $server->run('CACHE.GET', 'key'));
        } finally {
            $this->redis->rawCommand($nodes[$to], 'DEL', 'key');
            $this->give($nodes, $slot, $before);
        }
    }

    private function ownerOf(int $slot): string
    {
        foreach ($this->redis->rawCommand($this->redis->_masters()[0], 'CLUSTER', 'SLOTS') as [$first, $last, $node]) {
            if ($first <= $slot && $slot <= $last) {
                return $node[2];
            }
        }
        self::fail("nobody has slot $slot");
    }

    private function give(array $nodes, int $slot, string $id): void
    {
        foreach ($nodes as $node) {
            $this->redis->rawCommand($node, 'CLUSTER', 'SETSLOT', (string) $slot, 'NODE', $id);
        }
    }
}
