/** Receives changes by other processes: the module's messages about tags, and a service's own about single keys. */
import { randomUUID } from "node:crypto";
import type { Connection } from "./connection.js";
import type { Store } from "./store.js";

const RETRY_MS = 1_000;

/** Called with the changes, for which values in memory must be removed. */
export interface Listener {
  everything(): void;
  key(key: string): void;
  tags(tags: string[]): void;
}

export class Invalidations {
  readonly #store: Store;
  readonly #channels: { tags: string; keys: string };
  readonly #listener: Listener;
  readonly #onError: (error: unknown) => void;
  /** Identifies this process in messages about keys. */
  readonly #sender = randomUUID();
  #connection: Connection | undefined;
  #isClosed = false;

  constructor(store: Store, database: number, listener: Listener, onError: (error: unknown) => void) {
    this.#store = store;
    this.#channels = { tags: `__cache@${database}__:invalidate`, keys: store.key("keys") };
    this.#listener = listener;
    this.#onError = onError;
  }

  /** False while messages do not arrive: then no value may be kept in memory. */
  get isListening(): boolean {
    return this.#connection !== undefined;
  }

  /**
   * Listens on a connection of its own. When it is lost, everything counts as changed until there is a new connection.
   */
  async listen(): Promise<void> {
    const connection = await this.#store.servers.duplicate(this.#channels.keys, this.#onError);
    const lost = () => {
      if (this.#connection !== connection) return;
      this.#connection = undefined;
      this.#listener.everything();
      connection.close();
      this.#retry();
    };
    const onMessage = (channel: string, message: Buffer) =>
      channel === this.#channels.keys ? this.#onKey(message) : this.#onInvalidation(message);
    try {
      await connection.subscribe(Object.values(this.#channels), onMessage, lost);
    } catch (error) {
      connection.close();
      throw error;
    }
    this.#listener.everything();
    if (this.#isClosed) connection.close();
    else this.#connection = connection;
  }

  /** Makes the other processes remove a key. */
  async announce(key: string): Promise<void> {
    const { keys } = this.#channels;
    await this.#store.servers.send(keys, "PUBLISH", keys, JSON.stringify([this.#sender, key]));
  }

  close(): void {
    this.#isClosed = true;
    this.#connection?.close();
    this.#connection = undefined;
  }

  #retry(): void {
    setTimeout(() => {
      if (this.#isClosed) return;
      this.listen().catch((error) => {
        this.#onError(error);
        this.#retry();
      });
    }, RETRY_MS).unref();
  }

  #onKey(message: Buffer): void {
    const [sender, key] = JSON.parse(String(message)) as [string, string];
    if (sender !== this.#sender) this.#listener.key(key);
  }

  /** The module's message: version, kind, lineage, clock; for the kinds I and R each tag after its length. */
  #onInvalidation(message: Buffer): void {
    const kind = String.fromCharCode(message[1] ?? 0);
    if (message[0] !== 2 || (kind !== "I" && kind !== "R")) return this.#listener.everything();
    const names: string[] = [];
    for (let at = 18; at < message.length; ) {
      const end = at + 4 + message.readUInt32BE(at);
      names.push(message.toString("utf8", at + 4, end));
      at = end;
    }
    const prefix = this.#store.key("");
    const tags = names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
    if (tags.length > 0) this.#listener.tags(tags);
  }
}
