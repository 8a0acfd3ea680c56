<?php

declare(strict_types=1);

namespace Tagcache\Tests;

/** Connections to the server that integrations/php/test starts. */
final class Connection
{
    public static function open(string $port = 'TAGCACHE_PORT'): \Redis
    {
        $redis = new \Redis();
        $redis->connect('127.0.0.1', (int) getenv($port));

        return $redis;
    }
}
