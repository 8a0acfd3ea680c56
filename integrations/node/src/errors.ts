/** Errors that reach no caller, and calls that take too long. */

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
