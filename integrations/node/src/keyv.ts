/**
 * A Keyv store on tagcache. Keyv's values carry tags here, and `clear()` is one command, whatever the number of keys.
 *
 * ```ts
 * import Redis from "ioredis";
 * import { createKeyv } from "@tagcache/node/keyv";
 *
 * const { keyv, store } = createKeyv(new Redis(), { namespace: "shop", tags: (key) => [`kind:${key.split(":")[0]}`] });
 * await keyv.set("user:1", { name: "Ada" }, 60_000);
 * await store.invalidateTags(["kind:user"]);
 * ```
 */
import { EventEmitter } from "node:events";
import { Keyv, type KeyvOptions } from "keyv";
import { type Argument, type Client, Connection, logError, type Reply } from "./connection.js";

export interface KeyvTagcacheOptions {
  /** The tags of a value, by its key without the namespace; default: none. */
  tags?: (key: string) => string[];
  /**
   * Called with an error for which Keyv would return a miss: `get` swallows errors unless `throwOnErrors` is set.
   * Default: one line on standard error, one a second at most.
   */
  onError?: (error: unknown) => void;
}

/**
 * A Keyv on a store of its own, set up so that no error passes for a miss: errors of the server reject, and a value
 * that cannot be deserialized is a miss that `onError` is told of. A Keyv that is built without this function treats
 * both as Keyv does.
 */
export function createKeyv<Value = unknown>(
  client: Client,
  options: KeyvTagcacheOptions & Omit<KeyvOptions, "store"> = {},
): { keyv: Keyv<Value>; store: KeyvTagcache } {
  const { tags: _tags, onError = logError, ...rest } = options;
  const store = new KeyvTagcache(client, options);
  const keyv = new Keyv<Value>({ throwOnErrors: true, ...rest, store });
  const deserialize = keyv.deserialize;
  if (deserialize) {
    keyv.deserialize = async (raw) => {
      try {
        return await deserialize(raw);
      } catch (error) {
        onError(new Error(`a value does not decode: ${error}`, { cause: error }));
        return undefined;
      }
    };
  }
  return { keyv, store };
}

interface Entry {
  key: string;
  value: unknown;
  ttl?: number | undefined;
}

/** How many keys one step of the iterator looks at. */
const SCAN_COUNT = 100;

export class KeyvTagcache extends EventEmitter {
  /** Set by Keyv. One store belongs to one Keyv, as with Keyv's other stores. */
  namespace: string | undefined;
  /** Keyv offers its iterator only for stores of a dialect that it knows. */
  readonly opts: Record<string, unknown> = { dialect: "redis", url: "redis:" };

  readonly #connection: Connection;
  readonly #tags: (key: string) => string[];
  readonly #onError: (error: unknown) => void;

  constructor(client: Client, options: KeyvTagcacheOptions = {}) {
    super();
    this.#connection = new Connection(client);
    this.#tags = options.tags ?? (() => []);
    this.#onError = options.onError ?? logError;
  }

  async get<Value>(key: string): Promise<Value | undefined> {
    try {
      return decode<Value>(await this.#connection.send("CACHE.GET", key));
    } catch (error) {
      this.#onError(error);
      // EventEmitter throws where nobody listens; Keyv does.
      if (this.listenerCount("error") > 0) this.emit("error", error);
      throw error;
    }
  }

  async getMany<Value>(keys: string[]): Promise<Array<Value | undefined>> {
    if (keys.length === 0) return [];
    const values = (await this.#connection.send("CACHE.MGET", ...keys)) as Reply[];
    return values.map((value) => decode<Value>(value));
  }

  /** Stores a value for `ttl` ms, or for good. A time of 0 or less removes it, since it is over already. */
  async set(key: string, value: unknown, ttl?: number): Promise<boolean> {
    if (ttl !== undefined && ttl <= 0) {
      await this.delete(key);
      return true;
    }
    await this.#connection.send("CACHE.SET", key, encode(value), ...lifetime(ttl), ...this.#tagsOf(key));
    return true;
  }

  /** Stores several values, with one command for all that have the same time to live and tags. */
  async setMany(entries: Entry[]): Promise<boolean[]> {
    const groups = new Map<string, { values: Argument[]; options: Argument[] }>();
    const over: string[] = [];
    for (const { key, value, ttl } of entries) {
      if (ttl !== undefined && ttl <= 0) {
        over.push(key);
        continue;
      }
      const options = [...lifetime(ttl), ...this.#tagsOf(key)];
      const group = groups.get(JSON.stringify(options)) ?? { values: [], options };
      group.values.push(key, encode(value));
      groups.set(JSON.stringify(options), group);
    }
    await Promise.all([
      ...Array.from(groups.values(), ({ values, options }) =>
        this.#connection.send("CACHE.MSET", values.length / 2, ...values, ...options),
      ),
      this.deleteMany(over),
    ]);
    return entries.map(() => true);
  }

  async delete(key: string): Promise<boolean> {
    return this.deleteMany([key]);
  }

  /** Removes the keys; true if one of them was there. */
  async deleteMany(keys: string[]): Promise<boolean> {
    return keys.length > 0 && Number(await this.#connection.send("CACHE.DEL", ...keys)) > 0;
  }

  async has(key: string): Promise<boolean> {
    return Number(await this.#connection.send("CACHE.EXISTS", key)) > 0;
  }

  /** One command a key, sent together: CACHE.EXISTS of several keys tells how many there are, not which. */
  async hasMany(keys: string[]): Promise<boolean[]> {
    return Promise.all(keys.map((key) => this.has(key)));
  }

  /** Drops what was stored in this namespace; without one, what was stored without one. */
  async clear(): Promise<void> {
    await this.#connection.send("CACHE.INVALIDATE", this.#namespaceTag(this.namespace));
  }

  /** Drops what carries one of the tags, in all namespaces. Returns the number of (value, tag) pairs dropped. */
  async invalidateTags(tags: string[]): Promise<number> {
    return tags.length === 0 ? 0 : Number(await this.#connection.send("CACHE.INVALIDATE", ...tags));
  }

  /** All keys and values of a namespace; a key may come twice while others are written, as with SCAN. */
  async *iterator<Value>(namespace?: string): AsyncGenerator<[string, Value], void> {
    const tag = this.#namespaceTag(namespace);
    let cursor: Reply = "0";
    do {
      const step = (await this.#connection.send("CACHE.TAGSCAN", tag, String(cursor), "COUNT", SCAN_COUNT)) as Reply[];
      cursor = String(step[0]);
      const keys = (step[1] as Reply[]).map(String);
      const values = await this.getMany<Value>(keys);
      for (const [index, value] of values.entries()) {
        if (value !== undefined) yield [keys[index] as string, value];
      }
    } while (cursor !== "0");
  }

  /** Nothing to close here: the client is its owner's. */
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

function lifetime(ttl: number | undefined): Argument[] {
  return ttl === undefined ? [] : ["PX", Math.max(1, Math.ceil(ttl))];
}

function encode(value: unknown): string | Buffer {
  if (typeof value === "string" || Buffer.isBuffer(value)) return value;
  throw new TypeError("tagcache: Keyv must serialize values (its options serialize and deserialize are unset)");
}

/** Keyv deserializes strings; bytes that no serializer of strings wrote come back with replacement characters. */
function decode<Value>(value: Reply | undefined): Value | undefined {
  return value === null || value === undefined ? undefined : (String(value) as Value);
}
