/**
 * A cache of one application in the server: reads by which one process loads a missing or stale entry, writes that are
 * refused after an invalidation during the load, and invalidations.
 */
import { randomInt } from "node:crypto";
import { Servers } from "./cluster.js";
import type { Argument, Connection, Reply } from "./connection.js";
import { within } from "./errors.js";
import { Loads, now } from "./loads.js";
import { type Codec, DEFAULTS, type Found, type Lifetime, type StoreOptions, V8 } from "./options.js";
import { Waits } from "./waits.js";

export type { Codec, Found, Lifetime, StoreOptions } from "./options.js";

/**
 * Stores under a lease with the reader's tags too, so that the lease is refused if one of them was invalidated during
 * the load. They are not the entry's own tags, so they are removed at once.
 */
const SET_WITH_READER_TAGS = `
local n = tonumber(ARGV[1])
if not redis.call('CACHE.SET', KEYS[1], unpack(ARGV, 2, n + 1)) then return false end
redis.call('CACHE.RETAG', KEYS[1], unpack(ARGV, n + 2))
return 1`;

export class Store {
  readonly servers: Servers;
  readonly #codec: Codec;
  readonly #options: Required<StoreOptions>;
  readonly #loads: Loads;
  readonly #waits: Waits;

  constructor(options: StoreOptions, codec: Codec = V8) {
    this.servers = new Servers(options.client);
    this.#codec = codec;
    this.#options = { ...DEFAULTS, ...options };
    this.#loads = new Loads(this.#options.leaseMs);
    this.#waits = new Waits(this.servers, this.#options.waiters, this.#options.onError);
  }

