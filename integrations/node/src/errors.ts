/** Errors without a caller to report to, and time limits for calls. */

let quietUntil = 0;
let unsaid = 0;

/**
 * Prints an error's message on standard error, at most one per second: without the error's command, which contains the
 * value. The next line contains the number of messages that were not printed.
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

/** Rejects when the promise is not settled within `ms`; the command may still take effect on the server. */
export async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_resolve, reject) => {
    const expire = () => reject(new Error(`${what}: no reply within ${ms} ms`));
    // In a busy process timers run before sockets are read: a reply that has already arrived must count.
    timer = setTimeout(() => setImmediate(expire), ms);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
