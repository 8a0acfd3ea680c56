<?php

declare(strict_types=1);

namespace Tagcache;

use Symfony\Component\Cache\Adapter\AbstractTagAwareAdapter;
use Symfony\Component\Cache\CacheItem;
use Symfony\Component\Cache\Exception\InvalidArgumentException;
use Symfony\Component\Cache\Marshaller\DefaultMarshaller;
use Symfony\Component\Cache\Marshaller\MarshallerInterface;
use Symfony\Component\Cache\Marshaller\TagAwareMarshaller;

/**
 * A PSR-6 pool with tags for Symfony's cache component, on phpredis and a server with the tagcache module.
 *
 * invalidateTags() and clear() are one command each, for any number of items. The callback of get() runs in one
 * process at a time; the others wait. A value that it read before an invalidation is not stored.
 *
 * As PSR-6 requires, errors of the server throw no exceptions: they are logged, and an item is a miss or is not saved.
 */
class TagcacheAdapter extends AbstractTagAwareAdapter
{
    use LeaseTrait;

    /** Symfony allows no @ in tags, so no item's own tag is this one. */
    private const NAMESPACE_TAG = '@';

    private readonly Server $server;
    private readonly string $prefix;
    private readonly string $namespaceTag;
    private readonly MarshallerInterface $marshaller;

    /**
     * @param string $namespace       prefix of each key and each tag; '' shares tags with programs in other languages
     * @param int    $defaultLifetime seconds; 0: tagcache.default-ttl-ms applies
     * @param int    $leaseMs         time that the callback of get() may run before another process runs it too;
     *                                at most tagcache.lease-max-ms
     */
    public function __construct(
        \Redis|\RedisCluster $redis,
        string $namespace = '',
        int $defaultLifetime = 0,
        ?MarshallerInterface $marshaller = null,
        private readonly int $leaseMs = 10_000,
    ) {
        parent::__construct($namespace, $defaultLifetime);
        $this->server = new Server($redis);
        $this->prefix = '' === $namespace ? '' : $namespace.':';
        $this->namespaceTag = $this->prefix.self::NAMESPACE_TAG;
        $this->marshaller = new TagAwareMarshaller($marshaller ?? new DefaultMarshaller());
        $this->setCallbackWrapper(self::compute(...));
    }

    protected function doFetch(array $ids): iterable
    {
        foreach ($this->server->together(array_values($ids)) as $some) {
            foreach ($this->server->run('CACHE.MGET', ...$some) as $index => $data) {
                if (\is_string($data) && null !== $value = $this->unmarshalled($some[$index], $data)) {
                    yield $some[$index] => $value;
                }
            }
        }
    }

    protected function doHave(string $id): bool
    {
        return (bool) $this->server->run('CACHE.EXISTS', $id);
    }

    protected function doDelete(array $ids): bool
    {
        foreach ($this->server->together(array_values($ids)) as $some) {
            $this->server->run('CACHE.DEL', ...$some);
        }

        return true;
    }

    /** The server removes the tags of deleted entries itself. */
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
        $this->server->everywhere('CACHE.INVALIDATE', ...$tagIds);

        return true;
    }

    public function invalidateTags(array $tags): bool
    {
        if (!$tags) {
            return false;
        }
        if (\in_array(self::NAMESPACE_TAG, $tags, true)) {
            throw new InvalidArgumentException(sprintf('The tag "%s" is that of all items: use clear().', self::NAMESPACE_TAG));
        }
        try {
            return $this->doInvalidate($this->tagIds($tags));
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
            $tags = $this->tagIds($values[$id]['tags'] ?? []);
            $commands[] = ['CACHE.SET', $id, $data, ...$options, 'TAGS', 1 + \count($tags), $this->namespaceTag, ...$tags];
        }
        // A nil reply is no failure: a tag was invalidated while the value was computed.
        $this->server->runAll($commands);

        return $failed;
    }

    /** One command for the pool's own namespace; for a longer prefix the pool's keys are listed. */
    protected function doClear(string $namespace): bool
    {
        if ($namespace === $this->prefix) {
            return $this->doInvalidate([$this->namespaceTag]);
        }
        foreach ($this->server->nodes() as $node) {
            $cursor = 0;
            do {
                [$cursor, $ids] = $this->server->runOn($node, 'CACHE.TAGSCAN', $this->namespaceTag, $cursor, 'COUNT', 1000);
                $this->doDelete(array_filter($ids, static fn (string $id) => str_starts_with($id, $namespace)));
            } while (0 !== (int) $cursor);
        }

        return true;
    }

    private function warn(string $what, \Exception $e, string $key = ''): void
    {
        CacheItem::log($this->logger, $what.': '.$e->getMessage(), ['key' => $key, 'exception' => $e, 'cache-adapter' => static::class]);
    }

    /** Symfony checks keys only if assertions are on; PSR-6 always requires an exception. */
    protected function getId(mixed $key, mixed ...$more): string
    {
        CacheItem::validateKey($key);

        return parent::getId($key, ...$more);
    }

    /** @return list<string> */
    private function tagIds(array $tags): array
    {
        return array_map(fn (string $tag) => $this->prefix.$tag, array_values($tags));
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
