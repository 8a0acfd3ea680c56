/**
 * A cache of one application in the server: reads that hand the load of a missing or stale entry to one process,
 * writes that an invalidation during the load refuses, and invalidations.
 */
import { randomInt } from "node:crypto";
import { deserialize, serialize } from "node:v8";
import { type Argument, type Client, Connection, logError, type Reply, within } from "./connection.js";

export interface StoreOptions {
  /** An ioredis or node-redis client, which stays the caller's. */
  client: Client;
  /** What keys and tags begin with. */
  prefix?: string;
  /** How long one process may load an entry before another one may too, in ms; default 30000. */
  leaseMs?: number;
  /** How long a process waits for an entry that another one loads, in ms, before it loads too; default 5000. */
  waitMs?: number;
  /** How many entries one process waits for at the same time, each on a connection of its own; default 8. */
  waiters?: number;
  /** How long a command may take, in ms; default 2000. */
  timeoutMs?: number;
  /** How long an entry is kept at most, in seconds; default 30 days. */
  maxAge?: number;
  /** How far this machine's clock may be from the server's, in ms; default 1000. Only for loads without a lease. */
  clockSkewMs?: number;
  /** Called with errors that do not reach the caller. Default: one line on standard error, one a second at most. */
  onError?: (error: unknown) => void;
}

/** How values become bytes. What `decode` throws makes a value a miss. */
export interface Codec {
  encode(value: unknown): Buffer | string;
  decode(bytes: Buffer): unknown;
}

/** Node's own format: Buffers and Maps stay what they are. Processes must run the same version of Node, or newer. */
export const V8: Codec = { encode: serialize, decode: deserialize };

/** How long an entry is fresh, and how long it may be served as stale after that or after a soft invalidation. */
export interface Lifetime {
  freshMs: number;
  graceMs: number;
}

export interface Found<T> {
  value: T;
  tags: string[];
  /** How long it stays fresh; Infinity: until it is invalidated. */
  freshMs: number;
  /** `refresh`: stale, and this process is the one to load it again. `stale`: another one does. */
  state: "fresh" | "refresh" | "stale";
}

/** What is remembered of a read until the entry is written: what the write is to be judged by. */
interface Load {
  /** The lease, 0: none. */
  token: number;
  readerTags: string[];
  since: number;
}

/**
 * Stores under a lease, and with the reader's tags, so that the lease is refused if one of those was invalidated
 * during the load. They are not the entry's own: they are taken off again at once.
 */
const SET_WITH_READER_TAGS = `
local n = tonumber(ARGV[1])
if not redis.call('CACHE.SET', KEYS[1], unpack(ARGV, 2, n + 1)) then return false end
redis.call('CACHE.RETAG', KEYS[1], unpack(ARGV, n + 2))
return 1`;

/** Loads that were begun and never written are forgotten when there are this many. */
const LOADS = 10_000;
const DAY = 24 * 60 * 60;

export class Store {
  readonly #connection: Connection;
  readonly #codec: Codec;
  readonly #options: Required<StoreOptions>;
  readonly #loads = new Map<string, Load>();
  readonly #idle: Connection[] = [];
  #waiting = 0;

