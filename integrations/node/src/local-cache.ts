/** A cache in one process's memory: bounded, with times to live and tags, and a bounded count of reads for each key. */

export interface LocalCacheOptions {
  /** Entries at most; default 100. The least recently used ones go first. */
  maxCacheSize?: number;
  /** Keys whose reads are counted at most; default 200. Those with the fewest reads go first. */
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
  /** The most recently used one is the last. */
  readonly #entries = new Map<string, Entry>();
  readonly #reads = new Map<string, number>();
  /** Hits since the last `takeHits`. */
  #hits = new Map<string, number>();
  #removals = 0;

  constructor({ maxCacheSize = 100, maxTrackingSize = 200 }: LocalCacheOptions = {}) {
    this.#maxEntries = maxCacheSize;
    this.#maxTracked = maxTrackingSize;
  }

  /** Grows with each removal that was asked for: what was read before one is not to be kept after it. */
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

  /** O(entries), of which there are few. */
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
    // The last one is new: it stays, or nothing new could ever be counted.
    const others = [...counts].slice(0, -1);
    counts.delete(others.reduce((a, b) => (b[1] < a[1] ? b : a))[0]);
  }
}
