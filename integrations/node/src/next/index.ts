export type { StoreOptions } from "../store.js";
export { type IncrementalHandler, incrementalCacheHandler } from "./incremental.js";
export { type CacheEntry, type CacheHandler, useCacheHandler } from "./use-cache.js";
