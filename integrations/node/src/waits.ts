/** The connections for waits: a waiting FETCH blocks its whole connection, so each wait has one of its own. */
import type { Servers } from "./cluster.js";
import type { Connection } from "./connection.js";

const MOST_VAIN = 10_000;

export class Waits {
  readonly #servers: Servers;
  readonly #most: number;
  readonly #onError: (error: unknown) => void;
  /** Idle connections by node. They stay open, because a lease ends with the connection that it was granted on. */
  readonly #idle = new Map<string, Connection[]>();
  /** The keys for which a wait returned no value, until a value is seen. */
  readonly #vain = new Set<string>();
  #waiting = 0;

  constructor(servers: Servers, most: number, onError: (error: unknown) => void) {
    this.#servers = servers;
    this.#most = most;
    this.#onError = onError;
  }

  /**
   * False for keys that are never stored: Next.js does not report failed renders, or responses that it does not keep.
   */
  mayWait(key: string): boolean {
    return this.#waiting < this.#most && !this.#vain.has(key);
  }

  inVain(key: string): void {
    this.#vain.add(key);
    const [oldest] = this.#vain;
    if (this.#vain.size > MOST_VAIN && oldest !== undefined) this.#vain.delete(oldest);
  }

  seen(key: string): void {
    this.#vain.delete(key);
  }

  /** Runs a wait for the key on a connection of its own. */
  async run<T>(key: string, use: (connection: Connection) => Promise<T>): Promise<T> {
    this.#waiting++;
    const idle = this.#idleOn(this.#servers.nodeOf(key));
    let own: Connection | undefined;
    try {
      own = idle.pop() ?? (await this.#servers.duplicate(key, this.#onError));
      const result = await use(own);
      idle.push(own);
      return result;
    } catch (error) {
      // The wait may still run, and would block the next user of the connection.
      own?.close();
      throw error;
    } finally {
      this.#waiting--;
    }
  }

  close(): void {
    for (const idle of this.#idle.values()) for (const own of idle.splice(0)) own.close();
  }

  #idleOn(node: string): Connection[] {
    const idle = this.#idle.get(node) ?? [];
    this.#idle.set(node, idle);
    return idle;
  }
}
