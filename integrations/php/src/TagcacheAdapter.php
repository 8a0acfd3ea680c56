<?php

declare(strict_types=1);

namespace Tagcache;

use Psr\Log\LoggerInterface;
use Symfony\Component\Cache\Adapter\AbstractTagAwareAdapter;
use Symfony\Component\Cache\CacheItem;
use Symfony\Component\Cache\Marshaller\DefaultMarshaller;
use Symfony\Component\Cache\Marshaller\MarshallerInterface;
use Symfony\Component\Cache\Marshaller\TagAwareMarshaller;
use Symfony\Contracts\Cache\CacheInterface;
use Symfony\Contracts\Cache\ItemInterface;

/**
 * A PSR-6 pool with tags for Symfony's cache component, on phpredis and a server with the tagcache module.
 *
 * invalidateTags() and clear() are one command each, whatever the number of items. The callback of get() runs in one
 * process at a time; the others wait, and what it read before an invalidation is not stored.
 *
 * As PSR-6 demands, errors of the server are no exceptions: they are logged, and an item is a miss or is not saved.
 */
class TagcacheAdapter extends AbstractTagAwareAdapter
{
    private readonly Server $server;
    private readonly string $prefix;
    private readonly MarshallerInterface $marshaller;

    /** @var array<string, int> the lease tokens of the ids that get() is loading */
    private array $leases = [];

    /**
     * @param string $namespace       stands before each key and each tag; '' shares the tags of other languages
     * @param int    $defaultLifetime seconds; 0: tagcache.default-ttl-ms applies
     * @param int    $leaseMs         how long the callback of get() may run before another process runs it too;
     *                                at most tagcache.lease-max-ms
     */
    public function __construct(
        \Redis $redis,
        string $namespace = '',
        int $defaultLifetime = 0,
        ?MarshallerInterface $marshaller = null,
        private readonly int $leaseMs = 10_000,
    ) {
        parent::__construct($namespace, $defaultLifetime);
        $this->server = new Server($redis);
        $this->prefix = '' === $namespace ? '' : $namespace.':';
        $this->marshaller = new TagAwareMarshaller($marshaller ?? new DefaultMarshaller());
        $this->setCallbackWrapper($this->compute(...));
    }

    protected function doFetch(array $ids): iterable
    {
        $ids = array_values($ids);
        $found = $ids ? $this->server->run('CACHE.MGET', ...$ids) : [];
        foreach ($found as $index => $data) {
            if (false !== $data && null !== $value = $this->unmarshalled($ids[$index], $data)) {
                yield $ids[$index] => $value;
            }
        }
    }

    protected function doHave(string $id): bool
    {
        return (bool) $this->server->run('CACHE.EXISTS', $id);
    }

    protected function doDelete(array $ids): bool
    {
        if ($ids) {
            $this->server->run('CACHE.DEL', ...array_values($ids));
        }

        return true;
    }

    /** The server knows the tags of what it deletes. */
    protected function doDeleteYieldTags(array $ids): iterable
    {
        $this->doDelete($ids);

        return [];
    }

    protected function doDeleteTagRelations(array $tagData): bool
    {
        return true;
    }

    protected function doInvalidate(array $tagIds): bool
    {
        $this->server->run('CACHE.INVALIDATE', ...$tagIds);

        return true;
    }

    public function invalidateTags(array $tags): bool
    {
        if (!$tags) {
            return false;
        }
        try {
            return $this->doInvalidate(array_map($this->tagId(...), array_values($tags)));
        } catch (\Exception $e) {
            $this->warn('Failed to invalidate tags', $e);

            return false;
        }
    }

