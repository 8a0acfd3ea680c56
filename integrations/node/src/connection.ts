/**
 * One connection to a server with the module, over ioredis or node-redis.
 *
 * Commands use the clients' generic calls, so neither client has to know them. Values are bytes: replies contain
 * Buffers where the client's own calls would return strings.
 */

export type Argument = string | Buffer | number;
export type Reply = Buffer | string | number | null | Reply[];

/** The part of an ioredis client that is used here. */
export interface IoRedis {
  callBuffer(command: string, ...args: Argument[]): Promise<unknown>;
  duplicate(): IoRedis;
  disconnect(): void;
  subscribe(...channels: string[]): Promise<unknown>;
  on(event: string, listener: (...args: any[]) => void): unknown;
}

/** The part of a node-redis client that is used here. */
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

/** Makes node-redis return bulk strings, which it names by RESP's type byte, as Buffers. */
export const BYTES = { typeMapping: { ["$".charCodeAt(0)]: Buffer } };

/** Arguments in the form that node-redis takes. */
export function texts(args: Argument[]): (string | Buffer)[] {
  return args.map((argument) => (typeof argument === "number" ? String(argument) : argument));
}

/** The reply; if the server does not know the command, an error that names the fix. */
export async function explained(command: string, reply: Promise<unknown>): Promise<Reply> {
  try {
    return (await reply) as Reply;
  } catch (error) {
    if (!(error instanceof Error && /unknown command/i.test(error.message))) throw error;
    throw new Error(
      `The server has no ${command}: load tagcache.so, or a newer one ` +
        "(`loadmodule /path/to/tagcache.so` in redis.conf, or `redis-server --loadmodule /path/to/tagcache.so`)",
      { cause: error },
    );
  }
}

function isIoRedis(client: Client): client is IoRedis {
  return "callBuffer" in client;
}

export class Connection {
  readonly client: Client;

  /**
   * Takes a client that the caller configured and connected, and that the caller closes. Throws a TypeError for other
   * objects.
   */
  constructor(client: Client) {
    this.client = client;
    if (!isIoRedis(client) && !(typeof client.sendCommand === "function" && typeof client.duplicate === "function")) {
      throw new TypeError("tagcache: the client must be one of ioredis or node-redis (createClient, createCluster)");
    }
  }

  /** Sends one command. Rejects with the server's error; without the module, with one that names the fix. */
  send(command: string, ...args: Argument[]): Promise<Reply> {
    const client = this.client;
    const sent = isIoRedis(client)
      ? client.callBuffer(command, ...args)
      : client.sendCommand(texts([command, ...args]), BYTES);
    return explained(command, sent);
  }

  /**
   * Opens another connection with the same settings, for commands that block and for subscriptions. Its owner closes
   * it; its connection errors go to `onError`.
   */
  async duplicate(onError: (error: unknown) => void): Promise<Connection> {
    const client: Client = this.client.duplicate();
    // Without a listener node-redis ends the process, and ioredis prints.
    client.on("error", onError);
    if (!isIoRedis(client)) await client.connect();
    return new Connection(client);
  }

  /** Reports the channels' messages, and each loss of the connection, after which messages may be missing. */
  async subscribe(
    channels: string[],
    onMessage: (channel: string, message: Buffer) => void,
    onLoss: () => void,
  ): Promise<void> {
    const client = this.client;
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
    if (isIoRedis(this.client)) this.client.disconnect();
    else if (this.client.isOpen) this.client.destroy();
  }
}
