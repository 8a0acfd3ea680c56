<?php

declare(strict_types=1);

namespace Tagcache;

use Psr\Log\LoggerInterface;
use Symfony\Contracts\Cache\ItemInterface;

/**
 * The loads of get(): one process runs the callback of an item, the others wait for its value or serve the stale one.
 *
 * @internal part of TagcacheAdapter
 */
trait LeaseTrait
{
    /** @var array<string, int> the lease tokens of the ids that get() is loading */
    private array $leases = [];

    /**
     * Runs the callback of get() under the lease of the item, or waits for the process that holds it.
     *
     * Static, because Symfony copies a pool with its callback wrapper for a namespace below its own.
     */
    private static function compute(callable $callback, ItemInterface $item, bool &$save, self $pool, \Closure $setMetadata, ?LoggerInterface $logger): mixed
    {
        $id = $pool->getId($item->getKey());
        $token = random_int(1, 2 ** 53 - 1);
        // While a value is refreshed before its expiry, callers without a lease can use it, so they need not wait.
        $mode = $item->isHit() ? ['EARLY'] : ['WAIT', min($pool->leaseMs, $pool->server->longestWaitMs())];
        $fetch = static fn (string|int ...$mode) => $pool->server->run('CACHE.FETCH', $id, 'LEASE', $pool->leaseMs, 'TOKEN', $token, ...$mode);
        $granted = 0;
        try {
            [$state, $data, , $granted] = $fetch(...$mode);
            if (!$granted && 'MISS' !== $state) {
                $found = $pool->unmarshalled($id, $data);
                if (\is_array($found) && \array_key_exists('value', $found)) {
                    $save = false;

                    return $found['value'];
                }
                // A value that cannot be decoded may be replaced only under a lease too.
                $granted = $fetch('EARLY')[3];
            }
        } catch (\Exception $e) {
            $pool->warn('Failed to fetch key "{key}"', $e, $item->getKey());
        }
        if (!$granted) {
            $value = $callback($item, $save);
            // Another process computes and stores. Without a lease the server cannot notice an invalidation meanwhile.
            $save = false;

            return $value;
        }
        $stored = false;
        try {
            $value = $callback($item, $save);
            if ($save) {
                $pool->leases[$id] = $granted;
                $setMetadata($item);
                $stored = $pool->save($item->set($value));
                $save = false;
            }

            return $value;
        } finally {
            unset($pool->leases[$id]);
            if (!$stored) {
                $pool->release($id, $granted);
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
}
