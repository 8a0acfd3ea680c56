/** The loads that a process began by reading. Writes of their values are checked against them. */

export interface Load {
  /** The lease; 0 if there is none. */
  token: number;
  readerTags: string[];
  /** Time by `now`, before the server was asked. */
  since: number;
}

/** Maximum number of keys; beyond it the oldest one is forgotten, since some loads are never written. */
const MOST = 10_000;
/** Maximum number of loads per key, since some are never written. */
const MOST_OF_KEY = 8;

/** Unix ms by the clock that sets an entry's `timestamp` in Next.js. It never goes back, as Date.now() may. */
export function now(): number {
  return performance.timeOrigin + performance.now();
}

export class Loads {
  readonly #loads = new Map<string, Load[]>();
  readonly #leaseMs: number;

  constructor(leaseMs: number) {
    this.#leaseMs = leaseMs;
  }

  begin(key: string, load: Load): void {
    const before = this.#loads.get(key) ?? [];
    // Each hit is a load without a lease, so only the last of them is kept.
    const kept = load.token === 0 ? before.filter(({ token }) => token > 0) : before;
    this.#loads.delete(key);
    this.#loads.set(key, [...kept, load].slice(-MOST_OF_KEY));
    const [oldest] = this.#loads.keys();
    if (this.#loads.size > MOST && oldest !== undefined) this.#loads.delete(oldest);
  }

  /**
   * Ends the load that began at `startedAt`, and returns its lease. The lease may be that of another request of this
   * process, whose render failed, but never one that was granted after `startedAt`: it would not notice an invalidation
   * between `startedAt` and its grant. The tags are those of all readers.
   */
  end(key: string, startedAt: number): Omit<Load, "since"> {
    const loads = this.#loads.get(key) ?? [];
    const lease = loads.findLast(
      ({ token, since }) => token > 0 && since <= startedAt && startedAt - since < this.#leaseMs,
    );
    const others = loads.filter((load) => load !== lease && (load.token > 0 || load.since > startedAt));
    if (others.length > 0) this.#loads.set(key, others);
    else this.#loads.delete(key);
    return { token: lease?.token ?? 0, readerTags: [...new Set(loads.flatMap(({ readerTags }) => readerTags))] };
  }
}
