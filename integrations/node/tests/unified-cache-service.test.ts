/** The guide's six tests, alone and with a server, and changes by other processes. */
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, test } from "vitest";
import { SharedCache } from "../src/shared-cache.js";
import { UnifiedCacheService } from "../src/unified-cache-service.js";
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
beforeEach(() => redis.flushall());

const ALONE = { name: "alone", connect: undefined };

describe.each([ALONE, ...KINDS])("the guide's tests, $name", ({ connect }) => {
  let cache: UnifiedCacheService;
  let client: { close(): void } | undefined;

  beforeEach(async () => {
    cache = new UnifiedCacheService();
    const connected = await connect?.(server.port);
    if (connected) await cache.connect(connected);
    client = connected;
  });
  afterEach(async () => {
    await cache.invalidateAll();
    cache.stopCleanup();
    client?.close();
  });

  it("should set and get cached values", () => {
    cache.set("test-key", { data: "test" }, 60000);
    const value = cache.get("test-key");
    expect(value).toEqual({ data: "test" });
  });

  it("should expire cached values after TTL", async () => {
    cache.set("test-key", { data: "test" }, 100);

    await new Promise((resolve) => setTimeout(resolve, 150));

    const value = cache.get("test-key");
    expect(value).toBeNull();
  });

  it("should track access counts", () => {
    cache.set("test-key", { data: "test" }, 60000);

    cache.get("test-key");
    cache.get("test-key");
    cache.get("test-key");

    const topKeys = cache.getTopAccessedKeys(1);
    expect(topKeys[0]?.key).toBe("test-key");
    expect(topKeys[0]?.count).toBe(3);
  });

  it("should enforce max cache size", () => {
    for (let i = 0; i < 150; i++) {
      cache.set(`key-${i}`, { data: i }, 60000);
    }

    cache["performCleanup"]();

    const stats = cache.getStats();
    expect(stats.totalEntries).toBeLessThanOrEqual(100);
  });

  it("should enforce max tracking size", () => {
    for (let i = 0; i < 250; i++) {
      cache.set(`key-${i}`, { data: i }, 60000);
      cache.get(`key-${i}`);
    }

    cache["performCleanup"]();

    const stats = cache.getStats();
    expect(stats.trackingEntries).toBeLessThanOrEqual(200);
  });

  it("should invalidate by tag", () => {
    cache.set("key-1", { data: 1 }, 60000, ["tag-a"]);
    cache.set("key-2", { data: 2 }, 60000, ["tag-a"]);
    cache.set("key-3", { data: 3 }, 60000, ["tag-b"]);

    cache.invalidateByTag("tag-a");

    expect(cache.get("key-1")).toBeNull();
    expect(cache.get("key-2")).toBeNull();
    expect(cache.get("key-3")).toEqual({ data: 3 });
  });
});

