export type { StoreOptions } from "../store.js";
export { type IncrementalEntry, type IncrementalHandler, type IncrementalHandlerClass, incrementalCacheHandler } from "./incremental.js";
export { type CacheEntry, type CacheHandler, type UseCacheHandler, useCacheHandler } from "./use-cache.js";
