/** The client and the server's port that the test names. */
const port = Number(process.env.TAGCACHE_E2E_PORT);

async function connect() {
  if (process.env.TAGCACHE_E2E_CLIENT === "node-redis") {
    const { createClient } = await import("redis");
    const client = createClient({ url: `redis://127.0.0.1:${port}` });
    client.on("error", (error) => console.error("redis:", error.message));
    return client.connect();
  }
  const { Redis } = await import("ioredis");
  return new Redis(port, "127.0.0.1");
}

export const client = await connect();
