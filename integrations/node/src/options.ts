/** What a store can be told, and what it tells. */
import { deserialize, serialize } from "node:v8";
import type { AnyClient } from "./cluster.js";
import { logError } from "./errors.js";

export interface StoreOptions {
  /** A client of ioredis (Redis, Cluster) or node-redis (createClient, createCluster), which stays the caller's. */
  client: AnyClient;
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
  /** How long an entry is fresh at most, and how long it is stale at most after that, in seconds; default 30 days. */
  maxAge?: number;
  /** How far this machine's clock may be from the server's, in ms; default 1000. Only for loads without a lease. */
  clockSkewMs?: number;
  /** Called with errors that do not reach the caller. Default: one line on standard error, one a second at most. */
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
