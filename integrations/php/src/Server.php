<?php

declare(strict_types=1);

namespace Tagcache;

/**
 * Runs CACHE commands on phpredis: on one server, or on a cluster, where a key belongs to one node and a tag's items are
 * on all of them. phpredis's options for key prefixes, serializers and compression have no effect on them.
 */
final class Server
{
    /** If all primaries reply within this time, the command counts as simultaneous: half of the module's limit. */
    private const AT_ONCE_NS = 500_000_000;

    /** The database to select again on the next connection; 0 needs no SELECT. */
    private int $database = 0;

    public function __construct(private readonly \Redis|\RedisCluster $redis)
    {
    }

    /**
     * Runs a command whose first argument is a key, on the node of that key. Nil becomes null or false.
     *
     * @throws \RedisException|\RedisClusterException also for an error reply
     * @throws ModuleMissing
     */
    public function run(string $command, string|int ...$arguments): mixed
    {
        if ($this->redis instanceof \Redis) {
            return $this->send($command, ...$arguments);
        }
        $key = (string) $arguments[0];
        try {
            return $this->send($key, $command, ...$arguments);
        } catch (\RedisClusterException) {
            // A raw command follows no redirection. A native one does, and phpredis remembers its target.
            $this->guarded(fn () => $this->redis->exists($key));

            return $this->send($key, $command, ...$arguments);
        }
    }

    /**
     * Runs a command on the server, or on each primary of a cluster. If one fails the others have run it. If that
     * took too long, all run it twice: slots may have moved meanwhile, with entries that the last primary wrote before
     * it got the command.
     *
     * @return list<mixed>
     *
     * @throws \RedisException|\RedisClusterException
     * @throws ModuleMissing
     */
    public function everywhere(string|int ...$command): array
    {
        $begun = hrtime(true);
        $replies = $this->onEach(...$command);
        if (\count($replies) > 1 && hrtime(true) - $begun > self::AT_ONCE_NS) {
            $this->onEach(...$command);
        }

        return $replies;
    }

    /** @return list<mixed> */
    private function onEach(string|int ...$command): array
    {
        [$replies, $failed] = [[], null];
        foreach ($this->nodes() as $node) {
            try {
                $replies[] = $this->send(...$node, ...$command);
            } catch (\Exception $e) {
                $failed = $e;
            }
        }

        return $failed ? throw $failed : $replies;
    }

    /** @return list<list<mixed>> for each primary the arguments that precede a command */
    public function nodes(): array
    {
        return $this->redis instanceof \Redis ? [[]] : array_map(static fn (array $node) => [$node], $this->redis->_masters());
    }

    /** Runs a command on one of the nodes(). */
    public function runOn(array $node, string|int ...$command): mixed
    {
        return $this->send(...$node, ...$command);
    }

    /**
     * The keys that one command may name: all, or in a cluster each alone.
     *
     * @param list<string> $keys
     *
     * @return list<list<string>>
     */
    public function together(array $keys): array
    {
        return $keys && $this->redis instanceof \Redis ? [$keys] : array_map(static fn (string $key) => [$key], $keys);
    }

    private function send(array|string|int ...$command): mixed
    {
        $parts = array_map(static fn ($part) => \is_array($part) ? $part : (string) $part, $command);

        return $this->guarded(fn () => $this->redis->rawCommand(...$parts));
    }

    /** Uses the client. Closes the connection after an error: a late reply would be taken for the next command's. */
    private function guarded(\Closure $use): mixed
    {
        try {
            $this->selectAgain();
            $this->redis->clearLastError();
            $reply = $use();
        } catch (\RedisException|\RedisClusterException $e) {
            $this->hangUp();
            throw $e;
        }
        $this->throwLastError();

        return $reply;
    }

    /** phpredis connects again with the next command, but forgets the database. */
    private function hangUp(): void
    {
        if ($this->redis instanceof \Redis && $this->redis->isConnected()) {
            $this->database = $this->redis->getDbNum() ?: $this->database;
        }
        try {
            $this->redis->close();
            $this->selectAgain();
        } catch (\RedisException) {
            // The next command tries again, on a new connection without a pending SELECT.
            $this->redis->close();
        }
    }

    private function selectAgain(): void
    {
        if ($this->database && $this->redis instanceof \Redis && $this->redis->select($this->database)) {
            $this->database = 0;
        }
    }

    /**
     * Runs several commands in one round trip, in a cluster one after the other, and drops their replies.
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
        if ($this->redis instanceof \RedisCluster) {
            foreach ($commands as $command) {
                $this->run(...$command);
            }

            return;
        }
        $this->guarded(function () use ($commands): void {
            $pipeline = $this->redis->multi(\Redis::PIPELINE);
            foreach ($commands as $command) {
                $pipeline->rawCommand(...array_map('strval', $command));
            }
            $pipeline->exec();
        });
    }

    /** Time that a command may block: half the read time-out, after which phpredis considers the connection dead. */
    public function longestWaitMs(): int
    {
        $seconds = $this->redis->getOption(\Redis::OPT_READ_TIMEOUT) ?: (float) \ini_get('default_socket_timeout');

        return $seconds > 0 ? (int) ($seconds * 500) : \PHP_INT_MAX;
    }

    /** phpredis returns false both for nil and for an error, and stores the error's text. */
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
