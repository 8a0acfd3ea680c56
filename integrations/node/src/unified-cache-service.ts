/**
 * The memory optimization guide's `lib/services/unified-cache-service.ts`, with the same calls, limits and cleanup.
 * Alone it is a cache in the process; after `connect(client)` it is a local tier before a server that all processes
 * share: a change by one of them removes the entry from the others' memory too.
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
import type { AnyClient } from "./cluster.js";
import type { Listener } from "./invalidations.js";
import { now } from "./loads.js";
import { LocalCache, type LocalCacheOptions } from "./local-cache.js";
import { ALL, type ConnectOptions, SharedCache } from "./shared-cache.js";
import { SingleFlight } from "./single-flight.js";

export type { ConnectOptions } from "./shared-cache.js";

export interface UnifiedCacheOptions extends LocalCacheOptions {
  /** Default 60000. */
  cleanupIntervalMs?: number;
}

export class UnifiedCacheService {
  readonly #local: LocalCache;
  readonly #loads = new SingleFlight();
  /** Removes changed entries from memory; callers from now on do not share a load that began before the change. */
  readonly #forget: Listener = {
    everything: () => {
      this.#local.clear();
      this.#loads.overtake.everything();
    },
    key: (key) => {
      this.#local.delete(key);
      this.#loads.overtake.key(key);
    },
    tags: (tags) => {
      if (tags.includes(ALL)) return this.#forget.everything();
      this.#local.deleteTagged(tags);
      this.#loads.overtake.tags(tags);
    },
  };
  readonly #timer: NodeJS.Timeout;
  #shared: SharedCache | undefined;

  constructor(options: UnifiedCacheOptions = {}) {
    this.#local = new LocalCache(options);
    this.#timer = setInterval(() => this.performCleanup(), options.cleanupIntervalMs ?? 60_000).unref();
  }

  /** Puts the cache in front of a server. Resolves when the server's invalidations reach this process. */
  async connect(client: AnyClient, options: ConnectOptions = {}): Promise<void> {
    const shared = new SharedCache(client, options, this.#forget);
    await shared.check();
    this.#disconnect();
    this.#shared = shared;
    await shared.listen();
  }

  /** The value in this process's memory, or null. `getOrLoad` reads from the server too. */
  get<T = unknown>(key: string): T | null {
    return this.#local.get<T>(key);
  }

  /**
   * Keeps a value for `ttl` ms. The promise settles when the server has it. If a value is loaded before an invalidation
   * and set after it, it is stale: `getOrLoad` prevents that.
   */
  set(key: string, value: unknown, ttl: number, tags: string[] = []): Promise<void> {
    if (ttl <= 0) return this.delete(key);
    // A value of the key that is being read meanwhile must not be kept.
    this.#forget.key(key);
    this.#keep(key, value, ttl, tags);
    return this.#tell((shared) => shared.set(key, value, ttl, tags));
  }

  /**
   * The value from memory or the server, or that of `load`, which one process calls at a time. If an invalidation comes
   * during the load, the value is returned and not kept. Without a server the load runs as in a single process.
   */
  getOrLoad<T>(key: string, load: () => Promise<T> | T, ttl: number, tags: string[] = []): Promise<T> {
    const here = this.#local.get<T>(key);
    if (here !== null) return Promise.resolve(here);
    return this.#loads.run(key, tags, () => this.#load(key, load, ttl, tags));
  }

  /** Removes one entry, in all processes. */
  delete(key: string): Promise<void> {
    this.#forget.key(key);
    return this.#tell((shared) => shared.delete(key));
  }

  /** Drops all entries with the tag, in all processes. */
  invalidateByTag(tag: string): Promise<void> {
    this.#forget.tags([tag]);
    return this.#tell(({ store }) => store.invalidate([tag]));
  }

  /** Drops everything in the namespace, in all processes. */
  invalidateAll(): Promise<void> {
    this.#forget.everything();
    return this.#tell(({ store }) => store.invalidate([ALL]));
  }

  /** The keys that this process read most; CACHE.TOP lists those of all processes. */
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
      if (this.#shared) Object.assign(redis, { keyCount: await this.#shared.keyCount(), connected: true });
    } catch (error) {
      this.#shared?.onError(error);
    }
    return { local: this.getStats(), redis };
  }

  /** Ends the timer and the connections that this service opened. */
  stopCleanup(): void {
    clearInterval(this.#timer);
    this.#disconnect();
  }

  /** Removes expired entries, and reports this process's hits to the server, which counts those of all processes. */
  private performCleanup(): void {
    this.#local.removeExpired();
    const hits = this.#local.takeHits();
    this.#shared?.report(hits);
  }

  async #load<T>(key: string, load: () => Promise<T> | T, ttl: number, tags: string[]): Promise<T> {
    const before = this.#local.removals;
    const keep = (value: T, ms: number, ofTags: string[]) => {
      if (this.#local.removals === before) this.#keep(key, value, ms, ofTags);
      return value;
    };
    const store = this.#shared?.isListening ? this.#shared.store : undefined;
    const found = await store?.read<T>(key);
    if (found && found.state !== "refresh") return keep(found.value, found.freshMs, found.tags);
    const startedAt = now();
    try {
      const value = await load();
      const stored = (await store?.write(key, value, [...tags, ALL], { freshMs: ttl, graceMs: 0 }, startedAt)) ?? true;
      return stored ? keep(value, ttl, tags) : value;
    } catch (error) {
      await store?.release(key, startedAt);
      throw error;
    }
  }

  #keep(key: string, value: unknown, ttl: number, tags: string[]): void {
    if (this.#shared?.isListening ?? true) this.#local.set(key, value, ttl, tags);
  }

  /**
   * Sends the change to the server, if there is one. The guide's callers do not wait for it: so an error is reported,
   * and rejects the promise for callers that wait, but does not end the process.
   */
  #tell(change: (shared: SharedCache) => Promise<void>): Promise<void> {
    if (!this.#shared) return Promise.resolve();
    const told = change(this.#shared);
    told.catch(this.#shared.onError);
    return told;
  }

  #disconnect(): void {
    this.#forget.everything();
    this.#shared?.close();
    this.#shared = undefined;
  }
}

export const unifiedCacheService = new UnifiedCacheService();
