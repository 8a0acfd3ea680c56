/** The loads that a process has begun by reading: what the writes of their values are to be judged by. */

export interface Load {
  /** The lease, 0: none. */
  token: number;
  readerTags: string[];
  /** By `now`, before the server was asked. */
  since: number;
}

/** Keys whose loads were begun and never written are forgotten when there are this many. */
const MOST = 10_000;
/** As many loads of one key are kept: those of them that are never written would add up. */
const MOST_OF_KEY = 8;

/** Unix ms by the clock that Next.js takes an entry's `timestamp` from. It never goes back, as Date.now() may. */
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
    // Each hit is a load without a lease, so only the last of those is kept.
    const kept = load.token === 0 ? before.filter(({ token }) => token > 0) : before;
    this.#loads.delete(key);
    this.#loads.set(key, [...kept, load].slice(-MOST_OF_KEY));
    const [oldest] = this.#loads.keys();
    if (this.#loads.size > MOST && oldest !== undefined) this.#loads.delete(oldest);
  }

  /**
   * Ends the load of what began at `startedAt`, and returns its lease. It may be that of another request of this process,
   * whose render failed; but never one that was granted after `startedAt`: an invalidation may lie between the two,
   * which that lease knows nothing of. The tags are those of all readers.
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
