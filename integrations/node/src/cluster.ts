/**
 * The servers behind a client: one, or a cluster's primaries. A command of one key goes to the node of the key,
 * an invalidation to every primary, since each has entries with the tag.
 */
import {
  type Argument,
  BYTES,
  type Client,
  Connection,
  explained,
  type IoRedis,
  type NodeRedis,
  type Reply,
  texts,
} from "./connection.js";

/** If all primaries reply within this time, the command counts as simultaneous: half of the module's limit. */
const AT_ONCE_MS = 500;

/** The part of ioredis's Cluster that is used here. */
export interface IoRedisCluster {
  readonly isCluster: true;
  /** The addresses of each slot's nodes, the primary first. */
  readonly slots: string[][];
  nodes(role: "master"): (IoRedis & { readonly options: { host?: string; port?: number } })[];
  callBuffer(command: string, ...args: Argument[]): Promise<unknown>;
}

/** The part of node-redis's createCluster that is used here. */
export interface NodeRedisCluster {
  readonly masters: any[];
  readonly slots: { master: any }[];
  nodeClient(node: any): NodeRedis | Promise<NodeRedis>;
  sendCommand(key: string, isReadonly: boolean, args: (string | Buffer)[], options?: any): Promise<unknown>;
}

/** A call's arguments are put on the engine's stack, which holds about ten times this many. */
const MOST_KEYS = 10_000;

export type AnyClient = Client | IoRedisCluster | NodeRedisCluster;

export class Servers {
  readonly #client: AnyClient;

  /**
   * Takes a client that the caller configured and connected, and that the caller closes. Throws a TypeError for other
   * objects.
   */
  constructor(client: AnyClient) {
    this.#client = client;
    if (!isIoRedisCluster(client) && !isNodeRedisCluster(client)) this.#client = new Connection(client).client;
  }

  get isCluster(): boolean {
    return isIoRedisCluster(this.#client) || isNodeRedisCluster(this.#client);
  }

  /** Sends a command to the node of the key. */
  async send(key: string, command: string, ...args: Argument[]): Promise<Reply> {
    const client = this.#client;
    if (isNodeRedisCluster(client)) {
      return explained(command, client.sendCommand(key, false, texts([command, ...args]), BYTES));
    }
    if (!isIoRedisCluster(client)) return new Connection(client).send(command, ...args);
    // ioredis finds the keys only of commands that it knows. Otherwise it asks any node and follows the redirection.
    const owner = ioRedisOwner(client, key);
    try {
      if (owner) return await new Connection(owner).send(command, ...args);
    } catch (error) {
      if (!(error instanceof Error && /^(MOVED|ASK|Connection is closed)/.test(error.message))) throw error;
    }
    return explained(command, client.callBuffer(command, ...args));
  }

  /**
   * Sends a command to every primary, and once more if that took too long: slots may have moved meanwhile, with entries
   * that the last primary wrote before it got the command. Rejects if a primary does; the others have executed it.
   */
  async all(command: string, ...args: Argument[]): Promise<Reply[]> {
    const begun = performance.now();
    const replies = await this.#send(command, args);
    if (replies.length > 1 && performance.now() - begun > AT_ONCE_MS) await this.#send(command, args);
    return replies;
  }

  async #send(command: string, args: Argument[]): Promise<Reply[]> {
    const primaries = await this.primaries();
    const sent = await Promise.allSettled(primaries.map((primary) => primary.send(command, ...args)));
    return sent.map((one) => {
      if (one.status === "rejected") throw one.reason;
      return one.value;
    });
  }

  /** The primaries, each with its own connection. */
  async primaries(): Promise<Connection[]> {
    const client = this.#client;
    let nodes: Client[];
    if (isNodeRedisCluster(client)) {
      nodes = await Promise.all(client.masters.map((master) => client.nodeClient(master)));
    } else if (isIoRedisCluster(client)) {
      // The reply comes when the nodes are known.
      if (client.nodes("master").length === 0) await client.callBuffer("PING");
      nodes = client.nodes("master");
    } else {
      nodes = [client];
    }
    if (nodes.length === 0) throw new Error("tagcache: the cluster client knows no primary; is it connected?");
    return nodes.map((node) => new Connection(node));
  }

  /**
   * Groups keys for one command each: all keys, or in a cluster those of a slot, and at most as many as a call can
   * pass.
   */
  together(keys: string[]): string[][] {
    const slots = new Map<number, string[][]>();
    for (const key of keys) {
      const slot = this.isCluster ? slotOf(key) : 0;
      const groups = slots.get(slot) ?? [];
      slots.set(slot, groups);
      const last = groups.at(-1);
      if (last && last.length < MOST_KEYS) last.push(key);
      else groups.push([key]);
    }
    return [...slots.values()].flat();
  }

  /** The address of the key's node; empty if there is no cluster. */
  nodeOf(key: string): string {
    const client = this.#client;
    if (isNodeRedisCluster(client)) return client.slots[slotOf(key)]?.master?.address ?? "";
    return isIoRedisCluster(client) ? (client.slots[slotOf(key)]?.[0] ?? "") : "";
  }

  /** Another connection with the same settings, to the node of the key, for commands that block and subscriptions. */
  async duplicate(key: string, onError: (error: unknown) => void): Promise<Connection> {
    const client = this.#client;
    let node: Client | undefined;
    if (isNodeRedisCluster(client)) {
      const master = client.slots[slotOf(key)]?.master;
      node = master && (await client.nodeClient(master));
    } else {
      node = isIoRedisCluster(client) ? ioRedisOwner(client, key) : client;
    }
    return (node ? new Connection(node) : ((await this.primaries())[0] as Connection)).duplicate(onError);
  }
}

function isIoRedisCluster(client: AnyClient | Connection): client is IoRedisCluster {
  return "isCluster" in client && client.isCluster === true;
}

function isNodeRedisCluster(client: AnyClient): client is NodeRedisCluster {
  return "nodeClient" in client;
}

function ioRedisOwner(client: IoRedisCluster, key: string): IoRedis | undefined {
  const address = client.slots[slotOf(key)]?.[0];
  return client.nodes("master").find(({ options }) => `${options.host}:${options.port}` === address);
}

/** The slot of a key: CRC16 of the text between the first `{` and the next `}`, or of the whole key. */
export function slotOf(key: string): number {
  const open = key.indexOf("{");
  const close = key.indexOf("}", open + 1);
  let crc = 0;
  for (const byte of Buffer.from(open >= 0 && close > open + 1 ? key.slice(open + 1, close) : key)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000) > 0 ? (crc << 1) ^ 0x1021 : crc << 1;
    crc &= 0xffff;
  }
  return crc % 16384;
}
