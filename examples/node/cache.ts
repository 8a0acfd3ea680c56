/**
 * A thin helper for ioredis: JSON values with tags, and loads under a lease. Copy it into your application.
 *
 *     const cache = new Cache(new Redis(), { prefix: "shop:" });
 *     const user = await cache.getOrLoad("user:7", () => query(7), { ttlMs: 300_000, tags: ["tenant:7"] });
 *     await cache.invalidate(["tenant:7"]);
 *
 * `prefix` stands before each key and each tag: applications that share a database do not share tags. ioredis's own
 * `keyPrefix` does not reach these commands; leave it unset, so that it is not mistaken for the prefix.
 *
 * Only the Rust client has a local tier (here every read is a round trip), repeats invalidations to a server that was
 * unreachable, and supports clusters. Here a failed invalidation rejects, and the caller must repeat it.
 */
import { randomInt } from "node:crypto";

type Argument = string | Buffer | number;

/** The part of an ioredis client that is used here. */
export interface Client {
  callBuffer(command: string, ...args: Argument[]): Promise<unknown>;
  duplicate(): Client;
  disconnect(): void;
}

export interface Options {
  /** Prefix of keys and tags. */
  prefix?: string;
  /** How long a load may take, in ms, before another caller loads too; 10,000. */
  leaseMs?: number;
  /** How long a caller waits for another one's load, in ms; then it loads as well and stores nothing; 5,000. */
  waitMs?: number;
}

export interface Entry {
  ttlMs: number;
  tags?: readonly string[];
  /** How long the value may be served as stale after it expired, in ms; 0. */
  graceMs?: number;
}

type Fetched = [state: Buffer, value: Buffer | null, ttlMs: number, token: number, tags: Buffer[]];

export class Cache {
  readonly #client: Client;
  readonly #options: Required<Options>;
  readonly #loads = new Map<string, Promise<unknown>>();

  constructor(client: Client, options: Options = {}) {
    this.#client = client;
    this.#options = { prefix: "", leaseMs: 10_000, waitMs: 5_000, ...options };
  }

  async get<T>(key: string): Promise<T | undefined> {
    const data = await this.#client.callBuffer("CACHE.GET", this.#name(key));
    return data === null ? undefined : (parse(data as Buffer) as T);
  }

  async set(key: string, value: unknown, entry: Entry): Promise<void> {
    await this.#set(key, value, entry);
  }

  /** Drops the entries with one of these tags, or makes them stale, and returns their number. */
  async invalidate(tags: readonly string[], { soft = false } = {}): Promise<number> {
    const names = tags.map((tag) => this.#name(tag));
    return Number(await this.#client.callBuffer(soft ? "CACHE.REVALIDATE" : "CACHE.INVALIDATE", ...names));
  }

  /**
   * The cached value, or that of `load()`. One caller of all processes loads; the others wait, or get the stale
   * value within its grace. Callers of this process that ask at the same time share one read.
   */
  getOrLoad<T>(key: string, load: () => Promise<T> | T, entry: Entry): Promise<T> {
    const under = this.#loads.get(key);
    if (under) return under as Promise<T>;
    const read = this.#load(key, load, entry).finally(() => this.#loads.delete(key));
    this.#loads.set(key, read);
    return read;
  }

  async #load<T>(key: string, load: () => Promise<T> | T, entry: Entry): Promise<T> {
    const [state, data, , granted] = await this.#fetch(key);
    // A state is HIT, STALE or MISS; a token of 0 means no lease.
    if (data !== null && (String(state) === "HIT" || granted === 0)) return parse(data) as T;
    let value: T;
    try {
      value = await load();
    } catch (error) {
      if (granted !== 0) await this.#client.callBuffer("CACHE.RELEASE", this.#name(key), granted);
      // A stale value is better than an error.
      if (data === null) throw error;
      return parse(data) as T;
    }
    // A nil reply is no error: one of the tags was invalidated during the load, so the value is not cached.
    if (granted !== 0) await this.#set(key, value, entry, granted);
    return value;
  }

  async #fetch(key: string): Promise<Fetched> {
    const { leaseMs, waitMs } = this.#options;
    // Below 2^48, as randomInt requires; the server takes up to 2^63 - 1.
    const ask = [this.#name(key), "LEASE", leaseMs, "TOKEN", randomInt(1, 2 ** 48 - 1)];
    const found = (await this.#client.callBuffer("CACHE.FETCH", ...ask)) as Fetched;
    if (found[1] !== null || found[3] !== 0) return found;
    // A wait blocks its connection, and ioredis sends everything over one.
    const own = this.#client.duplicate();
    try {
      return (await own.callBuffer("CACHE.FETCH", ...ask, "WAIT", waitMs)) as Fetched;
    } finally {
      own.disconnect();
    }
  }

  #set(key: string, value: unknown, { ttlMs, tags = [], graceMs = 0 }: Entry, token?: number): Promise<unknown> {
    const names = tags.map((tag) => this.#name(tag));
    const lease = token === undefined ? [] : ["LEASE", token];
    const times = ["PX", ttlMs, "GRACE", graceMs];
    const data = JSON.stringify(value);
    return this.#client.callBuffer("CACHE.SET", this.#name(key), data, ...times, ...lease, "TAGS", names.length, ...names);
  }

  #name(name: string): string {
    return this.#options.prefix + name;
  }
}

function parse(data: Buffer): unknown {
  return JSON.parse(data.toString());
}
