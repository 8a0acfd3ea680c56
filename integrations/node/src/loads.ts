/** The loads that a process has begun by reading: what the writes of their values are to be judged by. */

export interface Load {
  /** The lease, 0: none. */
  token: number;
  readerTags: string[];
  since: number;
}

/** Loads that were begun and never written are forgotten when there are this many. */
const MOST = 10_000;

export class Loads {
  readonly #loads = new Map<string, Load>();
  readonly #leaseMs: number;

  constructor(leaseMs: number) {
    this.#leaseMs = leaseMs;
  }

  begin(key: string, load: Load): void {
    const before = this.#loads.get(key);
    // Another request of this process loads under that lease.
    if (load.token === 0 && before && before.token > 0 && load.since - before.since < this.#leaseMs) return;
    this.#loads.delete(key);
    this.#loads.set(key, load);
    const [oldest] = this.#loads.keys();
    if (this.#loads.size > MOST && oldest !== undefined) this.#loads.delete(oldest);
  }

  end(key: string): Load | undefined {
    const load = this.#loads.get(key);
    this.#loads.delete(key);
    return load;
  }
}
