/** The adapters on a cluster of three primaries, which integrations/with-server starts. */
import { Redis } from "ioredis";
import { createCluster } from "redis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { now } from "../src/loads.js";
import { type AnyClient, Servers, slotOf } from "../src/cluster.js";
import { createKeyv } from "../src/keyv.js";
import { useCacheHandler } from "../src/next/index.js";
import { UnifiedCacheService } from "../src/unified-cache-service.js";
import { until } from "./server.js";

const ports = (process.env.TAGCACHE_CLUSTER_PORTS ?? "").split(" ").filter(Boolean).map(Number);
const nodes: Redis[] = [];
beforeAll(() => {
  if (ports.length !== 3) throw new Error("TAGCACHE_CLUSTER_PORTS: to be run by ../with-server --cluster");
  nodes.push(...ports.map((port) => new Redis(port, "127.0.0.1")));
});
afterAll(() => {
  for (const node of nodes) node.disconnect();
});
beforeEach(() => Promise.all(nodes.map((node) => node.flushall())));

const fail = (error: unknown) => expect.fail(String(error));
const keys = Array.from({ length: 60 }, (_, n) => `key:${n}`);

type Closing = AnyClient & { close(): void };
const CLUSTERS: { name: string; connect(): Promise<Closing> }[] = [
  {
    name: "ioredis",
    connect: async () => {
      const client = new Redis.Cluster(ports.map((port) => ({ host: "127.0.0.1", port })));
      return Object.assign(client, { close: () => client.disconnect() }) as never;
    },
  },
  {
    name: "node-redis",
    connect: async () => {
      const client = createCluster({ rootNodes: ports.map((port) => ({ url: `redis://127.0.0.1:${port}` })) });
      client.on("error", () => {});
      await client.connect();
      return Object.assign(client, { close: () => client.destroy() }) as never;
    },
  },
];

test("slots match the cluster specification", async () => {
  for (const key of ["123456789", "foo{bar}baz", "{}x", "a{{b}c}", "é", ""]) {
    expect(slotOf(key)).toBe(await nodes[0]?.cluster("KEYSLOT", key));
  }
});

/** Keys that each node holds. */
function sizes(): Promise<number[]> {
  return Promise.all(nodes.map((node) => node.dbsize()));
}

/** Clients that wait on a node. */
async function blocked(): Promise<number> {
  const clients = await Promise.all(nodes.map((node) => node.info("clients")));
  return clients.reduce((sum, text) => sum + Number(/blocked_clients:(\d+)/.exec(text)?.[1]), 0);
}

/** Redirections that the nodes have sent. */
async function moved(): Promise<number> {
  const stats = await Promise.all(nodes.map((node) => node.info("errorstats")));
  return stats.reduce((sum, text) => sum + Number(/errorstat_MOVED:count=(\d+)/.exec(text)?.[1] ?? 0), 0);
}

