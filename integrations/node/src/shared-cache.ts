/**
 * The part of the unified cache service that all processes share: entries in the server, and messages about changes.
 */
import type { AnyClient } from "./cluster.js";
import type { Argument, Reply } from "./connection.js";
import { logError } from "./errors.js";
import { Invalidations, type Listener } from "./invalidations.js";
import { type Codec, Store, type StoreOptions } from "./store.js";

export interface ConnectOptions extends Omit<StoreOptions, "client" | "prefix"> {
  /** Prefix of keys and tags, before a colon; default `cache`. */
  namespace?: string;
  /** The database that the client selected; default 0. */
  database?: number;
}

/** Programs in other languages read it too. */
const JSON_CODEC: Codec = {
  encode: (value) => JSON.stringify(value) ?? "null",
  decode: (bytes) => JSON.parse(String(bytes)),
};

/** All entries of the namespace carry this tag. */
export const ALL = "*";

export class SharedCache {
  readonly store: Store;
  readonly onError: (error: unknown) => void;
  readonly #invalidations: Invalidations;

  constructor(client: AnyClient, options: ConnectOptions, listener: Listener) {
    const { namespace = "cache", database = 0, onError = logError, ...rest } = options;
    this.onError = onError;
    this.store = new Store({ ...rest, onError, client, prefix: `${namespace}:` }, JSON_CODEC);
    this.#invalidations = new Invalidations(this.store, database, listener, onError);
  }

  /** Rejects if the module is not loaded. */
  async check(): Promise<void> {
    await this.store.servers.all("CACHE.CLOCK");
  }

  /** Resolves when changes by other processes reach the listener. */
  listen(): Promise<void> {
    return this.#invalidations.listen();
  }

  /** False while changes do not arrive: then no value may be kept in memory. */
  get isListening(): boolean {
    return this.#invalidations.isListening;
  }

  async set(key: string, value: unknown, ttl: number, tags: string[]): Promise<void> {
    const names = [...new Set([...tags, ALL])].map((tag) => this.store.key(tag));
    const options = ["PX", Math.max(1, Math.ceil(ttl)), "TAGS", names.length, ...names];
    await this.#change(key, "CACHE.SET", this.store.key(key), JSON_CODEC.encode(value), ...options);
  }

  async delete(key: string): Promise<void> {
    await this.#change(key, "CACHE.DEL", this.store.key(key));
  }

  /**
   * Announces a change when the server has it, or may have it: other processes would otherwise read the old value. A
   * single connection keeps the order; in a cluster the message and the change use different ones.
   */
  async #change(key: string, command: string, ...args: Argument[]): Promise<void> {
    const sent = this.store.send(key, command, ...args);
    if (this.store.servers.isCluster) await sent.catch(() => {});
    await Promise.all([sent, this.#invalidations.announce(key)]);
  }

  /** Number of entries in the servers. */
  async keyCount(): Promise<number> {
    const infos = await this.store.servers.all("CACHE.TAGINFO", this.store.key(ALL));
    return infos.reduce<number>((sum, info) => sum + Number(field(info, "entries") ?? 0), 0);
  }

  /** Adds this process's hits to the servers' counts, which are the sum over all processes. */
  report(hits: [key: string, count: number][]): void {
    const counts = new Map(hits.map(([key, count]) => [this.store.key(key), count]));
    for (const keys of this.store.servers.together([...counts.keys()])) {
      const pairs = keys.flatMap((key) => [key, counts.get(key) ?? 0]);
      this.store.servers.send(keys[0] as string, "CACHE.HITS", ...pairs).catch(this.onError);
    }
  }

  close(): void {
    this.#invalidations.close();
    this.store.close();
  }
}

/** RESP3 clients return maps as objects. */
function field(map: Reply, name: string): Reply | undefined {
  if (!Array.isArray(map)) return (map as Record<string, Reply> | null)?.[name];
  const at = map.findIndex((entry) => String(entry) === name);
  return at < 0 ? undefined : map[at + 1];
}
