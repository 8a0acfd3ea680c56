/** The cache handlers as Next.js calls them; two of them are two processes. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type CacheEntry, type CacheHandler, incrementalCacheHandler, useCacheHandler } from "../src/next/index.js";
import { now } from "../src/loads.js";
import type { StoreOptions } from "../src/store.js";
import { KINDS, type Server, startServer, until } from "./server.js";

let server: Server;
let redis: Redis;
beforeAll(async () => {
  server = await startServer();
  redis = new Redis(server.port, "127.0.0.1");
});
afterAll(async () => {
  redis?.disconnect();
  await server?.stop();
});
beforeEach(() => redis.call("CACHE.FLUSH"));

/** The entry that Next.js passes after a render that began now. */
function entry(text: string, tags: string[] = [], times: Partial<CacheEntry> = {}): CacheEntry {
  const value = new Response(text).body as ReadableStream<Uint8Array>;
  return { value, tags, stale: 30, timestamp: now(), expire: 3600, revalidate: 900, ...times };
}

/** The entry of a render that took longer than its `revalidate`. */
async function pastRevalidate(): Promise<CacheEntry> {
  const rendered = entry("rendered", [], { revalidate: 0.001 });
  await until("its time is over", () => Date.now() > rendered.timestamp + 10);
  return rendered;
}

async function text(found: CacheEntry | undefined): Promise<string | undefined> {
  return found && new Response(found.value).text();
}

/** Whether Next.js would render again, in the background, after serving this. */
function rendersAgain(found: CacheEntry | undefined): boolean {
  return found !== undefined && Date.now() > found.timestamp + found.revalidate * 1000;
}

