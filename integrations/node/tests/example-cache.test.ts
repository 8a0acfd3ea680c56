/** The helper in examples/node. */
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { Cache, type Client } from "../../../examples/node/cache.js";
import { type Server, startServer, until } from "./server.js";

const USER = { ttlMs: 60_000, tags: ["tenant:7"], graceMs: 60_000 };
const never = () => {
  throw new Error("it is not to be loaded");
};

let server: Server;
let redis: Redis;
const clients: Redis[] = [];

/** A cache as in a process of its own. */
function open(prefix = "shop:"): Cache {
  const client = new Redis(server.port, "127.0.0.1");
  clients.push(client);
  return new Cache(client as Client, { prefix });
}

async function waiters(): Promise<number> {
  const stats = (await redis.call("CACHE.STATS")) as (string | number)[];
  return Number(stats[stats.indexOf("lease_waiters") + 1]);
}

beforeAll(async () => {
  server = await startServer();
  redis = new Redis(server.port, "127.0.0.1");
});
afterAll(async () => {
  redis?.disconnect();
  await server?.stop();
});
beforeEach(() => redis.flushall());
afterEach(() => {
  for (const client of clients.splice(0)) client.disconnect();
});

test("one caller of all processes loads, the others wait", async () => {
  let loads = 0;
  const load = async () => {
    loads++;
    await until("two processes wait", async () => (await waiters()) === 2);
    return { name: "Ada" };
  };
  const caches = [open(), open(), open()];
  const values = await Promise.all([...caches, ...caches].map((cache) => cache.getOrLoad("user:7", load, USER)));
  expect(values).toEqual(Array(6).fill({ name: "Ada" }));
  expect(loads).toBe(1);
});

test("a value loaded before an invalidation is not cached", async () => {
  const cache = open();
  const load = async () => {
    await cache.invalidate(["tenant:7"]);
    return "old";
  };
  expect(await cache.getOrLoad("user:7", load, USER)).toBe("old");
  expect(await cache.get("user:7")).toBeUndefined();
});

test("a stale value is served during a load and if the load fails", async () => {
  const [one, other] = [open(), open()];
  await one.set("user:7", "old", USER);
  expect(await one.invalidate(["tenant:7"], { soft: true })).toBe(1);
  const load = async () => {
    expect(await other.getOrLoad("user:7", never, USER)).toBe("old");
    throw new Error("the database is away");
  };
  expect(await one.getOrLoad("user:7", load, USER)).toBe("old");
  expect(await other.getOrLoad("user:7", () => "new", USER)).toBe("new");
  expect(await one.getOrLoad("user:7", never, USER)).toBe("new");
});

test("a failed load rejects and releases the lease", async () => {
  const cache = open();
  await expect(cache.getOrLoad("user:7", never, USER)).rejects.toThrow("not to be loaded");
  expect(await cache.getOrLoad("user:7", () => 2, USER)).toBe(2);
  expect(await open().get("user:7")).toBe(2);
});

test("the prefix is added to keys and tags", async () => {
  await open().set("user:7", 1, USER);
  expect(await open("blog:").invalidate(["tenant:7"])).toBe(0);
  expect(await redis.call("CACHE.GET", "shop:user:7")).toBe("1");
  expect(await redis.call("CACHE.INVALIDATE", "shop:tenant:7")).toBe(1);
});
