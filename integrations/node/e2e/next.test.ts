/** A real Next.js build, two server processes, one with ioredis and one with node-redis, and one cache. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync } from "node:fs";
import { createServer, type Server as HttpServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";
import { freePort, type Server, startServer, until } from "../tests/server.js";

const site = fileURLToPath(new URL("./site", import.meta.url));
const dist = `.next/${process.pid}`;
const next = fileURLToPath(new URL("./node_modules/next/dist/bin/next", import.meta.url));

/** The source of the application's values: counts the requests for each. It is slow, so that renders overlap. */
const asked = new Map<string, number>();
let source: HttpServer;
let server: Server;
let redis: Redis;
const apps: { url: string; child: ChildProcess; output: string[] }[] = [];

beforeAll(async () => {
  source = createServer((request, response) => {
    const name = String(request.url).slice(1);
    asked.set(name, (asked.get(name) ?? 0) + 1);
    setTimeout(() => response.end(String(asked.get(name))), 300);
  });
  source.listen(0, "127.0.0.1");
  await once(source, "listening");
  server = await startServer();
  redis = new Redis(server.port, "127.0.0.1");
  const build = run("ioredis", "build");
  const [status] = await once(build.child, "exit");
  if (status !== 0) throw new Error(`next build failed:\n${build.output.join("")}`);
  for (const client of ["ioredis", "node-redis"]) {
    const port = await freePort();
    const app = run(client, "start", "-p", `${port}`, "-H", "127.0.0.1");
    apps.push({ ...app, url: `http://127.0.0.1:${port}` });
  }
  for (const { url } of apps) await until(`${url} answers`, () => fetch(url).then((r) => r.ok, () => false));
}, 900_000);

afterAll(async () => {
  for (const { child } of apps) {
    child.kill();
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  }
  redis?.disconnect();
  await server?.stop();
  source?.close();
  rmSync(join(site, dist), { recursive: true, force: true });
});

function run(client: string, ...args: string[]): { child: ChildProcess; output: string[] } {
  const { port } = source.address() as AddressInfo;
  const env = {
    ...process.env,
    NODE_ENV: "production" as const,
    NEXT_TELEMETRY_DISABLED: "1",
    TAGCACHE_E2E_CLIENT: client,
    TAGCACHE_E2E_DIST: dist,
    TAGCACHE_E2E_PORT: String(server.port),
    TAGCACHE_E2E_SOURCE: `http://127.0.0.1:${port}`,
  };
  const child = spawn(process.execPath, [next, ...args], { cwd: site, env });
  const output: string[] = [];
  child.stdout.on("data", (text) => output.push(String(text)));
  child.stderr.on("data", (text) => output.push(String(text)));
  return { child, output };
}

/** The number in the response of process `app`. */
async function get(app: number, path: string): Promise<number> {
  const response = await fetch(apps[app]?.url + path, { signal: AbortSignal.timeout(30_000) });
  const body = await response.text();
  const found = /render (\d+)\./.exec(body)?.[1] ?? body;
  if (!response.ok || Number.isNaN(Number(found))) throw new Error(`${path}: ${response.status} ${body}`);
  return Number(found);
}

/** Several requests to both processes at once. */
async function all(path: string): Promise<Set<number>> {
  return new Set(await Promise.all([0, 1, 0, 1, 0, 1].map((app) => get(app, path))));
}

/** Next.js responds before it invalidates, which both handlers then do with one command each. */
async function revalidate(app: number, what: { tag?: string; path?: string; profile?: unknown }): Promise<void> {
  const invalidations = async () => (await calls("cache.invalidate")) + (await calls("cache.invalidatewhere"));
  const before = await invalidations();
  const url = `${apps[app]?.url}/api/revalidate`;
  const response = await fetch(url, { method: "POST", body: JSON.stringify(what), signal: AbortSignal.timeout(30_000) });
  expect(response.status).toBe(200);
  await until("both handlers have invalidated", async () => (await invalidations()) === before + 2);
}

/** How often the server ran the command. */
async function calls(command: string): Promise<number> {
  const stats = await redis.info("commandstats");
  return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`, "i").exec(stats)?.[1] ?? 0);
}

const TAGGED = [
  { kind: "use cache in a route handler", path: "/api/data/1", name: "data-1", tag: "data:1" },
  { kind: "use cache in a page", path: "/product/1", name: "product-1", tag: "product:1" },
  { kind: "fetch", path: "/api/feed/1", name: "feed-1", tag: "feed:1" },
];
/** Pages of the pages router have no tags: res.revalidate renews them. */
const PATHS = [...TAGGED, { kind: "a page of the pages router", path: "/old/1", name: "old-1" }];

test.each(PATHS)("$kind: two processes render once", async ({ path, name }) => {
  expect(await all(path)).toEqual(new Set([1]));
  expect(asked.get(name)).toBe(1);
});

test("a hit takes one command", async () => {
  await get(0, "/api/data/1");
  const before = await calls("cache.fetch");
  await get(0, "/api/data/1");
  await get(1, "/api/data/1");
  expect(await calls("cache.fetch")).toBe(before + 2);
});

test.each(TAGGED)("$kind: revalidatePath reaches the other process", async ({ path, name }) => {
  await revalidate(0, { path });
  expect(await get(1, path)).toBe(2);
  expect(await all(path)).toEqual(new Set([2]));
  expect(asked.get(name)).toBe(2);
});

test("res.revalidate reaches the other process", async () => {
  const response = await fetch(`${apps[0]?.url}/api/render?path=/old/1`, { signal: AbortSignal.timeout(30_000) });
  expect(response.status).toBe(200);
  expect(await all("/old/1")).toEqual(new Set([2]));
  expect(asked.get("old-1")).toBe(2);
});

test("a page belongs to its build", async () => {
  const build = readFileSync(join(site, dist, "BUILD_ID"), "utf8");
  expect(await redis.keys(`next:isr:${build}:*/old/1`)).toHaveLength(1);
});

test.each(TAGGED)("$kind: revalidateTag reaches the other process", async ({ tag, path, name }) => {
  await revalidate(1, { tag });
  expect(await get(0, path)).toBe(3);
  expect(await all(path)).toEqual(new Set([3]));
  expect(asked.get(name)).toBe(3);
});

test.each(TAGGED)("$kind: with a profile, stale is served while one process renders", async ({ tag, path, name }) => {
  await revalidate(0, { tag, profile: "max" });
  expect(await all(path)).toEqual(new Set([3]));
  await until("the new render is served", async () => (await get(1, path)) === 4);
  expect(await all(path)).toEqual(new Set([4]));
  expect(asked.get(name)).toBe(4);
});

test("another tag drops nothing", async () => {
  await revalidate(0, { tag: "data:2" });
  expect(await all("/api/data/1")).toEqual(new Set([4]));
});

test("nothing was logged as an error", () => {
  for (const { output } of apps) expect(output.join("")).not.toMatch(/tagcache:|error/i);
});
