<?php

declare(strict_types=1);

namespace Tagcache\Tests;

use Cache\IntegrationTests\CachePoolTest;
use Tagcache\TagcacheAdapter;

/** php-cache's tests of PSR-6 pools. */
final class PoolSuiteTest extends CachePoolTest
{
    public function createCachePool(): TagcacheAdapter
    {
        return new TagcacheAdapter(Connection::open(), 'pool-suite');
    }
}
