/** The connections that a process waits on: a waiting FETCH blocks its whole connection, so each has one of its own. */
import type { Servers } from "./cluster.js";
import type { Connection } from "./connection.js";

export class Waits {
  readonly #servers: Servers;
  readonly #most: number;
  readonly #onError: (error: unknown) => void;
  readonly #idle: Connection[] = [];
  #waiting = 0;

  constructor(servers: Servers, most: number, onError: (error: unknown) => void) {
    this.#servers = servers;
    this.#most = most;
    this.#onError = onError;
  }

  get isFull(): boolean {
    return this.#waiting >= this.#most;
  }

  /** Runs a wait for the key on a connection of its own. */
  async run<T>(key: string, use: (connection: Connection) => Promise<T>): Promise<T> {
    this.#waiting++;
    let own: Connection | undefined;
    try {
      own = this.#idle.pop() ?? (await this.#servers.duplicate(key, this.#onError));
      const result = await use(own);
      // Another key may belong to another node.
      if (this.#servers.isCluster) own.close();
      else this.#idle.push(own);
      return result;
    } catch (error) {
      // What it still waits for would hold up its next user.
      own?.close();
      throw error;
    } finally {
      this.#waiting--;
    }
  }

  close(): void {
    for (const own of this.#idle.splice(0)) own.close();
  }
}
