<?php

declare(strict_types=1);

namespace Tagcache;

/**
 * Runs CACHE commands on phpredis. Its options for key prefixes, serializers and compression do not reach them.
 */
final class Server
{
    public function __construct(private readonly \Redis $redis)
    {
    }

    /**
     * @throws \RedisException also for an error that the server replies
     * @throws ModuleMissing
     */
    public function run(string|int ...$command): mixed
    {
        $this->redis->clearLastError();
        $reply = $this->redis->rawCommand(...array_map('strval', $command));
        $this->throwLastError();

        return $reply;
    }

    /**
     * Runs several commands in one round trip, and drops their replies.
     *
     * @param list<list<string|int>> $commands
     *
     * @throws \RedisException if one of them fails; the others may have been executed
     * @throws ModuleMissing
     */
    public function runAll(array $commands): void
    {
        if (!$commands) {
            return;
        }
        $this->redis->clearLastError();
        $pipeline = $this->redis->multi(\Redis::PIPELINE);
        foreach ($commands as $command) {
            $pipeline->rawCommand(...array_map('strval', $command));
        }
        $pipeline->exec();
        $this->throwLastError();
    }

    /** How long a command may block: half the read time-out, after which phpredis takes the connection for dead. */
    public function longestWaitMs(): int
    {
        $seconds = $this->redis->getReadTimeout() ?: (float) \ini_get('default_socket_timeout');

        return $seconds > 0 ? (int) ($seconds * 500) : \PHP_INT_MAX;
    }

    /** phpredis returns false both for nil and for an error, and keeps the latter's text. */
    private function throwLastError(): void
    {
        if (null === $error = $this->redis->getLastError()) {
            return;
        }
        if (false !== stripos($error, 'unknown command')) {
            throw new ModuleMissing($error);
        }
        throw new \RedisException($error);
    }
}
