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

/** A value of any kind; what is used of it here. */
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
  /** What Next.js stored, of one of its types. Null: it caches that a page does not exist. */
  value: any;
  /** Unix ms. */
  lastModified: number;
  cacheControl?: CacheControl;
}

/** What Next.js expects of the class it is given; it makes an instance for each request. */
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

/** The header in which Next.js keeps a page's tags, those of its path among them. */
const TAGS_HEADER = "x-next-cache-tags";
/** Next.js's own default (`expireTime`): how long a page without a time of its own may be served, in seconds. */
const YEAR = 365 * 24 * 60 * 60;

/** Keys and tags begin with `next:isr:` unless the options say otherwise. */
export function incrementalCacheHandler(options: StoreOptions): IncrementalHandlerClass {
  const store = new Store({ prefix: "next:isr:", ...options });
  // Not known before the build has its name.
  let build = "";

  return class TagcacheIncrementalHandler implements IncrementalHandler {
    readonly #madeAt = now();
    /** When this request's renders began, by key: Next.js does not say it. */
    readonly #began = new Map<string, number>();

    constructor(context?: { serverDistDir?: string | undefined }) {
      build ||= buildIn(context?.serverDistDir);
    }

    static close(): void {
      store.close();
    }

    async get(key: string, context: Context = {}): Promise<IncrementalEntry | null> {
      // Other kinds have their tags in the entry.
      const readers = context.kind === "FETCH" ? [...(context.tags ?? []), ...(context.softTags ?? [])] : [];
      const name = nameOf(key, context.kind);
      const found = await store.read<IncrementalEntry>(name, short(readers));
      // Of two renders the first: whose value is written cannot be told, and an earlier time stores no older value.
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
      // What was not read first was rendered within the request in any case.
      const startedAt = this.#began.get(name) ?? this.#madeAt;
      this.#began.delete(name);
      await store.write(name, stored, short([...new Set(tags.filter(Boolean))]), life, startedAt);
    }

    async revalidateTag(tags: string | string[], durations?: { expire?: number }): Promise<void> {
      await store.invalidate(short(Array.isArray(tags) ? tags : [tags]), durations);
    }

    resetRequestCache(): void {}
  };

  /** Fetched data and images are every build's; a page names its build's files, and its code made it. */
  function nameOf(key: string, kind: string | undefined): string {
    return kind === "FETCH" || kind === "IMAGE" ? key : `${build}${key}`;
  }
}

/** The build whose pages these are, with a colon; nothing where there is none, as in development. */
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
 * The entry as Next.js has to see it. Next.js judges by `lastModified` and `revalidate`, and cannot be told that an
 * entry is stale. So the process that holds the lease gets one that has just passed its `revalidate`, which Next.js
 * serves and renders anew; the others get one that has not yet, since theirs would be the same render again.
 */
function shown({ value: stored, state }: Found<IncrementalEntry>, context: Context): IncrementalEntry {
  const { value, lastModified, cacheControl } = stored;
  // It is the server that decides, whatever this machine's clock says; but a fetch's reader may want a newer one.
  const past = Date.now() > lastModified + seconds(cacheControl?.revalidate) * 1000;
  if (state === "fresh" && (context.kind === "FETCH" || !past)) return stored;
  const expire = cacheControl?.expire ?? YEAR;
  // Past its end in any case: as though it were not there.
  if (Date.now() > lastModified + expire * 1000) return { ...stored, lastModified: -1 };
  // For a fetch Next.js goes by what the reader says.
  const fetched = context.kind === "FETCH" ? context.revalidate || value.revalidate : undefined;
  const revalidate = fetched ?? (state === "refresh" ? 1 : REFRESHING);
  const age = state === "refresh" ? revalidate * 1000 + 1 : 0;
  return { value, lastModified: Date.now() - age, cacheControl: { revalidate, expire } };
}
