/**
 * The memory optimization guide's `lib/services/unified-cache-service.ts`, with the same calls, bounded and cleaned
 * up as there. Alone it is a cache in the process; after `connect(client)` it stands in front of a server that all
 * processes share: what one of them writes, removes or invalidates is gone from the others' memory too.
 *
 * ```ts
 * import Redis from "ioredis";
 * import { unifiedCacheService as cacheService } from "@tagcache/node/unified-cache-service";
 *
 * await cacheService.connect(new Redis(process.env.REDIS_URL));
 * const user = await cacheService.getOrLoad("user:7", () => loadUser(7), 60_000, ["users"]);
 * await cacheService.invalidateByTag("users");
 * ```
 */
import { randomUUID } from "node:crypto";
import { type Client, type Connection, logError, type Reply } from "./connection.js";
import { LocalCache, type LocalCacheOptions } from "./local-cache.js";
import { type Codec, Store, type StoreOptions } from "./store.js";

export interface UnifiedCacheOptions extends LocalCacheOptions {
  /** Default 60000. */
  cleanupIntervalMs?: number;
}

export interface ConnectOptions extends Omit<StoreOptions, "client" | "prefix"> {
  /** What keys and tags begin with, before a colon; default `cache`. */
  namespace?: string;
  /** The database that the client selected; default 0. */
  database?: number;
}

/** Other languages read it too. */
const JSON_CODEC: Codec = {
  encode: (value) => JSON.stringify(value) ?? "null",
  decode: (bytes) => JSON.parse(String(bytes)),
};

/** All entries of the namespace carry this tag. */
const ALL = "*";
const RETRY_MS = 1_000;

interface Remote {
  store: Store;
  /** The module's channel, and this service's own, for single keys. */
  channels: { tags: string; keys: string };
  /** Names this process in messages about keys. */
  sender: string;
  onError: (error: unknown) => void;
  /** Undefined while messages do not arrive: then nothing is kept in memory, and the server is not asked. */
  subscription?: Connection | undefined;
}

export class UnifiedCacheService {
  readonly #local: LocalCache;
  readonly #loads = new Map<string, Promise<unknown>>();
  readonly #timer: NodeJS.Timeout;
  #remote: Remote | undefined;

  constructor(options: UnifiedCacheOptions = {}) {
    this.#local = new LocalCache(options);
    this.#timer = setInterval(() => this.performCleanup(), options.cleanupIntervalMs ?? 60_000).unref();
  }

  /** Puts the cache in front of a server. Resolves when the server's invalidations reach this process. */
  async connect(client: Client, options: ConnectOptions = {}): Promise<void> {
    const { namespace = "cache", database = 0, onError = logError, ...rest } = options;
    const store = new Store({ ...rest, onError, client, prefix: `${namespace}:` }, JSON_CODEC);
    // Fails where the module is not loaded.
    await store.send("CACHE.CLOCK");
    this.#disconnect();
    const channels = { tags: `__cache@${database}__:invalidate`, keys: store.key("keys") };
    this.#remote = { store, channels, sender: randomUUID(), onError };
    await this.#subscribe(this.#remote);
  }

  /** The value in this process's memory, or null. `getOrLoad` asks the server too. */
  get<T = unknown>(key: string): T | null {
    return this.#local.get<T>(key);
  }

