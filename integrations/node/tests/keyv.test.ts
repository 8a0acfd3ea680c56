/** Features of the store beyond Keyv's suite, and cache-manager on it. */
import { createCache } from "cache-manager";
import { Redis } from "ioredis";
import { Keyv } from "keyv";
import { createClientPool } from "redis";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createKeyv, KeyvTagcache } from "../src/keyv.js";
import { KINDS, type Server, startServer, until } from "./server.js";

async function all(keyv: Keyv<any>): Promise<unknown[]> {
  const found: unknown[] = [];
  for await (const entry of keyv.iterator?.(undefined) ?? []) found.push(entry);
  return found;
}

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

describe.each(KINDS)("$name", ({ connect }) => {
  let client: Awaited<ReturnType<typeof connect>>;
  beforeAll(async () => {
    client = await connect(server.port);
  });
  afterAll(() => client.close());

  test("invalidating a tag drops its values in one command", async () => {
    const { keyv, store } = createKeyv<number>(client, { namespace: "shop", tags: (key) => [key.slice(0, 4)] });
    await keyv.setMany([
      { key: "user:1", value: 1 },
      { key: "user:2", value: 2, ttl: 60_000 },
      { key: "item:1", value: 3 },
    ]);
    expect(await redis.call("CACHE.TAGINFO", "user")).toContain(2);
    expect(await store.invalidateTags(["user"])).toBe(2);
    expect(await keyv.get(["user:1", "user:2", "item:1"])).toEqual([undefined, undefined, 3]);
  });

  test("values have the namespace's tag and their TTL", async () => {
    const { keyv } = createKeyv(client, { namespace: "shop" });
    await keyv.set("a", 1, 60_000);
    const pttl = await redis.pttl("shop:a");
    expect(pttl).toBeGreaterThan(50_000);
    expect(pttl).toBeLessThanOrEqual(60_000);
    expect(await redis.call("CACHE.TAGSCAN", "keyv:shop", 0)).toEqual(["0", ["shop:a"]]);
  });

  test("hasMany reports each key", async () => {
    const { keyv } = createKeyv(client, {});
    await keyv.set("a", 1);
    expect(await keyv.has(["a", "b"])).toEqual([true, false]);
  });

  test("setting a negative TTL removes the value", async () => {
    const store = new KeyvTagcache(client);
    await store.set("a", "1");
    await store.set("b", "1");
    await store.set("a", "2", -1);
    await store.setMany([{ key: "b", value: "2", ttl: -1 }]);
    expect(await store.getMany(["a", "b"])).toEqual([undefined, undefined]);
  });

  test.each(["\xff{no json", "null", "5"])("an undecodable value is a reported miss: %s", async (raw) => {
    const errors: unknown[] = [];
    const { keyv } = createKeyv(client, { namespace: "shop", onError: (error) => errors.push(error) });
    await redis.call("CACHE.SET", "shop:a", raw, "TAGS", 1, "keyv:shop");
    await keyv.set("b", 1);
    expect(await keyv.get("a")).toBeUndefined();
    expect(await keyv.get(["a"])).toEqual([undefined]);
    expect(await all(keyv)).toEqual([["b", 1]]);
    expect(errors).toHaveLength(3);
  });

  test("the iterator yields keys without their namespace", async () => {
    const keyvs = ["a", "a:b", undefined].map((namespace) => createKeyv(client, { namespace: namespace ?? "" }).keyv);
    for (const keyv of keyvs) await keyv.set("x:y", keyv.namespace ?? "none");
    expect(await Promise.all(keyvs.map(all))).toEqual([[["x:y", "a"]], [["x:y", "a:b"]], [["x:y", "none"]]]);
  });

  test("the last of several values for one key is stored", async () => {
    const store = new KeyvTagcache(client);
    const entries = ([[1_000, "1"], [-1, "2"], [90_000, "3"], [1_000, "4"]] as const).map(([ttl, value]) => ({ key: "a", value, ttl }));
    for (const last of [1, 2, 3, 4]) {
      await store.setMany(entries.slice(0, last));
      expect(await store.get("a")).toBe(last === 2 ? undefined : String(last));
    }
  });

  test("getMany accepts more keys than a call can have arguments", async () => {
    const keys = Array.from({ length: 200_000 }, (_, i) => `k${i}`);
    expect(await new KeyvTagcache(client).getMany(keys)).toHaveLength(keys.length);
  });

  test("a server error is not a miss", async () => {
    const { keyv } = createKeyv(client, { namespace: "shop", onError: () => {} });
    await redis.set("shop:a", "a native string");
    await expect(keyv.get("a")).rejects.toThrow("WRONGTYPE");
    await expect(keyv.set("b", 1, 1e30)).rejects.toThrow("not an integer");
    await expect(keyv.delete("a")).rejects.toThrow("WRONGTYPE");
  });

  test("an error that Keyv turns into a miss is reported and emitted", async () => {
    const reported: unknown[] = [];
    const emitted: unknown[] = [];
    const keyv = new Keyv({ store: new KeyvTagcache(client, { onError: (error) => reported.push(error) }) });
    keyv.on("error", (error) => emitted.push(error));
    await redis.set("keyv:a", "a native string");
    expect(await keyv.get("a")).toBeUndefined();
    expect(reported).toHaveLength(1);
    expect(emitted).toHaveLength(1);
  });

  test("unserialized values are refused", async () => {
    await expect(new KeyvTagcache(client).set("a", { an: "object" })).rejects.toThrow(TypeError);
  });

  describe("cache-manager", () => {
    const cache = () => createCache({ stores: [createKeyv(client, { namespace: "cm" }).keyv], ttl: 60_000 });

    test("set, get, mset, mget and ttl work", async () => {
      const stored = cache();
      await stored.set("a", { deep: [1, "2"] });
      await stored.mset([{ key: "b", value: 2 }, { key: "c", value: null, ttl: 5_000 }]);
      expect(await stored.get("a")).toEqual({ deep: [1, "2"] });
      expect(await stored.mget(["a", "b", "missing"])).toEqual([{ deep: [1, "2"] }, 2, undefined]);
      expect(await stored.ttl("a")).toBeGreaterThan(Date.now() + 50_000);
      expect(await stored.get("missing")).toBeUndefined();
    });

    test("del, mdel and clear work", async () => {
      const stored = cache();
      await stored.mset(["a", "b", "c", "d"].map((key) => ({ key, value: key })));
      await stored.del("a");
      await stored.mdel(["b", "c"]);
      expect(await stored.mget(["a", "b", "c", "d"])).toEqual([undefined, undefined, undefined, "d"]);
      await stored.clear();
      expect(await stored.get("d")).toBeUndefined();
    });

    test("wrap loads once, refreshes and passes on errors", async () => {
      const stored = cache();
      let loads = 0;
      const load = async () => ++loads;
      expect(await Promise.all([stored.wrap("a", load), stored.wrap("a", load)])).toEqual([1, 1]);
      expect(await stored.wrap("a", load, { refreshThreshold: 120_000 })).toBe(1);
      await until("the refreshed value", async () => (await stored.get("a")) === 2);
      await expect(stored.wrap("b", () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    });

    test("an expired entry is gone", async () => {
      const stored = cache();
      await stored.set("a", 1, 30);
      await until("the entry is gone", async () => (await stored.get("a")) === undefined);
      expect(await redis.exists("cm:a")).toBe(0);
    });
  });
});

describe("without the module", () => {
  test.each(KINDS)("$name: the error names the fix", async ({ connect }) => {
    const plain = await startServer(false);
    const client = await connect(plain.port);
    const { keyv } = createKeyv(client, { onError: () => {} });
    await expect(keyv.get("a")).rejects.toThrow(/load tagcache\.so/);
    await expect(keyv.set("a", 1)).rejects.toThrow(/load tagcache\.so/);
    await expect(keyv.clear()).rejects.toThrow(/load tagcache\.so/);
    client.close();
    await plain.stop();
  });
});

test("objects that are not clients are refused", () => {
  expect(() => new KeyvTagcache(createClientPool() as never)).toThrow(TypeError);
  expect(() => new KeyvTagcache({} as never)).toThrow(TypeError);
});
