/** The store of a Keyv: values carry tags, and `clear()` is one command for any number of keys. */
import { EventEmitter } from "node:events";
import { type AnyClient, Servers } from "./cluster.js";
import type { Argument, Reply } from "./connection.js";
import { logError } from "./errors.js";

export interface KeyvTagcacheOptions {
  /** The tags of a value, by its key without the namespace; default: none. */
  tags?: (key: string) => string[];
  /**
   * Called with an error for which Keyv would return a miss: `get` swallows errors unless `throwOnErrors` is set.
   * Default: one line on standard error, at most one per second.
   */
  onError?: (error: unknown) => void;
}

interface Entry {
  key: string;
  value: unknown;
  ttl?: number | undefined;
}

/** Number of keys that one step of the iterator examines. */
const SCAN_COUNT = 100;

export class KeyvTagcache extends EventEmitter {
  /** Set by Keyv. One store belongs to one Keyv, as with Keyv's other stores. */
  namespace: string | undefined;
  /** Keyv offers its iterator only for stores of a dialect that it knows. */
  readonly opts: Record<string, unknown> = { dialect: "redis", url: "redis:" };

  readonly #servers: Servers;
  readonly #tags: (key: string) => string[];
  readonly #onError: (error: unknown) => void;

  constructor(client: AnyClient, options: KeyvTagcacheOptions = {}) {
    super();
    this.#servers = new Servers(client);
    this.#tags = options.tags ?? (() => []);
    this.#onError = options.onError ?? logError;
  }

  async get<Value>(key: string): Promise<Value | undefined> {
    try {
      return decode<Value>(await this.#servers.send(key, "CACHE.GET", key));
    } catch (error) {
      this.#onError(error);
      // EventEmitter throws if there is no listener; Keyv has one.
      if (this.listenerCount("error") > 0) this.emit("error", error);
      throw error;
    }
  }

  async getMany<Value>(keys: string[]): Promise<Array<Value | undefined>> {
    const found = new Map<string, Reply | undefined>();
    const read = this.#servers.together(keys).map(async (some) => {
      const values = (await this.#servers.send(some[0] as string, "CACHE.MGET", ...some)) as Reply[];
      for (const [at, key] of some.entries()) found.set(key, values[at]);
    });
    await Promise.all(read);
    return keys.map((key) => decode<Value>(found.get(key)));
  }

  /** Stores a value for `ttl` ms, or without expiry. A `ttl` of 0 or less removes it, since it is already expired. */
  async set(key: string, value: unknown, ttl?: number): Promise<boolean> {
    if (ttl !== undefined && ttl <= 0) {
      await this.delete(key);
      return true;
    }
    await this.#servers.send(key, "CACHE.SET", key, encode(value), ...lifetime(ttl), ...this.#tagsOf(key));
    return true;
  }

  /**
   * Stores several values, with one command for all that have the same TTL and tags (and slot). Of entries with the
   * same key the last one counts.
   */
  async setMany(entries: Entry[]): Promise<boolean[]> {
    const groups = new Map<string, { values: Map<string, Argument>; options: Argument[] }>();
    const over: string[] = [];
    for (const { key, value, ttl } of new Map(entries.map((entry) => [entry.key, entry])).values()) {
      if (ttl !== undefined && ttl <= 0) {
        over.push(key);
        continue;
      }
      const options = [...lifetime(ttl), ...this.#tagsOf(key)];
      const group = groups.get(JSON.stringify(options)) ?? { values: new Map(), options };
      group.values.set(key, encode(value));
      groups.set(JSON.stringify(options), group);
    }
    const sets = Array.from(groups.values(), ({ values, options }) =>
      this.#servers.together([...values.keys()]).map((keys) => {
        const pairs = keys.flatMap((key) => [key, values.get(key) as Argument]);
        return this.#servers.send(keys[0] as string, "CACHE.MSET", keys.length, ...pairs, ...options);
      }),
    );
    await Promise.all([...sets.flat(), this.deleteMany(over)]);
    return entries.map(() => true);
  }

  async delete(key: string): Promise<boolean> {
    return this.deleteMany([key]);
  }

  /** Removes the keys; true if one of them was there. */
  async deleteMany(keys: string[]): Promise<boolean> {
    const groups = this.#servers.together(keys);
    const counts = groups.map((some) => this.#servers.send(some[0] as string, "CACHE.DEL", ...some));
    return sum(await Promise.all(counts)) > 0;
  }

  async has(key: string): Promise<boolean> {
    return Number(await this.#servers.send(key, "CACHE.EXISTS", key)) > 0;
  }

  /** One command per key, sent together: CACHE.EXISTS of several keys returns how many exist, not which ones. */
  async hasMany(keys: string[]): Promise<boolean[]> {
    return Promise.all(keys.map((key) => this.has(key)));
  }

  /** Drops the values of this namespace; without a namespace, those that were stored without one. */
  async clear(): Promise<void> {
    await this.#servers.all("CACHE.INVALIDATE", this.#namespaceTag(this.namespace));
  }

  /** Drops the entries with one of the tags, in all namespaces. Returns the number of (value, tag) pairs dropped. */
  async invalidateTags(tags: string[]): Promise<number> {
    return tags.length === 0 ? 0 : sum(await this.#servers.all("CACHE.INVALIDATE", ...tags));
  }

  /** All keys and values of a namespace; a key may come twice while others are written, as with SCAN. */
  async *iterator<Value>(namespace?: string): AsyncGenerator<[string, Value], void> {
    const tag = this.#namespaceTag(namespace);
    for (const primary of await this.#servers.primaries()) {
      let cursor = "0";
      do {
        const step = (await primary.send("CACHE.TAGSCAN", tag, cursor, "COUNT", SCAN_COUNT)) as Reply[];
        cursor = String(step[0]);
        const keys = (step[1] as Reply[]).map(String);
        const values = await this.getMany<Value>(keys);
        for (const [index, value] of values.entries()) {
          if (value !== undefined) yield [keys[index] as string, value];
        }
      } while (cursor !== "0");
    }
  }

  /** Closes nothing: the client belongs to its owner. */
  async disconnect(): Promise<void> {}

  #namespaceTag(namespace: string | undefined): string {
    return `keyv:${namespace ?? ""}`;
  }

  #tagsOf(key: string): Argument[] {
    const prefix = `${this.namespace}:`;
    const own = this.#tags(this.namespace !== undefined && key.startsWith(prefix) ? key.slice(prefix.length) : key);
    return ["TAGS", own.length + 1, this.#namespaceTag(this.namespace), ...own];
  }
}

function sum(counts: Reply[]): number {
  return counts.reduce<number>((total, count) => total + Number(count), 0);
}

function lifetime(ttl: number | undefined): Argument[] {
  return ttl === undefined ? [] : ["PX", Math.max(1, Math.ceil(ttl))];
}

function encode(value: unknown): string | Buffer {
  if (typeof value === "string" || Buffer.isBuffer(value)) return value;
  throw new TypeError("tagcache: Keyv must serialize values (its options serialize and deserialize are unset)");
}

/** Keyv deserializes strings; bytes that are not UTF-8 come back with replacement characters. */
function decode<Value>(value: Reply | undefined): Value | undefined {
  return value === null || value === undefined ? undefined : (String(value) as Value);
}
