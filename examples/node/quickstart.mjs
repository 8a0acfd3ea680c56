// tagcache from Node.js, with ioredis: call() sends any command.
//
// usage: npm install ioredis && node quickstart.mjs [redis://HOST:PORT/]

import Redis from "ioredis";

const redis = new Redis(process.argv[2] ?? "redis://127.0.0.1:6379/");

await redis.call("CACHE.SET", "user:7", "Ada", "EX", 300, "TAGS", 2, "tenant:7", "kind:user");
console.log("value:", await redis.call("CACHE.GET", "user:7"));

// Binary values: callBuffer returns Buffers.
console.log("bytes:", await redis.callBuffer("CACHE.GET", "user:7"));

// Pipelines take custom commands as well; each result is [error, reply].
const replies = await redis
  .pipeline()
  .call("CACHE.GET", "user:7")
  .call("CACHE.GET", "user:8")
  .exec();
console.log("pipelined:", replies.map(([error, reply]) => error ?? reply));

// Maps are flat arrays: name, value, name, value.
const info = await redis.call("CACHE.TAGINFO", "tenant:7");
console.log("entries of tenant:7:", info[info.indexOf("entries") + 1]);

console.log("dropped:", await redis.call("CACHE.INVALIDATE", "tenant:7"));
console.log("value now:", await redis.call("CACHE.GET", "user:7"));

await redis.quit();
