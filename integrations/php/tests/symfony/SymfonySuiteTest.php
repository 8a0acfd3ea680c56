<?php

declare(strict_types=1);

namespace Tagcache\Tests;

use Symfony\Component\Cache\Tests\Adapter\AdapterTestCase;
use Symfony\Component\Cache\Tests\Adapter\TagAwareTestTrait;
use Tagcache\TagcacheAdapter;

/** Symfony's tests of cache adapters, and of those with tags. */
final class SymfonySuiteTest extends AdapterTestCase
{
    use TagAwareTestTrait;

    public function createCachePool(int $defaultLifetime = 0, ?string $testMethod = null): TagcacheAdapter
    {
        return new TagcacheAdapter(Connection::open(), 'symfony-suite', $defaultLifetime);
    }
}