describe.each(KINDS)("use cache, $name", ({ connect }) => {
  const opened: { close(): void }[] = [];
  afterEach(() => {
    for (const client of opened.splice(0)) client.close();
  });

  async function process(options: Partial<StoreOptions> = {}): Promise<CacheHandler> {
    const client = await connect(server.port);
    const handler = useCacheHandler({ client, onError: (error) => expect.fail(String(error)), ...options });
    opened.push(handler, client);
    return handler;
  }

  test("an entry is read as it was stored", async () => {
    const a = await process();
    expect(await a.get("k", [])).toBeUndefined();
    const stored = entry("\0binary\xff", ["t", "ü"], { expire: Number.POSITIVE_INFINITY });
    await a.set("k", Promise.resolve(stored));
    for (const handler of [a, await process()]) {
      const found = await handler.get("k", ["_N_T_/layout"]);
      expect(found).toMatchObject({ ...stored, value: expect.any(ReadableStream) });
      expect(await text(found)).toBe("\0binary\xff");
    }
  });

  test("one process renders, the other waits", async () => {
    const [a, b] = [await process(), await process()];
    expect(await a.get("k", ["soft"])).toBeUndefined();
    const waiting = b.get("k", ["soft"]);
    await until("the other process waits", async () => /lease_waiters:1/.test(await redis.info("tagcache")));
    await a.set("k", Promise.resolve(entry("rendered")));
    expect(await text(await waiting)).toBe("rendered");
  });

  test("a read waits for a set of the same process", async () => {
    const a = await process();
    let finish = (_: CacheEntry) => {};
    const saving = a.set("k", new Promise((resolve) => (finish = resolve)));
    const reading = a.get("k", []);
    finish(entry("rendered"));
    await saving;
    expect(await text(await reading)).toBe("rendered");
  });

  test("after a failed render the other process renders", async () => {
    const [a, b] = [await process(), await process()];
    await a.get("k", []);
    const waiting = b.get("k", []);
    await until("the other process waits", async () => /lease_waiters:1/.test(await redis.info("tagcache")));
    const value = new ReadableStream({ start: (controller) => controller.error(new Error("half a page")) });
    await a.set("k", Promise.resolve(entry("", [], { value })));
    expect(await waiting).toBeUndefined();
    await b.set("k", Promise.resolve(entry("whole")));
    expect(await text(await a.get("k", []))).toBe("whole");
  });

  test("a wait times out with a render that is not stored", async () => {
    const [a, b] = [await process(), await process({ waitMs: 50 })];
    await a.get("k", []);
    expect(await b.get("k", [])).toBeUndefined();
    await b.set("k", Promise.resolve(entry("second")));
    await a.set("k", Promise.resolve(entry("first")));
    expect(await text(await b.get("k", []))).toBe("first");
  });

  test.each(["own", "soft"])("a render overtaken by invalidating an %s tag is not stored", async (tag) => {
    const [a, b] = [await process(), await process()];
    await a.get("k", ["soft"]);
    await b.updateTags([tag]);
    await a.set("k", Promise.resolve(entry("old", ["own"])));
    expect(await b.get("k", ["soft"])).toBeUndefined();
  });

  test.each([
    ["lost", {}, () => redis.call("CACHE.DEL", "next:use:k")],
    ["over", { leaseMs: 50 }, () => until("it is", async () => /leases:0/.test(await redis.info("tagcache")))],
  ])("a render whose lease is %s is not stored under a later lease", async (_how, options, end) => {
    const [a, b] = [await process(options), await process()];
    await a.get("k", []);
    const old = entry("old", ["own"]);
    await end();
    await b.updateTags(["own"]);
    expect(await a.get("k", [])).toBeUndefined();
    const fresh = entry("new", ["own"]);
    await a.set("k", Promise.resolve(old));
    expect(await redis.exists("next:use:k")).toBe(0);
    await a.set("k", Promise.resolve(fresh));
    expect(await text(await b.get("k", []))).toBe("new");
    await a.set("k", Promise.resolve(entry("old", ["own"], { timestamp: old.timestamp })));
    expect(await text(await b.get("k", []))).toBe("new");
  });

  test("an overtaken render without a lease is not stored", async () => {
    const [a, b] = [await process(), await process()];
    const old = entry("old", ["own"]);
    await b.updateTags(["own"]);
    await a.set("k", Promise.resolve(old));
    expect(await b.get("k", [])).toBeUndefined();
  });

  test("a forced render replaces a fresh entry", async () => {
    const a = await process({ clockSkewMs: 0 });
    for (const body of ["first", "second"]) {
      await a.set("k", Promise.resolve(entry(body, ["own"])));
      expect(await text(await a.get("k", []))).toBe(body);
    }
  });

  test("soft tags drop an entry only for readers with these tags", async () => {
    const [a, b] = [await process(), await process()];
    await a.get("k", ["_N_T_/a", "_N_T_/layout"]);
    await a.set("k", Promise.resolve(entry("rendered", ["own"])));
    await b.updateTags(["_N_T_/a"]);
    expect(await text(await a.get("k", ["_N_T_/b", "_N_T_/layout"]))).toBe("rendered");
    expect(await redis.call("CACHE.TAGINFO", "next:use:_N_T_/layout")).toBeNull();
    expect(await a.get("k", ["_N_T_/a"])).toBeUndefined();
  });

  test("after updateTags with expire, stale is served and one renders", async () => {
    const [a, b] = [await process(), await process()];
    await a.get("k", []);
    await a.set("k", Promise.resolve(entry("old", ["own"])));
    await b.updateTags(["own"], { expire: 60 });
    const found = [await a.get("k", []), await b.get("k", []), await a.get("k", []), await b.get("k", [])];
    expect(await Promise.all(found.map(text))).toEqual(["old", "old", "old", "old"]);
    expect(found.map(rendersAgain)).toEqual([true, false, false, false]);
    await a.set("k", Promise.resolve(entry("new", ["own"])));
    expect(await text(await b.get("k", []))).toBe("new");
  });

  test("after updateTags with expire, the entry is gone in the end", async () => {
    const a = await process();
    await a.get("k", []);
    await a.set("k", Promise.resolve(entry("old", ["own"])));
    await a.updateTags(["own"], { expire: 0.05 });
    await until("it is gone", async () => (await redis.call("CACHE.INSPECT", "next:use:k")) === null);
    await a.updateTags(["own"], { expire: 0 });
  });

  test("after updateTags without expire, the entry stays stale", async () => {
    const a = await process();
    await a.get("k", []);
    await a.set("k", Promise.resolve(entry("old", ["own"])));
    await a.updateTags(["own"], {});
    expect(rendersAgain(await a.get("k", []))).toBe(true);
  });

  test("an entry past revalidate is stale, and one process renders", async () => {
    const [a, b] = [await process(), await process()];
    await a.get("k", []);
    await a.set("k", Promise.resolve(await pastRevalidate()));
    await until("it is stale", async () => rendersAgain(await a.get("k", [])));
    expect(rendersAgain(await b.get("k", []))).toBe(false);
  });

  test("an entry past expire is not served, even during a render", async () => {
    const [a, b] = [await process(), await process()];
    await a.get("k", []);
    await a.set("k", Promise.resolve(entry("old", [], { revalidate: 0.01, expire: 0.02 })));
    await redis.call("CACHE.TOUCH", "next:use:k", "PX", 1, "GRACE", 60_000);
    await until("it is stale", async () => rendersAgain(await a.get("k", [])));
    // By Next.js's own rule.
    const isOver = (found: CacheEntry | undefined) => Date.now() > Number(found?.timestamp) + Number(found?.expire) * 1000;
    await until("it is past expire", async () => isOver(await b.get("k", [])));
  });

  test("after a timed out wait, reads do not wait until a value is read", async () => {
    const [a, b] = [await process(), await process({ waitMs: 50 })];
    const commands = async () => {
      await redis.config("RESETSTAT");
      expect(await b.get("k", [])).toBeUndefined();
      return Number(/cmdstat_cache.fetch:calls=(\d+)/i.exec(await redis.info("commandstats"))?.[1]);
    };
    await a.get("k", []);
    expect([await commands(), await commands()]).toEqual([2, 1]);
    await a.set("k", Promise.resolve(entry("v", ["own"])));
    expect(await text(await b.get("k", []))).toBe("v");
    await a.updateTags(["own"]);
    await a.get("k", []);
    expect([await commands(), await commands()]).toEqual([2, 1]);
  });

  test("a write refused by the server releases its lease", async () => {
    const errors: unknown[] = [];
    const a = await process({ onError: (error) => errors.push(error) });
    await a.get("k", []);
    await a.set("k", Promise.resolve(entry("v", Array.from({ length: 1025 }, (_, i) => `t${i}`))));
    expect(String(errors)).toMatch("tagcache.max-tags-per-entry");
    await until("the lease is given up", async () => /leases:0/.test(await redis.info("tagcache")));
  });

  test("the server's clock decides when an entry is stale", async () => {
    const a = await process();
    await a.get("k", []);
    await a.set("k", Promise.resolve(await pastRevalidate()));
    await redis.call("CACHE.TOUCH", "next:use:k", "PX", 60_000);
    expect(rendersAgain(await a.get("k", []))).toBe(false);
  });

  test("long tags and many tags are accepted", async () => {
    const a = await process();
    const long = "_N_T_/".padEnd(1024, "é");
    await a.get("k", [long]);
    await a.set("k", Promise.resolve(entry("v", [long, ...Array.from({ length: 128 }, (_, i) => `t${i}`)])));
    expect(await text(await a.get("k", [long]))).toBe("v");
    await a.updateTags([long]);
    expect(await a.get("k", [long])).toBeUndefined();
  });

  test("an entry with an expire of zero is not stored", async () => {
    const a = await process();
    await a.get("k", []);
    await a.set("k", Promise.resolve(entry("dynamic", [], { expire: 0 })));
    expect(await redis.exists("next:use:k")).toBe(0);
    expect(await redis.info("tagcache")).toMatch(/leases:0/);
  });

  test("an undecodable entry is a logged miss and is replaced", async () => {
    const errors: unknown[] = [];
    const a = await process({ onError: (error) => errors.push(error) });
    await redis.call("CACHE.SET", "next:use:k", "not an entry");
    expect(await a.get("k", [])).toBeUndefined();
    expect(errors).toHaveLength(1);
    await a.set("k", Promise.resolve(entry("new")));
    expect(await text(await a.get("k", []))).toBe("new");
  });

  test("get checks soft tags in the same round trip", async () => {
    const a = await process();
    await a.refreshTags();
    expect(await a.getExpiration(["x"])).toBe(Number.POSITIVE_INFINITY);
    await redis.config("RESETSTAT");
    await a.get("k", ["x"]);
    expect((await redis.info("commandstats")).match(/cmdstat_cache[^:]*:calls=\d+/gi)).toEqual([
      "cmdstat_cache.FETCH:calls=1",
    ].map((line) => expect.stringMatching(new RegExp(line, "i"))));
  });
});