  /**
   * Reads an entry and checks its own and the reader's tags, in one round trip. If another process loads it, waits.
   * Undefined: the caller must load it and `write` or `release` it. Errors go to `onError` and return undefined.
   */
  async read<T>(key: string, readerTags: string[] = []): Promise<Found<T> | undefined> {
    const { leaseMs, waitMs, timeoutMs, onError } = this.#options;
    const since = now();
    const token = newToken();
    const fetch = [this.key(key), "LEASE", leaseMs, "TOKEN", token, ...this.#counted("WITHTAGS", readerTags)];
    try {
      let reply = (await within(timeoutMs, "CACHE.FETCH", this.send(key, "CACHE.FETCH", ...fetch))) as Reply[];
      if (isElsewhere(reply) && this.#waits.mayWait(key)) {
        const wait = (own: Connection) => own.send("CACHE.FETCH", ...fetch, "WAIT", waitMs);
        reply = (await this.#waits.run(this.key(key), (own) =>
          within(waitMs + timeoutMs, "CACHE.FETCH … WAIT", wait(own)),
        )) as Reply[];
        if (isElsewhere(reply)) this.#waits.inVain(key);
      }
      const [state, value, pttl, granted, tags] = reply as [Reply, Buffer, number, number, Reply[]];
      this.#loads.begin(key, { token: Number(granted), readerTags, since });
      if (String(state) === "MISS") return undefined;
      this.#waits.seen(key);
      return {
        value: this.#codec.decode(value) as T,
        tags: tags.map((tag) => String(tag).slice(this.#options.prefix.length)),
        freshMs: Number(pttl) < 0 ? Number.POSITIVE_INFINITY : Number(pttl),
        state: String(state) === "HIT" ? "fresh" : Number(granted) > 0 ? "refresh" : "stale",
      };
    } catch (error) {
      onError(error);
      // A late reply may grant a lease that no caller would use.
      this.send(key, "CACHE.RELEASE", this.key(key), token).catch(() => {});
      this.#loads.begin(key, { token: 0, readerTags, since });
      return undefined;
    }
  }

  /**
   * Stores a value that was loaded since `startedAt` (by `now`, after the read), unless one of its or its reader's tags
   * was invalidated meanwhile or another request or process loads it. Returns whether it did. Errors go to `onError`.
   */
  async write(key: string, value: unknown, tags: string[], life: Lifetime, startedAt: number): Promise<boolean> {
    const { timeoutMs, maxAge, onError } = this.#options;
    let { token, readerTags } = this.#loads.end(key, startedAt);
    const readers = readerTags.filter((tag) => !tags.includes(tag));
    try {
      token ||= await this.#lateLease(key, [...tags, ...readers], startedAt);
      if (token === 0) return false;
      const ms = (time: number, least: number) => Math.max(least, Math.ceil(Math.min(time, maxAge * 1000)));
      const set: Argument[] = [
        ...[this.#codec.encode(value), "PX", ms(life.freshMs, 1), "GRACE", ms(life.graceMs, 0), "LEASE", token],
        ...this.#counted("TAGS", [...tags, ...readers]),
      ];
      const reply =
        readers.length === 0
          ? this.send(key, "CACHE.SET", this.key(key), ...set)
          : this.send(
              ...([key, "EVAL", SET_WITH_READER_TAGS, 1, this.key(key), set.length, ...set] as const),
              ...this.#counted("TAGS", tags),
            );
      return (await within(timeoutMs, "CACHE.SET", reply)) !== null;
    } catch (error) {
      onError(error);
      // Otherwise other processes would wait for a value that is never stored.
      if (token > 0) this.send(key, "CACHE.RELEASE", this.key(key), token).catch(() => {});
      return false;
    }
  }

  /** Gives up the load that began at `startedAt`, so that the next process begins at once. */
  async release(key: string, startedAt: number): Promise<void> {
    const { token } = this.#loads.end(key, startedAt);
    if (token === 0) return;
    const release = this.send(key, "CACHE.RELEASE", this.key(key), token);
    try {
      await within(this.#options.timeoutMs, "CACHE.RELEASE", release);
    } catch (error) {
      this.#options.onError(error);
    }
  }

  /**
   * Drops the entries with these tags. With `durations` they turn stale instead, for `expire` seconds at most. Rejects
   * if the server returns an error: a failed invalidation must not look like a successful one.
   */
  async invalidate(tags: string[], durations?: { expire?: number }): Promise<void> {
    if (tags.length === 0) return;
    const names = this.#names(tags);
    const send = (command: string, ...args: Argument[]) =>
      within(this.#options.timeoutMs, command, this.servers.all(command, ...args));
    if (durations === undefined || durations.expire === 0) {
      await send("CACHE.INVALIDATE", ...names);
    } else if (durations.expire === undefined) {
      await send("CACHE.REVALIDATE", ...names);
    } else {
      const grace = Math.ceil(Math.min(durations.expire, this.#options.maxAge) * 1000);
      await send("CACHE.INVALIDATEWHERE", "ANY", names.length, ...names, "SOFT", "GRACE", grace);
    }
  }

  /** Sends a command to the server of this key. */
  send(key: string, command: string, ...args: Argument[]): Promise<Reply> {
    return this.servers.send(this.key(key), command, ...args);
  }

  /** Closes the connections that were opened for waits. */
  close(): void {
    this.#waits.close();
  }

  /** The name of a key or a tag in the server. */
  key(key: string): string {
    return this.#options.prefix + key;
  }

  /**
   * A lease for a load that began without one: after a wait that was too short, or for a render that Next.js forced. 0
   * if another request or process loads, or if one of the tags was invalidated since the load began, by the clocks.
   */
  async #lateLease(key: string, tags: string[], startedAt: number): Promise<number> {
    const { leaseMs, timeoutMs, clockSkewMs } = this.#options;
    const token = newToken();
    const both = Promise.all([
      this.send(key, "CACHE.FETCH", this.key(key), "LEASE", leaseMs, "TOKEN", token, "EARLY"),
      tags.length === 0 ? [] : this.send(key, "CACHE.TAGTIMES", ...this.#names(tags)),
    ]);
    const [fetched, times] = (await within(timeoutMs, "CACHE.FETCH … EARLY", both)) as [Reply[], Reply[][]];
    if (Number(fetched[3]) === 0) return 0;
    const last = Math.max(0, ...times.flat().map(Number));
    // The server's times are compared with this machine's clock, which may have been set since the process began.
    const since = Date.now() - (now() - startedAt);
    if (last + clockSkewMs < since) return token;
    await this.send(key, "CACHE.RELEASE", this.key(key), token);
    return 0;
  }

  #counted(word: string, tags: string[]): Argument[] {
    return [word, tags.length, ...this.#names(tags)];
  }

  #names(tags: string[]): string[] {
    return tags.map((tag) => this.key(tag));
  }
}

/** Whether the entry is missing and another caller loads it. */
function isElsewhere(reply: Reply[]): boolean {
  return String(reply[0]) === "MISS" && Number(reply[3]) === 0;
}

/** A random token that a number represents exactly: randomInt goes up to 2^48. */
function newToken(): number {
  return randomInt(1, 2 ** 48 - 1);
}
