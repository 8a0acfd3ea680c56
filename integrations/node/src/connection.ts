/**
 * One connection to a server with the module, over ioredis or node-redis.
 *
 * Commands go through the clients' calls for any command, so neither client has to know them. Values are bytes:
 * replies hold Buffers where the client's own calls would hold strings.
 */

export type Argument = string | Buffer | number;
export type Reply = Buffer | string | number | null | Reply[];

/** What is used of an ioredis client. */
export interface IoRedis {
  callBuffer(command: string, ...args: Argument[]): Promise<unknown>;
  duplicate(): IoRedis;
  disconnect(): void;
  subscribe(...channels: string[]): Promise<unknown>;
  on(event: string, listener: (...args: any[]) => void): unknown;
}

/** What is used of a node-redis client. */
export interface NodeRedis {
  sendCommand(args: (string | Buffer)[], options?: { typeMapping?: any }): Promise<unknown>;
  duplicate(): any;
  connect(): Promise<unknown>;
  destroy(): void;
  subscribe(channels: string[], listener: (message: any, channel: any) => void, bufferMode?: any): Promise<unknown>;
  readonly isOpen: boolean;
  on(event: string, listener: (...args: any[]) => void): unknown;
}

export type Client = IoRedis | NodeRedis;

/** RESP's type byte of bulk strings, as node-redis names reply types. */
const BULK_STRING = "$".charCodeAt(0);

function isIoRedis(client: Client): client is IoRedis {
  return "callBuffer" in client;
}

export class Connection {
  readonly #client: Client;
  readonly #send: (args: Argument[]) => Promise<unknown>;

  /**
   * Takes a client that the caller configured, connected and will close.
   *
   * Throws a TypeError for other objects, and for cluster clients: an invalidation has to reach every primary there,
   * which these adapters do not do.
   */
  constructor(client: Client) {
    if (("isCluster" in client && client.isCluster === true) || "nodeClient" in client) {
      throw new TypeError("tagcache: cluster clients are not supported");
    }
    this.#client = client;
    if (isIoRedis(client)) {
      this.#send = ([command, ...args]) => client.callBuffer(String(command), ...args);
    } else if (typeof client.sendCommand === "function" && typeof client.duplicate === "function") {
      const options = { typeMapping: { [BULK_STRING]: Buffer } };
      this.#send = (args) => client.sendCommand(args.map((a) => (typeof a === "number" ? String(a) : a)), options);
    } else {
      throw new TypeError("tagcache: the client must be one of ioredis or node-redis (createClient)");
    }
  }

  /** Sends one command. Rejects with the server's error; without the module, with one that names the fix. */
  async send(...args: Argument[]): Promise<Reply> {
    try {
      return (await this.#send(args)) as Reply;
    } catch (error) {
      if (error instanceof Error && /unknown command/i.test(error.message)) {
        throw new Error(
          `The server has no ${args[0]}: load tagcache.so, or a newer one ` +
            "(`loadmodule /path/to/tagcache.so` in redis.conf, or `redis-server --loadmodule /path/to/tagcache.so`)",
          { cause: error },
        );
      }
      throw error;
    }
  }

  /**
   * Opens another connection with the same settings, for commands that block and for subscriptions. Its owner closes
   * it; its connection errors go to `onError`.
   */
  async duplicate(onError: (error: Error) => void): Promise<Connection> {
    const client: Client = this.#client.duplicate();
    // Without a listener node-redis ends the process, and ioredis prints.
    client.on("error", onError);
    if (!isIoRedis(client)) await client.connect();
    return new Connection(client);
  }

  /** Passes on the channels' messages, and each loss of the connection, after which messages may be missing. */
  async subscribe(
    channels: string[],
    onMessage: (channel: string, message: Buffer) => void,
    onLoss: () => void,
  ): Promise<void> {
    const client = this.#client;
    if (isIoRedis(client)) {
      client.on("close", onLoss);
      client.on("messageBuffer", (channel: Buffer, message: Buffer) => onMessage(String(channel), message));
      await client.subscribe(...channels);
    } else {
      client.on("reconnecting", onLoss);
      client.on("end", onLoss);
      await client.subscribe(channels, (message, channel) => onMessage(String(channel), message), true);
    }
  }

  close(): void {
    if (isIoRedis(this.#client)) this.#client.disconnect();
    else if (this.#client.isOpen) this.#client.destroy();
  }
}

let quietUntil = 0;
let unsaid = 0;

/**
 * Prints an error's message on standard error, one a second at most: without its command, which holds the value.
 * How many went unprinted is printed with the next one.
 */
export function logError(error: unknown): void {
  const now = Date.now();
  if (now < quietUntil) {
    unsaid++;
    return;
  }
  const more = unsaid > 0 ? ` (and ${unsaid} more errors since the last line)` : "";
  console.error(`tagcache: ${error instanceof Error ? error.message : String(error)}${more}`);
  quietUntil = now + 1_000;
  unsaid = 0;
}

/** Rejects when the promise is not settled within `ms`; what the server does meanwhile is not undone. */
export async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_resolve, reject) => {
    const expire = () => reject(new Error(`${what}: no reply within ${ms} ms`));
    // After a busy stretch timers run before sockets are read: a reply that is there already counts.
    timer = setTimeout(() => setImmediate(expire), ms);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
