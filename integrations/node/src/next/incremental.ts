/**
 * The handler for pages, route handlers, images and `fetch` (option `cacheHandler`), with `revalidateTag` and
 * `revalidatePath` across processes.
 *
 * ```js
 * // incremental-cache.mjs
 * import Redis from "ioredis";
 * import { incrementalCacheHandler } from "@tagcache/node/next";
 * export default incrementalCacheHandler({ client: new Redis(process.env.REDIS_URL) });
 * ```
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { now } from "../loads.js";
import { type Found, Store, type StoreOptions } from "../store.js";
import { short } from "./tag.js";
import { REFRESHING } from "./use-cache.js";

/** The part of a value that is used here; values have several kinds. */
interface Value {
  kind: string;
  headers?: Record<string, unknown> | undefined;
  tags?: string[] | undefined;
  revalidate?: number | false | undefined;
}

/** In seconds. */
interface CacheControl {
  revalidate: number | false;
  expire: number | undefined;
}

interface Context {
  kind?: string | undefined;
  fetchCache?: boolean | undefined;
  tags?: string[] | undefined;
  softTags?: string[] | undefined;
  revalidate?: number | false | undefined;
  cacheControl?: CacheControl | undefined;
}

export interface IncrementalEntry {
  /** The value that Next.js stored, of one of its types. Null: the page does not exist, which is cached too. */
  value: any;
  /** Unix ms. */
  lastModified: number;
  cacheControl?: CacheControl;
}

/** The class that Next.js expects; it makes an instance per request. */
export interface IncrementalHandler {
  get(key: string, context?: Context): Promise<IncrementalEntry | null>;
  set(key: string, value: Value | null, context?: Context): Promise<void>;
  revalidateTag(tags: string | string[], durations?: { expire?: number }): Promise<void>;
  resetRequestCache(): void;
}

export interface IncrementalHandlerClass {
  new (context?: { serverDistDir?: string | undefined }): IncrementalHandler;
  /** Closes the connections that the handlers opened beside the client. Next.js does not call it. */
  close(): void;
}

/** The header in which Next.js keeps a page's tags, including those of its path. */
const TAGS_HEADER = "x-next-cache-tags";
/** Next.js's own default (`expireTime`): seconds for which a page without a setting of its own may be served. */
const YEAR = 365 * 24 * 60 * 60;

/** Keys and tags begin with `next:isr:` unless the options set another prefix. */
export function incrementalCacheHandler(options: StoreOptions): IncrementalHandlerClass {
  const store = new Store({ prefix: "next:isr:", ...options });
  // Unknown until the build has an ID.
  let build = "";

  return class TagcacheIncrementalHandler implements IncrementalHandler {
    readonly #madeAt = now();
    /** Start times of this request's renders, by key: Next.js does not pass them. */
    readonly #began = new Map<string, number>();

    constructor(context?: { serverDistDir?: string | undefined }) {
      build ||= buildIn(context?.serverDistDir);
    }

    static close(): void {
      store.close();
    }

    async get(key: string, context: Context = {}): Promise<IncrementalEntry | null> {
      // Entries of other kinds contain their tags.
      const readers = context.kind === "FETCH" ? [...(context.tags ?? []), ...(context.softTags ?? [])] : [];
      const name = nameOf(key, context.kind);
      const found = await store.read<IncrementalEntry>(name, short(readers));
      // Of two renders the earlier time is kept: it is unknown which value is written, and an earlier time stores no
      // older value.
      if ((!found || found.state === "refresh") && !this.#began.has(name)) this.#began.set(name, now());
      return found ? shown(found, context) : null;
    }

    async set(key: string, value: Value | null, context: Context = {}): Promise<void> {
      const control = context.cacheControl ?? { revalidate: value?.revalidate ?? false, expire: undefined };
      const header = value?.headers?.[TAGS_HEADER];
      const tags = context.tags ?? value?.tags ?? (typeof header === "string" ? header.split(",") : []);
      const stored: IncrementalEntry = { value, lastModified: Date.now(), cacheControl: control };
      const expire = control.expire ?? YEAR;
      const life = { freshMs: seconds(control.revalidate) * 1000, graceMs: expire * 1000 };
      const name = nameOf(key, context.fetchCache ? "FETCH" : value?.kind);
      // A value that was not read first was rendered within the request in any case.
      const startedAt = this.#began.get(name) ?? this.#madeAt;
      this.#began.delete(name);
      await store.write(name, stored, short([...new Set(tags.filter(Boolean))]), life, startedAt);
    }

    async revalidateTag(tags: string | string[], durations?: { expire?: number }): Promise<void> {
      await store.invalidate(short(Array.isArray(tags) ? tags : [tags]), durations);
    }

    resetRequestCache(): void {}
  };

  /** Fetched data and images belong to every build; a page names files of its build, whose code made it. */
  function nameOf(key: string, kind: string | undefined): string {
    return kind === "FETCH" || kind === "IMAGE" ? key : `${build}${key}`;
  }
}

/** The ID of this build, with a colon; empty if there is no build, as in development. */
function buildIn(serverDistDir = ""): string {
  try {
    return `${readFileSync(join(serverDistDir, "..", "BUILD_ID"), "utf8").trim()}:`;
  } catch {
    return "";
  }
}

function seconds(revalidate: number | false | undefined): number {
  return typeof revalidate === "number" && revalidate > 0 ? revalidate : Number.POSITIVE_INFINITY;
}

/**
 * The entry in the form that Next.js needs. Next.js judges by `lastModified` and `revalidate`; a handler cannot mark an
 * entry as stale. So the process that holds the lease gets an entry just past its `revalidate`, which Next.js serves
 * and renders again. The others get one just before it, since a render of theirs would only repeat that work.
 */
function shown({ value: stored, state }: Found<IncrementalEntry>, context: Context): IncrementalEntry {
  const { value, lastModified, cacheControl } = stored;
  // The server decides, regardless of this machine's clock; but the reader of a fetch may require a newer entry.
  const past = Date.now() > lastModified + seconds(cacheControl?.revalidate) * 1000;
  if (state === "fresh" && (context.kind === "FETCH" || !past)) return stored;
  const expire = cacheControl?.expire ?? YEAR;
  // Past `expire` the entry must count as missing.
  if (Date.now() > lastModified + expire * 1000) return { ...stored, lastModified: -1 };
  // For a fetch Next.js uses the reader's `revalidate`.
  const fetched = context.kind === "FETCH" ? context.revalidate || value.revalidate : undefined;
  const revalidate = fetched ?? (state === "refresh" ? 1 : REFRESHING);
  const age = state === "refresh" ? revalidate * 1000 + 1 : 0;
  return { value, lastModified: Date.now() - age, cacheControl: { revalidate, expire } };
}
