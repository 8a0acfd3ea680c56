<?php

declare(strict_types=1);

namespace Tagcache\Tests;

use Cache\IntegrationTests\SimpleCacheTest;
use Symfony\Component\Cache\Psr16Cache;
use Tagcache\TagcacheAdapter;

/** php-cache's tests of PSR-16 caches, on Symfony's PSR-16 front of the pool. */
final class SimpleCacheSuiteTest extends SimpleCacheTest
{
    public function createSimpleCache(): Psr16Cache
    {
        return new Psr16Cache(new TagcacheAdapter(Connection::open(), 'simple-suite'));
    }
}
