/**
 * The handler for `use cache` and `use cache: remote` (Next.js 16, option `cacheHandlers`).
 *
 * ```js
 * // cache-handler.mjs
 * import Redis from "ioredis";
 * import { useCacheHandler } from "@tagcache/node/next";
 * export default useCacheHandler({ client: new Redis(process.env.REDIS_URL) });
 * ```
 */
import { now } from "../loads.js";
import { Store, type StoreOptions } from "../store.js";
import { short } from "./tag.js";

/** Next.js's `CacheEntry`: times in seconds, except `timestamp` (unix ms). */
export interface CacheEntry {
  value: ReadableStream<Uint8Array>;
  tags: string[];
  stale: number;
  timestamp: number;
  expire: number;
  revalidate: number;
}

/** Next.js's `CacheHandler`. */
export interface CacheHandler {
  get(cacheKey: string, softTags: string[]): Promise<CacheEntry | undefined>;
  set(cacheKey: string, pendingEntry: Promise<CacheEntry>): Promise<void>;
  refreshTags(): Promise<void>;
  getExpiration(tags: string[]): Promise<number>;
  updateTags(tags: string[], durations?: { expire?: number }): Promise<void>;
}

export interface UseCacheHandler extends CacheHandler {
  /** Closes the connections that the handler opened beside the client. Next.js does not call it. */
  close(): void;
}

/** The stored value: the entry with its bytes instead of a stream; the server keeps the tags. */
interface Stored {
  bytes: Uint8Array;
  stale: number;
  timestamp: number;
  expire: number;
  revalidate: number;
}

/** Seconds for which Next.js sees a stale entry as fresh while another process refreshes it. */
export const REFRESHING = 5;

/** Keys and tags begin with `next:use:` unless the options set another prefix. */
export function useCacheHandler(options: StoreOptions): UseCacheHandler {
  const store = new Store({ prefix: "next:use:", ...options });
  const pending = new Map<string, Promise<void>>();

  async function save(key: string, pendingEntry: Promise<CacheEntry>): Promise<void> {
    const calledAt = now();
    let entry: CacheEntry;
    let bytes: Uint8Array;
    try {
      entry = await pendingEntry;
      bytes = new Uint8Array(await new Response(entry.value).arrayBuffer());
    } catch {
      // The render failed half-way, which Next.js reports: its part is not stored, and the next process may try.
      return store.release(key, calledAt);
    }
    const { tags, stale, timestamp, expire, revalidate } = entry;
    // Next.js renders such an entry anew on every read.
    if (expire <= 0) return store.release(key, timestamp);
    const age = Date.now() - timestamp;
    const life = { freshMs: Math.min(revalidate, expire) * 1000 - age, graceMs: expire * 1000 - age };
    await store.write(key, { bytes, stale, timestamp, expire, revalidate } satisfies Stored, short(tags), life, timestamp);
  }

  return {
    async get(key, softTags) {
      await pending.get(key);
      const found = await store.read<Stored>(key, short(softTags));
      if (!found) return undefined;
      const { bytes, ...entry } = found.value;
      // Next.js starts a render for an entry that is past `revalidate`. So the process that holds the lease gets an
      // entry that is always past it. The others get one before it, since a render of theirs would only repeat that
      // work. The server decides, regardless of this machine's clock.
      const past = Date.now() > entry.timestamp + entry.revalidate * 1000;
      const isOver = Date.now() > entry.timestamp + entry.expire * 1000;
      if (found.state === "refresh") entry.revalidate = -1;
      // Past `expire` Next.js does not serve the entry, and renders.
      else if ((found.state === "stale" || past) && !isOver) Object.assign(entry, { timestamp: Date.now(), revalidate: REFRESHING });
      return { ...entry, tags: found.tags, value: new Response(bytes as BodyInit).body as ReadableStream<Uint8Array> };
    },

    async set(key, pendingEntry) {
      const saving = save(key, pendingEntry);
      pending.set(key, saving);
      try {
        await saving;
      } finally {
        if (pending.get(key) === saving) pending.delete(key);
      }
    },

    // No tags are kept here: the server checks them on each read.
    async refreshTags() {},

    /** Infinity: soft tags must be passed to `get`, which lets the server check them with the read itself. */
    async getExpiration() {
      return Number.POSITIVE_INFINITY;
    },

    updateTags: (tags, durations) => store.invalidate(short(tags), durations),

    close: () => store.close(),
  };
}
