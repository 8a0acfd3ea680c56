/** Starts servers with the module for the tests, and clients of both kinds for them. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { createClient } from "redis";
import type { Client } from "../src/connection.js";

export interface Server {
  port: number;
  stop(): Promise<void>;
}

/** A server on a free port with a directory of its own. */
export async function startServer(withModule = true): Promise<Server> {
  const dir = mkdtempSync(join(tmpdir(), "tagcache-node-"));
  const log = join(dir, "server.log");
  const module = process.env.TAGCACHE_MODULE;
  if (withModule && !module) throw new Error("TAGCACHE_MODULE must name tagcache.so; scripts/test-integrations sets it");
  const [command = "", ...before] = (process.env.TAGCACHE_SERVER ?? "redis-server").split(" ");
  // Another process may take the port before the server starts.
  for (let attempt = 0; attempt < 3; attempt++) {
    const port = await freePort();
    const args = [...before, "--port", `${port}`, "--bind", "127.0.0.1", "--dir", dir, "--logfile", log, "--save", ""];
    if (withModule) args.push("--loadmodule", `${module}`);
    const child = spawn(command, args, { stdio: "ignore" });
    if (await ready(child, port)) {
      const stop = async () => {
        const exited = once(child, "exit");
        child.kill();
        await exited;
        rmSync(dir, { recursive: true });
      };
      return { port, stop };
    }
  }
  throw new Error(`the server did not start:\n${readFileSync(log, "utf8")}`);
}

export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, "close");
  return port;
}

/** Whether the child replies on its port; false when it ended. */
async function ready(child: ChildProcess, port: number): Promise<boolean> {
  const client = new Redis({ port, lazyConnect: true, retryStrategy: () => 50, maxRetriesPerRequest: null });
  client.on("error", () => {});
  try {
    const answer = client.info("server").then((info) => info.includes(`process_id:${child.pid}`));
    return await Promise.race([answer, once(child, "exit").then(() => false)]);
  } finally {
    client.disconnect();
  }
}

export interface Kind {
  name: string;
  connect(port: number): Promise<Client & { close(): void }>;
}

/** The two clients that the adapters work with. */
export const KINDS: Kind[] = [
  {
    name: "ioredis",
    connect: async (port) => {
      const client = new Redis(port, "127.0.0.1");
      client.on("error", () => {});
      return Object.assign(client, { close: () => client.disconnect() }) as never;
    },
  },
  {
    name: "node-redis",
    connect: async (port) => {
      const client = createClient({ url: `redis://127.0.0.1:${port}` });
      client.on("error", () => {});
      await client.connect();
      return Object.assign(client, { close: () => client.destroy() }) as never;
    },
  },
];

/** Waits until the condition holds, for 60 s at most: the limit is for tests that hang, not for slow ones. */
export async function until(what: string, condition: () => unknown): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited 60 s for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