describe("errors", () => {
  test.each(KINDS)("$name: without a server, get logs a miss and updateTags rejects", async ({
    connect,
  }) => {
    const own = await startServer();
    const errors: unknown[] = [];
    const client = await connect(own.port);
    const handler = useCacheHandler({ client, timeoutMs: 200, onError: (error) => errors.push(error) });
    await own.stop();
    expect(await handler.get("k", [])).toBeUndefined();
    await handler.set("k", Promise.resolve(entry("v")));
    expect(errors).toHaveLength(2);
    await expect(handler.updateTags(["t"])).rejects.toThrow();
    client.close();
  });

  test("without the module the error names the fix", async () => {
    const plain = await startServer(false);
    const client = new Redis(plain.port, "127.0.0.1");
    const errors: unknown[] = [];
    const handler = useCacheHandler({ client, onError: (error) => errors.push(error) });
    expect(await handler.get("k", [])).toBeUndefined();
    expect(String(errors[0])).toMatch(/load tagcache\.so/);
    await expect(handler.updateTags(["t"])).rejects.toThrow(/load tagcache\.so/);
    client.disconnect();
    await plain.stop();
  });
});

describe.each(KINDS)("the incremental cache, $name", ({ connect }) => {
  const opened: { close(): void }[] = [];
  afterEach(() => {
    for (const client of opened.splice(0)) client.close();
  });

  async function process() {
    const client = await connect(server.port);
    const Handler = incrementalCacheHandler({ client, onError: (error) => expect.fail(String(error)) });
    opened.push(Handler, client);
    // Next.js makes one instance per request.
    return () => new Handler({});
  }

  const PAGE = {
    kind: "APP_PAGE",
    html: "<p>page</p>",
    rscData: Buffer.from([0, 255]),
    headers: { "x-next-cache-tags": "t,_N_T_/page" },
    postponed: undefined,
    status: 200,
    segmentData: new Map([["/a", Buffer.from("segment")]]),
  };
  const CONTEXT = { kind: "APP_PAGE", cacheControl: { revalidate: 900, expire: 3600 } };

  test("a page is read as it was stored, with its times", async () => {
    const [a, b] = [await process(), await process()];
    expect(await a().get("/page", CONTEXT)).toBeNull();
    await a().set("/page", PAGE, CONTEXT);
    const found = await b().get("/page", CONTEXT);
    expect(found?.value).toEqual(PAGE);
    expect(found?.cacheControl).toEqual(CONTEXT.cacheControl);
  });

  test("pages belong to one build, fetched data to all builds", async () => {
    const builds = await Promise.all(["old", "new"].map(async (id) => {
      const dist = mkdtempSync(join(tmpdir(), "tagcache-build-"));
      writeFileSync(join(dist, "BUILD_ID"), id);
      const client = await connect(server.port);
      const Handler = incrementalCacheHandler({ client, onError: (error) => expect.fail(String(error)) });
      opened.push(Handler, client, { close: () => rmSync(dist, { recursive: true }) });
      return new Handler({ serverDistDir: join(dist, "server") });
    }));
    const [a, b] = builds as [(typeof builds)[0], (typeof builds)[0]];
    const value = { kind: "FETCH", data: { body: "b", headers: {}, url: "u" }, revalidate: 900 };
    await a.get("/page", CONTEXT);
    await a.set("/page", PAGE, CONTEXT);
    await a.get("hash", { kind: "FETCH" });
    await a.set("hash", value, { fetchCache: true, tags: [] });
    expect((await a.get("/page", CONTEXT))?.value).toEqual(PAGE);
    expect(await b.get("/page", CONTEXT)).toBeNull();
    expect((await b.get("hash", { kind: "FETCH" }))?.value).toEqual(value);
    await b.set("/page", PAGE, CONTEXT);
    await b.revalidateTag("t");
    expect(await a.get("/page", CONTEXT)).toBeNull();
  });

  test("the absence of a page is cached", async () => {
    const a = await process();
    await a().get("/none", CONTEXT);
    await a().set("/none", null, CONTEXT);
    expect(await a().get("/none", CONTEXT)).toMatchObject({ value: null });
  });

  test("a render whose lease is lost is not stored under a later lease", async () => {
    const a = await process();
    const [first, second] = [a(), a()];
    await first.get("/page", CONTEXT);
    await redis.call("CACHE.DEL", "next:isr:/page");
    await first.revalidateTag("t");
    expect(await second.get("/page", CONTEXT)).toBeNull();
    await first.set("/page", { ...PAGE, ...{ html: "old" } }, CONTEXT);
    expect(await redis.exists("next:isr:/page")).toBe(0);
    await second.set("/page", PAGE, CONTEXT);
    expect((await a().get("/page", CONTEXT))?.value).toEqual(PAGE);
  });

  test("a render without a read is checked from its request's start", async () => {
    const a = await process();
    const request = a();
    await request.revalidateTag("t");
    await a().get("/page", CONTEXT);
    await request.set("/page", PAGE, CONTEXT);
    expect(await redis.exists("next:isr:/page")).toBe(0);
  });

  test.each(["t", "_N_T_/page"])("revalidateTag %s drops a page for all processes", async (tag) => {
    const [a, b] = [await process(), await process()];
    await a().get("/page", CONTEXT);
    await a().set("/page", PAGE, CONTEXT);
    await b().revalidateTag(tag);
    expect(await a().get("/page", CONTEXT)).toBeNull();
  });

  test("after revalidateTag with expire, a page is stale for one process", async () => {
    const [a, b] = [await process(), await process()];
    await a().get("/page", CONTEXT);
    await a().set("/page", PAGE, CONTEXT);
    await b().revalidateTag(["t"], { expire: 60 });
    const stale = (found: Awaited<ReturnType<ReturnType<typeof a>["get"]>>) =>
      Date.now() > Number(found?.lastModified) + Number(found?.cacheControl?.revalidate) * 1000;
    const found = [await b().get("/page", CONTEXT), await a().get("/page", CONTEXT)];
    expect(found.map((one) => one?.value)).toEqual([PAGE, PAGE]);
    expect(found.map(stale)).toEqual([true, false]);
  });

  test("after revalidateTag with expire, a fetch is stale for one process", async () => {
    const [a, b] = [await process(), await process()];
    const value = { kind: "FETCH", data: { body: "b", headers: {}, url: "u" }, revalidate: 900 };
    const context = { kind: "FETCH", tags: ["data"], softTags: [], revalidate: 600 };
    await a().get("hash", context);
    await a().set("hash", value, { fetchCache: true, tags: ["data"] });
    await a().revalidateTag("data", { expire: 60 });
    // By Next.js's own rule.
    const stale = (found: Awaited<ReturnType<ReturnType<typeof a>["get"]>>) =>
      (Date.now() - Number(found?.lastModified)) / 1000 > context.revalidate;
    const found = [await b().get("hash", context), await a().get("hash", context)];
    expect(found.map((one) => one?.value)).toEqual([value, value]);
    expect(found.map(stale)).toEqual([true, false]);
  });

  test("a fetch is also checked against the tags of its reader", async () => {
    const a = await process();
    const value = { kind: "FETCH", data: { body: "b", headers: {}, url: "u" }, revalidate: 900 };
    const context = { kind: "FETCH", tags: ["data"], softTags: ["_N_T_/page"] };
    await a().get("hash", context);
    await a().set("hash", value, { fetchCache: true, tags: ["data"] });
    expect((await a().get("hash", context))?.value).toEqual(value);
    await a().revalidateTag("_N_T_/page");
    expect(await a().get("hash", { ...context, softTags: ["_N_T_/other"] })).not.toBeNull();
    expect(await a().get("hash", context)).toBeNull();
  });
});