  constructor(options: StoreOptions, codec: Codec = V8) {
    this.#connection = new Connection(options.client);
    this.#codec = codec;
    this.#options = {
      prefix: "",
      leaseMs: 30_000,
      waitMs: 5_000,
      waiters: 8,
      timeoutMs: 2_000,
      maxAge: 30 * DAY,
      clockSkewMs: 1_000,
      onError: logError,
      ...options,
    };
  }

  /**
   * Reads an entry, judged by its own and the reader's tags, in one round trip. If another process loads it, waits.
   * Undefined: the caller is to load it and to `write` or `release` it. Errors go to `onError` and are undefined.
   */
  async read<T>(key: string, readerTags: string[] = []): Promise<Found<T> | undefined> {
    const { leaseMs, waitMs, timeoutMs, onError } = this.#options;
    const since = Date.now();
    const token = newToken();
    const fetch = (connection: Connection, ...options: Argument[]) =>
      connection.send(
        ...["CACHE.FETCH", this.key(key), "LEASE", leaseMs, "TOKEN", token, ...options],
        ...this.#counted("WITHTAGS", readerTags),
      ) as Promise<Reply[]>;
    try {
      let reply = await within(timeoutMs, "CACHE.FETCH", fetch(this.#connection));
      if (String(reply[0]) === "MISS" && Number(reply[3]) === 0 && this.#waiting < this.#options.waiters) {
        reply = await this.#onOwnConnection((own) =>
          within(waitMs + timeoutMs, "CACHE.FETCH … WAIT", fetch(own, "WAIT", waitMs)),
        );
      }
      const [state, value, pttl, granted, tags] = reply as [Reply, Buffer, number, number, Reply[]];
      this.#begin(key, { token: Number(granted), readerTags, since });
      if (String(state) === "MISS") return undefined;
      return {
        value: this.#codec.decode(value) as T,
        tags: tags.map((tag) => String(tag).slice(this.#options.prefix.length)),
        freshMs: Number(pttl) < 0 ? Number.POSITIVE_INFINITY : Number(pttl),
        state: String(state) === "HIT" ? "fresh" : Number(granted) > 0 ? "refresh" : "stale",
      };
    } catch (error) {
      onError(error);
      // What a reply that is still on its way grants, nobody would use.
      this.#connection.send("CACHE.RELEASE", this.key(key), token).catch(() => {});
      this.#begin(key, { token: 0, readerTags, since });
      return undefined;
    }
  }

  /**
   * Stores what was loaded since `startedAt` (unix ms; default: the read), unless one of its or its reader's tags was
   * invalidated meanwhile or another process loads it. Returns whether it did. Errors go to `onError`.
   */
  async write(key: string, value: unknown, tags: string[], life: Lifetime, startedAt?: number): Promise<boolean> {
    const { leaseMs, timeoutMs, maxAge, onError } = this.#options;
    const load = this.#end(key);
    const readers = (load?.readerTags ?? []).filter((tag) => !tags.includes(tag));
    try {
      const since = startedAt ?? load?.since ?? Date.now() - leaseMs;
      const token = load?.token || (await this.#lateLease(key, [...tags, ...readers], since));
      if (token === 0) return false;
      const ms = (time: number, least: number) => Math.max(least, Math.ceil(Math.min(time, maxAge * 1000)));
      const set: Argument[] = [
        ...[this.#codec.encode(value), "PX", ms(life.freshMs, 1), "GRACE", ms(life.graceMs, 0), "LEASE", token],
        ...this.#counted("TAGS", [...tags, ...readers]),
      ];
      const reply =
        readers.length === 0
          ? this.send("CACHE.SET", this.key(key), ...set)
          : this.send(
              ...["EVAL", SET_WITH_READER_TAGS, 1, this.key(key), set.length, ...set],
              ...this.#counted("TAGS", tags),
            );
      return (await within(timeoutMs, "CACHE.SET", reply)) !== null;
    } catch (error) {
      onError(error);
      return false;
    }
  }

  /** Gives up a load, so that the next process begins at once. */
  async release(key: string): Promise<void> {
    const load = this.#end(key);
    if (!load?.token) return;
    try {
      await within(this.#options.timeoutMs, "CACHE.RELEASE", this.send("CACHE.RELEASE", this.key(key), load.token));
    } catch (error) {
      this.#options.onError(error);
    }
  }

  /**
   * Drops the entries with these tags. With `durations` they turn stale instead, for `expire` seconds at most.
   * Rejects when the server does: an invalidation that did not happen must not pass for one that did.
   */
  async invalidate(tags: string[], durations?: { expire?: number }): Promise<void> {
    if (tags.length === 0) return;
    const names = this.#names(tags);
    const send = (...command: Argument[]) => within(this.#options.timeoutMs, `${command[0]}`, this.send(...command));
    if (durations === undefined || durations.expire === 0) {
      await send("CACHE.INVALIDATE", ...names);
    } else if (durations.expire === undefined) {
      await send("CACHE.REVALIDATE", ...names);
    } else {
      const grace = Math.ceil(Math.min(durations.expire, this.#options.maxAge) * 1000);
      await send("CACHE.INVALIDATEWHERE", "ANY", names.length, ...names, "SOFT", "GRACE", grace);
    }
  }

  send(...command: Argument[]): Promise<Reply> {
    return this.#connection.send(...command);
  }

  /** Another connection, which the caller closes. */
  duplicate(): Promise<Connection> {
    return this.#connection.duplicate(this.#options.onError);
  }

  /** Closes the connections that waits were made on. */
  close(): void {
    for (const own of this.#idle.splice(0)) own.close();
  }

  /** What the server calls a key or a tag. */
  key(key: string): string {
    return this.#options.prefix + key;
  }

  /**
   * A lease for a load that began without one: after a wait that was too short, or a render that Next.js forced.
   * 0 if another process loads, or if one of the tags was invalidated since the load began, by the clocks.
   */
  async #lateLease(key: string, tags: string[], since: number): Promise<number> {
    const { leaseMs, timeoutMs, clockSkewMs } = this.#options;
    const token = newToken();
    const both = Promise.all([
      this.send("CACHE.FETCH", this.key(key), "LEASE", leaseMs, "TOKEN", token, "EARLY"),
      tags.length === 0 ? [] : this.send("CACHE.TAGTIMES", ...this.#names(tags)),
    ]);
    const [fetched, times] = (await within(timeoutMs, "CACHE.FETCH … EARLY", both)) as [Reply[], Reply[][]];
    if (Number(fetched[3]) === 0) return 0;
    const last = Math.max(0, ...times.flat().map(Number));
    if (last + clockSkewMs < since) return token;
    await this.send("CACHE.RELEASE", this.key(key), token);
    return 0;
  }

  /** A waiting FETCH blocks its whole connection, so each has one of its own meanwhile. */
  async #onOwnConnection<T>(use: (connection: Connection) => Promise<T>): Promise<T> {
    this.#waiting++;
    let own: Connection | undefined;
    try {
      own = this.#idle.pop() ?? (await this.duplicate());
      const result = await use(own);
      this.#idle.push(own);
      return result;
    } catch (error) {
      // What it still waits for would hold up its next user.
      own?.close();
      throw error;
    } finally {
      this.#waiting--;
    }
  }

  #begin(key: string, load: Load): void {
    const before = this.#loads.get(key);
    // Another request of this process loads under that lease.
    if (load.token === 0 && before && before.token > 0 && load.since - before.since < this.#options.leaseMs) return;
    this.#loads.delete(key);
    this.#loads.set(key, load);
    const [oldest] = this.#loads.keys();
    if (this.#loads.size > LOADS && oldest !== undefined) this.#loads.delete(oldest);
  }

  #end(key: string): Load | undefined {
    const load = this.#loads.get(key);
    this.#loads.delete(key);
    return load;
  }

  #counted(word: string, tags: string[]): Argument[] {
    return [word, tags.length, ...this.#names(tags)];
  }

  #names(tags: string[]): string[] {
    return tags.map((tag) => this.key(tag));
  }
}

/** Tokens go up to 2^53 - 1, randomInt to 2^48. */
function newToken(): number {
  return randomInt(1, 2 ** 48 - 1);
}