    protected function doSave(array $values, int $lifetime, array $addTagData = [], array $removeTagData = []): array
    {
        $commands = [];
        foreach ($this->marshaller->marshall($values, $failed) as $id => $data) {
            $options = $lifetime > 0 ? ['EX', $lifetime] : [];
            if (isset($this->leases[$id])) {
                array_push($options, 'LEASE', $this->leases[$id]);
            }
            $tags = array_map($this->tagId(...), array_values($values[$id]['tags'] ?? []));
            $commands[] = ['CACHE.SET', $id, $data, ...$options, 'TAGS', 1 + \count($tags), $this->namespaceTag(), ...$tags];
        }
        // A nil reply is no failure: a tag was invalidated while the value was computed.
        $this->server->runAll($commands);

        return $failed;
    }

    /** With the pool's own namespace one command; with a longer prefix the pool's keys are listed. */
    protected function doClear(string $namespace): bool
    {
        if ($namespace === $this->prefix) {
            return $this->doInvalidate([$this->namespaceTag()]);
        }
        $cursor = '0';
        do {
            [$cursor, $ids] = $this->server->run('CACHE.TAGSCAN', $this->namespaceTag(), $cursor, 'COUNT', 1000);
            $this->doDelete(array_filter($ids, static fn (string $id) => str_starts_with($id, $namespace)));
        } while ('0' !== (string) $cursor);

        return true;
    }

    /** Runs the callback of get() under the lease of the item, or waits for the process that holds it. */
    private function compute(callable $callback, ItemInterface $item, bool &$save, CacheInterface $pool, \Closure $setMetadata, ?LoggerInterface $logger): mixed
    {
        $id = $this->getId($item->getKey());
        $token = random_int(1, 2 ** 53 - 1);
        // A value that is refreshed before its expiry is there for those who get no lease, so they need not wait.
        $mode = $item->isHit() ? ['EARLY'] : ['WAIT', min($this->leaseMs, $this->server->longestWaitMs())];
        try {
            [$state, $data, , $granted] = $this->server->run('CACHE.FETCH', $id, 'LEASE', $this->leaseMs, 'TOKEN', $token, ...$mode);
        } catch (\Exception $e) {
            $this->warn('Failed to fetch key "{key}"', $e, $item->getKey());

            return $callback($item, $save);
        }
        if (!$granted && 'MISS' === $state) {
            // The wait was too short: another process still computes, and will store.
            $value = $callback($item, $save);
            $save = false;

            return $value;
        }
        if (!$granted) {
            $found = $this->unmarshalled($id, $data);
            if (!\is_array($found) || !\array_key_exists('value', $found)) {
                return $callback($item, $save);
            }
            $save = false;

            return $found['value'];
        }
        $stored = false;
        try {
            $value = $callback($item, $save);
            if ($save) {
                $this->leases[$id] = $granted;
                $setMetadata($item);
                $stored = $pool->save($item->set($value));
                $save = false;
            }

            return $value;
        } finally {
            unset($this->leases[$id]);
            if (!$stored) {
                $this->release($id, $granted);
            }
        }
    }

    /** The next process that waits gets the lease. */
    private function release(string $id, int $token): void
    {
        try {
            $this->server->run('CACHE.RELEASE', $id, $token);
        } catch (\Exception $e) {
            $this->warn('Failed to release the lease of "{key}"', $e, $id);
        }
    }

    private function warn(string $what, \Exception $e, string $key = ''): void
    {
        CacheItem::log($this->logger, $what.': '.$e->getMessage(), ['key' => $key, 'exception' => $e, 'cache-adapter' => static::class]);
    }

    /** Symfony checks keys only where assertions are on; PSR-6 wants an exception always. */
    protected function getId(mixed $key, mixed ...$more): string
    {
        CacheItem::validateKey($key);

        return parent::getId($key, ...$more);
    }

    /** Symfony allows no @ in tags, so no item's tag is this one. */
    private function namespaceTag(): string
    {
        return $this->prefix.'@';
    }

    private function tagId(string $tag): string
    {
        return $this->prefix.$tag;
    }

    private function unmarshalled(string $id, string $data): mixed
    {
        try {
            return $this->marshaller->unmarshall($data);
        } catch (\Exception $e) {
            $this->warn('Failed to decode key "{key}", which counts as a miss', $e, $id);

            return null;
        }
    }
}
