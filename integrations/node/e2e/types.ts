/** Compiled, not run: the handlers are what Next.js's own types ask for. */
import type { CacheHandler } from "next/cache.js";
import type { Client } from "../src/connection.js";
import { incrementalCacheHandler, useCacheHandler } from "../src/next/index.js";

declare const client: Client;

export const useCache: CacheHandler = useCacheHandler({ client });

type IncrementalCacheHandler = import("next/dist/server/lib/incremental-cache/index.js").CacheHandler;
export const incremental: IncrementalCacheHandler = new (incrementalCacheHandler({ client }))();
