/** Options of a store, and the results of its reads. */
import { deserialize, serialize } from "node:v8";
import type { AnyClient } from "./cluster.js";
import { logError } from "./errors.js";

export interface StoreOptions {
  /** A client of ioredis (Redis, Cluster) or node-redis (createClient, createCluster), which stays the caller's. */
  client: AnyClient;
  /** Prefix of keys and tags. */
  prefix?: string;
  /** Time in ms that one process may load an entry before another one may too; default 30000. */
  leaseMs?: number;
  /** Time in ms that a process waits for an entry that another one loads, before it loads too; default 5000. */
  waitMs?: number;
  /** Number of entries that one process waits for at the same time, each on a connection of its own; default 8. */
  waiters?: number;
  /** Time limit of a command in ms; default 2000. */
  timeoutMs?: number;
  /** Maximum time in seconds that an entry is fresh, and that it is stale after that; default 30 days. */
  maxAge?: number;
  /**
   * Maximum difference between this machine's clock and the server's, in ms; default 1000. Only for loads without a
   * lease.
   */
  clockSkewMs?: number;
  /** Called with errors that do not reach the caller. Default: one line on standard error, at most one per second. */
  onError?: (error: unknown) => void;
}

export const DEFAULTS = {
  prefix: "",
  leaseMs: 30_000,
  waitMs: 5_000,
  waiters: 8,
  timeoutMs: 2_000,
  maxAge: 30 * 24 * 60 * 60,
  clockSkewMs: 1_000,
  onError: logError,
};

/** Converts values to bytes and back. If `decode` throws, the value is a miss. */
export interface Codec {
  encode(value: unknown): Buffer | string;
  decode(bytes: Buffer): unknown;
}

/** Node's own format: Buffers and Maps keep their types. Processes must run the same version of Node, or newer. */
export const V8: Codec = { encode: serialize, decode: deserialize };

/** How long an entry is fresh, and how long it may be served as stale after that or after a soft invalidation. */
export interface Lifetime {
  freshMs: number;
  graceMs: number;
}

export interface Found<T> {
  value: T;
  tags: string[];
  /** Time that the entry stays fresh; Infinity: until it is invalidated. */
  freshMs: number;
  /** `refresh`: stale, and this process must load it again. `stale`: another process loads it. */
  state: "fresh" | "refresh" | "stale";
}