describe.each(CLUSTERS)("$name", ({ connect }) => {
  const opened: { close(): void }[] = [];
  afterEach(() => {
    for (const one of opened.splice(0)) one.close();
  });
  async function client(): Promise<Closing> {
    const connected = await connect();
    opened.unshift(connected);
    return connected;
  }

  test("Keyv: keys go to their nodes, invalidations to all nodes", async () => {
    const { keyv, store } = createKeyv<string>(await client(), { namespace: "shop", tags: () => ["kind"] });
    await keyv.set("warm", "up");
    const before = await moved();
    await keyv.setMany(keys.map((key) => ({ key, value: key })));
    expect(await keyv.get([...keys, "none", keys[0] as string])).toEqual([...keys, undefined, keys[0]]);
    for (const key of keys) expect(await keyv.get(key)).toBe(key);
    expect(await moved()).toBe(before);
    expect(Math.min(...(await sizes()))).toBeGreaterThan(0);
    const listed = new Set<string>();
    for await (const [key] of keyv.iterator?.({}) ?? []) listed.add(key);
    expect(listed).toEqual(new Set([...keys, "warm"]));
    expect(await keyv.delete([keys[0] as string, keys[1] as string])).toBe(true);
    expect(await store.invalidateTags(["kind"])).toBe(59);
    expect(await keyv.get(keys)).toEqual(keys.map(() => undefined));
    await keyv.setMany(keys.map((key) => ({ key, value: key })));
    await keyv.clear();
    expect(await keyv.get(keys)).toEqual(keys.map(() => undefined));
  });

  test("Next.js: one process renders, others wait, tags reach all nodes", async () => {
    const handlers = [];
    for (const own of [await client(), await client()]) {
      const handler = useCacheHandler({ client: own, onError: fail });
      opened.unshift(handler);
      handlers.push(handler);
    }
    const [one, two] = handlers as [(typeof handlers)[0], (typeof handlers)[0]];
    const rendered = (text: string) => {
      const value = new Response(text).body as ReadableStream<Uint8Array>;
      return Promise.resolve({ value, tags: ["t"], stale: 30, timestamp: now(), expire: 3600, revalidate: 900 });
    };
    for (const key of keys.slice(0, 9)) {
      expect(await one.get(key, ["soft"])).toBeUndefined();
      const waiting = two.get(key, ["soft"]);
      await until("it waits", async () => (await blocked()) === 1);
      await one.set(key, rendered(key));
      expect(await new Response((await waiting)?.value).text()).toBe(key);
    }
    // A lease ends with its connection, so those of the waits are still open, beside the client's own.
    const lists = await Promise.all(nodes.map(async (node) => String(await node.client("LIST"))));
    expect(lists.map((list) => list.match(/cmd=cache.fetch/gi)?.length)).toEqual([2, 2, 2]);
    await two.updateTags(["t"]);
    for (const key of keys.slice(0, 9)) expect(await one.get(key, [])).toBeUndefined();
  });

  test("the cache service: a change drops the value in other processes", async () => {
    const [one, two] = [new UnifiedCacheService(), new UnifiedCacheService()];
    for (const service of [one, two]) {
      await service.connect(await client(), { onError: fail });
      opened.unshift({ close: () => service.stopCleanup() });
    }
    let loads = 0;
    const load = (service: UnifiedCacheService, key: string) =>
      service.getOrLoad(key, () => `${key}, load ${++loads}`, 60_000, ["t"]);
    for (const key of keys.slice(0, 9)) {
      expect(await load(one, key)).toBe(await load(two, key));
      expect(two.get(key)).not.toBeNull();
    }
    expect(loads).toBe(9);
    expect((await one.getCacheStats()).redis).toEqual({ connected: true, keyCount: 9 });
    await one.delete("key:0");
    await until("key:0 to leave the other memory", () => two.get("key:0") === null);
    await one.invalidateByTag("t");
    await until("the others to leave it", () => keys.every((key) => two.get(key) === null));
    expect((await one.getCacheStats()).redis.keyCount).toBe(0);
  });

  test("an invalidation that reaches a node late is sent to all again", async () => {
    const servers = new Servers(await client());
    await Promise.all(nodes.map((node) => node.config("RESETSTAT")));
    await nodes[2]?.call("CLIENT", "PAUSE", "700", "WRITE");
    expect(await servers.all("CACHE.INVALIDATE", "t")).toEqual([0, 0, 0]);
    for (const node of nodes) expect(await node.info("commandstats")).toContain("cmdstat_cache.invalidate:calls=2,");
  });

  test("an invalidation that one node refuses rejects, others apply it", async () => {
    const { keyv, store } = createKeyv<string>(await client(), { tags: () => ["kind"] });
    await keyv.setMany(keys.map((key) => ({ key, value: key })));
    const refusing = nodes[1] as Redis;
    const held = await refusing.dbsize();
    await refusing.call("ACL", "SETUSER", "default", "-cache.invalidate");
    try {
      await expect(store.invalidateTags(["kind"])).rejects.toThrow(/NOPERM|permission/);
    } finally {
      await refusing.call("ACL", "SETUSER", "default", "+cache.invalidate");
    }
    expect((await keyv.get(keys)).filter((value) => value !== undefined)).toHaveLength(held);
  });
});

test("an unconnected cluster client is an error", async () => {
  const servers = new Servers(createCluster({ rootNodes: [] }) as never);
  await expect(servers.all("CACHE.CLOCK")).rejects.toThrow();
});
