/** Compiled, not run: checks the handlers against Next.js's own types. */
import type { CacheHandler } from "next/cache.js";
import type { Client } from "../src/connection.js";
import { incrementalCacheHandler, useCacheHandler } from "../src/next/index.js";

declare const client: Client;

export const useCache: CacheHandler = useCacheHandler({ client });

type IncrementalCacheHandler = import("next/dist/server/lib/incremental-cache/index.js").CacheHandler;
export const incremental: IncrementalCacheHandler = new (incrementalCacheHandler({ client }))();
