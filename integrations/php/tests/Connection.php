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

    /** The cluster of three primaries that it starts too. */
    public static function cluster(float $readTimeout = 5): \RedisCluster
    {
        $ports = explode(' ', trim(getenv('TAGCACHE_CLUSTER_PORTS')));

        return new \RedisCluster(null, array_map(static fn (string $port) => '127.0.0.1:'.$port, $ports), 5, $readTimeout);
    }
}
