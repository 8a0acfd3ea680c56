/** A cache in one process's memory: bounded, with TTLs and tags, and a bounded count of reads per key. */

export interface LocalCacheOptions {
  /** Maximum number of entries; default 100. The least recently used ones are evicted. */
  maxCacheSize?: number;
  /** Maximum number of keys whose reads are counted; default 200. Those with the fewest reads are removed. */
  maxTrackingSize?: number;
}

interface Entry {
  value: unknown;
  expires: number;
  tags: string[];
}

export class LocalCache {
  readonly #maxEntries: number;
  readonly #maxTracked: number;
  /** The most recently used entry is the last one. */
  readonly #entries = new Map<string, Entry>();
  readonly #reads = new Map<string, number>();
  /** Hits since the last `takeHits`. */
  #hits = new Map<string, number>();
  #removals = 0;

  constructor({ maxCacheSize = 100, maxTrackingSize = 200 }: LocalCacheOptions = {}) {
    this.#maxEntries = maxCacheSize;
    this.#maxTracked = maxTrackingSize;
  }

  /** Number of removals that were requested: a value that was read before a removal must not be kept after it. */
  get removals(): number {
    return this.#removals;
  }

  get<T>(key: string): T | null {
    this.#count(this.#reads, key);
    const entry = this.#entries.get(key);
    this.#entries.delete(key);
    if (!entry || entry.expires <= Date.now()) return null;
    this.#entries.set(key, entry);
    this.#count(this.#hits, key);
    return entry.value as T;
  }

  set(key: string, value: unknown, ttl: number, tags: string[]): void {
    this.#entries.delete(key);
    if (ttl <= 0) return;
    this.#entries.set(key, { value, expires: Date.now() + ttl, tags });
    const [oldest] = this.#entries.keys();
    if (this.#entries.size > this.#maxEntries && oldest !== undefined) this.#entries.delete(oldest);
  }

  delete(key: string): void {
    this.#removals++;
    this.#entries.delete(key);
  }

  /** O(entries); there are few. */
  deleteTagged(tags: string[]): void {
    this.#removals++;
    for (const [key, entry] of this.#entries) {
      if (entry.tags.some((tag) => tags.includes(tag))) this.#entries.delete(key);
    }
  }

  clear(): void {
    this.#removals++;
    this.#entries.clear();
  }

  removeExpired(): void {
    const now = Date.now();
    for (const [key, { expires }] of this.#entries) if (expires <= now) this.#entries.delete(key);
  }

  /** The keys that were read most. */
  top(limit: number): Array<{ key: string; count: number }> {
    const keys = Array.from(this.#reads, ([key, count]) => ({ key, count }));
    return keys.sort((a, b) => b.count - a.count).slice(0, limit);
  }

  takeHits(): Array<[key: string, count: number]> {
    const hits = [...this.#hits];
    this.#hits = new Map();
    return hits;
  }

  /** `ttl` in ms. */
  stats(): { totalEntries: number; trackingEntries: number; entries: Array<{ key: string; ttl: number }> } {
    const now = Date.now();
    const entries = Array.from(this.#entries, ([key, { expires }]) => ({ key, ttl: Math.max(0, expires - now) }));
    return { totalEntries: entries.length, trackingEntries: this.#reads.size, entries };
  }

  #count(counts: Map<string, number>, key: string): void {
    counts.set(key, (counts.get(key) ?? 0) + 1);
    if (counts.size <= this.#maxTracked) return;
    // The last key is new and stays, or new keys could never be counted.
    const others = [...counts].slice(0, -1);
    counts.delete(others.reduce((a, b) => (b[1] < a[1] ? b : a))[0]);
  }
}
