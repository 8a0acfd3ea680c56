import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

export default {
  cacheComponents: true,
  cacheHandlers: { default: here("./use-cache.mjs"), remote: here("./use-cache.mjs") },
  cacheHandler: here("./incremental-cache.mjs"),
  // No cache in the process: all cached values are in the server.
  cacheMaxMemorySize: 0,
  // The client library is the one beside the adapter, two folders above.
  turbopack: { root: here("../..") },
  // A directory of its own per run, so that no run can disturb another.
  distDir: process.env.TAGCACHE_E2E_DIST,
};