describe.each(KINDS)("two processes, $name", ({ connect }) => {
  const opened: { close(): void }[] = [];
  const services: UnifiedCacheService[] = [];

  const fail = (error: unknown): void => expect.fail(String(error));
  async function process(onError = fail, clockSkewMs = 1_000): Promise<UnifiedCacheService> {
    const client = await connect(server.port);
    const service = new UnifiedCacheService();
    await service.connect(client, { onError, clockSkewMs });
    opened.push(client);
    services.push(service);
    return service;
  }
  afterEach(() => {
    for (const service of services.splice(0)) service.stopCleanup();
    for (const client of opened.splice(0)) client.close();
  });

  test("one process loads, both have the value in memory", async () => {
    const [a, b] = [await process(), await process()];
    let loads = 0;
    const load = async () => {
      await new Promise((resolve) => setTimeout(resolve, 50));
      return { n: ++loads };
    };
    const values = await Promise.all([a, b, a].map((cache) => cache.getOrLoad("k", load, 60_000, ["t"])));
    expect(values).toEqual([{ n: 1 }, { n: 1 }, { n: 1 }]);
    expect([a.get("k"), b.get("k")]).toEqual([{ n: 1 }, { n: 1 }]);
  });

  test("a change by one process removes the value from the other's memory", async () => {
    const [a, b] = [await process(), await process()];
    for (const change of [
      () => a.invalidateByTag("t"),
      () => a.invalidateAll(),
      () => a.set("k", 2, 60_000),
      () => a.delete("k"),
      () => redis.call("CACHE.INVALIDATEWHERE", "ALL", 1, "cache:t"),
      () => redis.call("CACHE.FLUSH"),
    ]) {
      // The message of the previous change may arrive late, and prevent the value from being kept.
      await until("the value is in memory", async () => {
        await b.getOrLoad("k", () => 1, 60_000, ["t"]);
        return b.get("k") !== null;
      });
      await change();
      await until("the other process forgets it", () => b.get("k") === null);
    }
  });

  test("a value invalidated during its load is not kept", async () => {
    const a = await process();
    const value = await a.getOrLoad("k", async () => {
      await redis.call("CACHE.INVALIDATE", "cache:t");
      return "old";
    }, 60_000, ["t"]);
    expect(value).toBe("old");
    expect(a.get("k")).toBeNull();
    expect(await redis.call("CACHE.GET", "cache:k")).toBeNull();
  });

  test.each(["invalidated", "deleted"])("a value %s during its load is loaded again for later callers", async (how) => {
    const a = await process(fail, 0);
    let row = "old";
    let finish: (() => void) | undefined;
    const before = a.getOrLoad("k", async () => {
      const value = row;
      await new Promise<void>((resolve) => (finish = resolve));
      return value;
    }, 60_000, ["t"]);
    await until("the load has begun", () => finish);
    row = "new";
    await (how === "deleted" ? a.delete("k") : a.invalidateByTag("t"));
    const after = [1, 2].map(() => a.getOrLoad("k", async () => row, 60_000, ["t"]));
    finish?.();
    expect(await Promise.all([before, ...after])).toEqual(["old", "new", "new"]);
    expect(await redis.call("CACHE.GET", "cache:k")).toBe('"new"');
  });

  test("a value set during a read or load is kept", async () => {
    const b = await process();
    await redis.call("CACHE.SET", "cache:k", '"old"');
    const reading = b.getOrLoad("k", () => "none", 60_000);
    b.set("k", "new", 60_000);
    expect(await reading).toBe("old");
    expect(b.get("k")).toBe("new");
    const loading = await b.getOrLoad("l", async () => {
      await b.set("l", "new", 60_000);
      return "old";
    }, 60_000);
    expect(loading).toBe("old");
    expect(b.get("l")).toBe("new");
  });

  test("one process reloads a stale value, others are served it meanwhile", async () => {
    const [a, b] = [await process(), await process()];
    await redis.call("CACHE.SET", "cache:k", '"old"', "GRACE", 60_000, "TAGS", 1, "cache:t");
    await redis.call("CACHE.REVALIDATE", "cache:t");
    let inner = "";
    const value = await a.getOrLoad("k", async () => {
      inner = await b.getOrLoad("k", () => "none", 60_000);
      return "new";
    }, 60_000);
    expect([value, inner]).toEqual(["new", "old"]);
    expect(b.get("k")).toBeNull();
    expect(await b.getOrLoad("k", () => "none", 60_000)).toBe("new");
  });

  test("after a failed load the next one can begin", async () => {
    const [a, b] = [await process(), await process()];
    const failing = a.getOrLoad("k", () => Promise.reject(new Error("database")), 60_000);
    await expect(failing).rejects.toThrow("database");
    expect(await b.getOrLoad("k", () => 2, 60_000)).toBe(2);
  });

  test("hits in memory are counted on the server", async () => {
    const a = await process();
    await a.set("k", 1, 60_000);
    for (let i = 0; i < 5; i++) a.get("k");
    a["performCleanup"]();
    await until("the server counts them", async () => {
      const [top] = (await redis.call("CACHE.TOP", 1)) as [[string, number]];
      return top?.[0] === "cache:k" && top[1] === 5;
    });
  });

  test("the statistics show both tiers", async () => {
    const a = await process();
    await a.set("k", 1, 60_000);
    const stats = await a.getCacheStats();
    expect(stats.local.totalEntries).toBe(1);
    expect(stats.redis).toEqual({ connected: true, keyCount: 1 });
  });

  test("an undecodable value is loaded again", async () => {
    const errors: unknown[] = [];
    const a = await process((error) => void errors.push(error), 0);
    await redis.call("CACHE.SET", "cache:k", "no json");
    expect(await a.getOrLoad("k", () => 7, 60_000)).toBe(7);
    expect(errors).toHaveLength(1);
    expect(await redis.call("CACHE.GET", "cache:k")).toBe("7");
  });

  test("without messages nothing is kept in memory until they resume", async () => {
    const a = await process(() => {});
    await a.set("k", 1, 60_000);
    await redis.call("CLIENT", "KILL", "TYPE", "pubsub");
    await until("memory is dropped", () => a.get("k") === null);
    a.set("other", 1, 60_000);
    await until("a value is kept again", async () => {
      await a.set("k", 2, 60_000);
      return a.get("k") === 2;
    });
  });
});

test("in a cluster, changes are published after a reply or an error", async () => {
  const sent: string[] = [];
  const answers: (() => void)[] = [];
  const client = {
    callBuffer: (command: string) => {
      sent.push(command);
      if (command === "PUBLISH") return Promise.resolve(0);
      return new Promise((resolve, reject) => answers.push(() => resolve("OK"), () => reject(new Error("lost"))));
    },
    isCluster: true,
    nodes: () => [],
    slots: [],
  };
  const listener = { everything: () => {}, key: () => {}, tags: () => {} };
  const shared = new SharedCache(client as never, {}, listener);
  const set = shared.set("k", 1, 60_000, []);
  const deleted = shared.delete("k");
  await new Promise(setImmediate);
  expect(sent).toEqual(["CACHE.SET", "CACHE.DEL"]);
  answers[0]?.();
  answers[3]?.();
  await set;
  await expect(deleted).rejects.toThrow("lost");
  expect(sent).toEqual(["CACHE.SET", "CACHE.DEL", "PUBLISH", "PUBLISH"]);
});

describe("without a server", () => {
  test("loads continue, invalidations reject", async () => {
    const own = await startServer();
    const errors: unknown[] = [];
    const client = new Redis(own.port, "127.0.0.1");
    client.on("error", () => {});
    const cache = new UnifiedCacheService();
    await cache.connect(client, { onError: (error) => errors.push(error), timeoutMs: 200 });
    await own.stop();
    await until("the loss is noticed", () => cache.getOrLoad("k", () => 1, 60_000).then(() => cache.get("k") === null));
    expect(await cache.getOrLoad("k", () => 2, 60_000)).toBe(2);
    await expect(cache.invalidateByTag("t")).rejects.toThrow();
    expect(errors.length).toBeGreaterThan(0);
    cache.stopCleanup();
    client.disconnect();
  });

  test("without the module, connecting fails and names the fix", async () => {
    const plain = await startServer(false);
    const client = new Redis(plain.port, "127.0.0.1");
    await expect(new UnifiedCacheService().connect(client)).rejects.toThrow(/load tagcache\.so/);
    client.disconnect();
    await plain.stop();
  });
});