  /**
   * Keeps a value for `ttl` ms. The promise settles when the server has it. A value that was loaded before an
   * invalidation and is set after it is stale: `getOrLoad` rules that out.
   */
  set(key: string, value: unknown, ttl: number, tags: string[] = []): Promise<void> {
    if (ttl <= 0) return this.delete(key);
    // What is being read of the key meanwhile is not kept.
    this.#local.delete(key);
    this.#keep(key, value, ttl, tags);
    return this.#tell(({ store }) => {
      const names = [...new Set([...tags, ALL])].map((tag) => store.key(tag));
      const options = ["PX", Math.max(1, Math.ceil(ttl)), "TAGS", names.length, ...names];
      return [store.send("CACHE.SET", store.key(key), JSON_CODEC.encode(value), ...options), this.#announce(key)];
    });
  }

  /**
   * The value of memory or server, or what `load` returns, which one process calls at a time. What an invalidation
   * overtakes while it is loaded is returned and not kept. Without a server the load goes on as though alone.
   */
  getOrLoad<T>(key: string, load: () => Promise<T> | T, ttl: number, tags: string[] = []): Promise<T> {
    const here = this.#local.get<T>(key);
    if (here !== null) return Promise.resolve(here);
    const running = this.#loads.get(key) as Promise<T> | undefined;
    if (running) return running;
    const loading = this.#load(key, load, ttl, tags).finally(() => this.#loads.delete(key));
    this.#loads.set(key, loading);
    return loading;
  }

  /** Removes one entry, in all processes. */
  delete(key: string): Promise<void> {
    this.#local.delete(key);
    return this.#tell(({ store }) => [store.send("CACHE.DEL", store.key(key)), this.#announce(key)]);
  }

  /** Drops all entries with the tag, in all processes. */
  invalidateByTag(tag: string): Promise<void> {
    this.#local.deleteTagged([tag]);
    return this.#tell(({ store }) => [store.invalidate([tag])]);
  }

  /** Drops everything in the namespace, in all processes. */
  invalidateAll(): Promise<void> {
    this.#local.clear();
    return this.#tell(({ store }) => [store.invalidate([ALL])]);
  }

  /** The keys that this process read most; for all processes it is CACHE.TOP. */
  getTopAccessedKeys(limit = 10): Array<{ key: string; count: number }> {
    return this.#local.top(limit);
  }

  getStats(): ReturnType<LocalCache["stats"]> {
    return this.#local.stats();
  }

  /** The part `cache` of the guide's memory statistics. */
  async getCacheStats() {
    const redis = { connected: false, keyCount: 0 };
    try {
      const info = await this.#remote?.store.send("CACHE.TAGINFO", this.#remote.store.key(ALL));
      if (info !== undefined) Object.assign(redis, { connected: true, keyCount: Number(field(info, "entries") ?? 0) });
    } catch (error) {
      this.#remote?.onError(error);
    }
    return { local: this.getStats(), redis };
  }

  /** Ends the timer and the connections that this service opened. */
  stopCleanup(): void {
    clearInterval(this.#timer);
    this.#disconnect();
  }

  /** Removes what has expired, and reports this process's hits to the server, whose counts are those of all. */
  private performCleanup(): void {
    this.#local.removeExpired();
    const hits = this.#local.takeHits();
    if (hits.length === 0 || !this.#remote) return;
    const { store, onError } = this.#remote;
    store.send("CACHE.HITS", ...hits.flatMap(([key, count]) => [store.key(key), count])).catch(onError);
  }

  async #load<T>(key: string, load: () => Promise<T> | T, ttl: number, tags: string[]): Promise<T> {
    const before = this.#local.removals;
    const keep = (value: T, ms: number, ofTags: string[]) => {
      if (this.#local.removals === before) this.#keep(key, value, ms, ofTags);
      return value;
    };
    const store = this.#remote?.subscription && this.#remote.store;
    const found = await store?.read<T>(key);
    if (found && found.state !== "refresh") return keep(found.value, found.freshMs, found.tags);
    try {
      const value = await load();
      const stored = (await store?.write(key, value, [...tags, ALL], { freshMs: ttl, graceMs: 0 })) ?? true;
      return stored ? keep(value, ttl, tags) : value;
    } catch (error) {
      await store?.release(key);
      throw error;
    }
  }

  #keep(key: string, value: unknown, ttl: number, tags: string[]): void {
    if (!this.#remote || this.#remote.subscription) this.#local.set(key, value, ttl, tags);
  }

  /**
   * Sends commands, if there is a server. The guide's callers do not wait for them: so an error is reported, and
   * rejects the promise of those who do, but does not end the process.
   */
  #tell(commands: (remote: Remote) => Promise<unknown>[]): Promise<void> {
    if (!this.#remote) return Promise.resolve();
    const told = Promise.all(commands(this.#remote)).then(() => {});
    told.catch(this.#remote.onError);
    return told;
  }

  /** Has the other processes forget a key. */
  async #announce(key: string): Promise<void> {
    const remote = this.#remote;
    await remote?.store.send("PUBLISH", remote.channels.keys, JSON.stringify([remote.sender, key]));
  }

  /** Listens on a connection of its own. When that is lost, so is what is in memory, until there is a new one. */
  async #subscribe(remote: Remote): Promise<void> {
    const connection = await remote.store.duplicate();
    const lost = () => {
      if (remote.subscription !== connection) return;
      remote.subscription = undefined;
      this.#local.clear();
      connection.close();
      this.#retry(remote);
    };
    const onMessage = (channel: string, message: Buffer) =>
      channel === remote.channels.keys ? this.#onKey(remote, message) : this.#onInvalidation(remote, message);
    try {
      await connection.subscribe([remote.channels.tags, remote.channels.keys], onMessage, lost);
    } catch (error) {
      connection.close();
      throw error;
    }
    this.#local.clear();
    if (this.#remote === remote) remote.subscription = connection;
    else connection.close();
  }

  #retry(remote: Remote): void {
    setTimeout(() => {
      if (this.#remote !== remote) return;
      this.#subscribe(remote).catch((error) => {
        remote.onError(error);
        this.#retry(remote);
      });
    }, RETRY_MS).unref();
  }

  #disconnect(): void {
    const remote = this.#remote;
    this.#remote = undefined;
    this.#local.clear();
    remote?.subscription?.close();
    remote?.store.close();
  }

  #onKey(remote: Remote, message: Buffer): void {
    const [sender, key] = JSON.parse(String(message)) as [string, string];
    if (sender !== remote.sender) this.#local.delete(key);
  }

  /** The module's message: version, kind, lineage, clock; for the kinds I and R each tag behind its length. */
  #onInvalidation(remote: Remote, message: Buffer): void {
    const kind = String.fromCharCode(message[1] ?? 0);
    if (message[0] !== 2 || (kind !== "I" && kind !== "R")) return this.#local.clear();
    const names: string[] = [];
    for (let at = 18; at < message.length; ) {
      const end = at + 4 + message.readUInt32BE(at);
      names.push(message.toString("utf8", at + 4, end));
      at = end;
    }
    const prefix = remote.store.key("");
    const tags = names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
    if (tags.includes(ALL)) this.#local.clear();
    else if (tags.length > 0) this.#local.deleteTagged(tags);
  }
}

/** RESP3 clients give maps as objects. */
function field(map: Reply, name: string): Reply | undefined {
  if (!Array.isArray(map)) return (map as Record<string, Reply> | null)?.[name];
  const at = map.findIndex((entry) => String(entry) === name);
  return at < 0 ? undefined : map[at + 1];
}

export const unifiedCacheService = new UnifiedCacheService();
