/**
 * A Keyv store on tagcache. Keyv's values carry tags here, and `clear()` is one command for any number of keys.
 *
 * ```ts
 * import Redis from "ioredis";
 * import { createKeyv } from "@tagcache/node/keyv";
 *
 * const { keyv, store } = createKeyv(new Redis(), { namespace: "shop", tags: (key) => [`kind:${key.split(":")[0]}`] });
 * await keyv.set("user:1", { name: "Ada" }, 60_000);
 * await store.invalidateTags(["kind:user"]);
 * ```
 */
import { Keyv, type KeyvOptions } from "keyv";
import type { AnyClient } from "./cluster.js";
import { logError } from "./errors.js";
import { KeyvTagcache, type KeyvTagcacheOptions } from "./keyv-store.js";

export { KeyvTagcache, type KeyvTagcacheOptions } from "./keyv-store.js";

/**
 * A Keyv on a store of its own, set up so that no error looks like a miss: errors of the server reject, and a value
 * that cannot be deserialized is a miss that is reported to `onError`. A Keyv that is built without this function
 * treats both as Keyv does by default.
 */
export function createKeyv<Value = unknown>(
  client: AnyClient,
  options: KeyvTagcacheOptions & Omit<KeyvOptions, "store"> = {},
): { keyv: Keyv<Value>; store: KeyvTagcache } {
  const { tags: _tags, onError = logError, ...rest } = options;
  const store = new KeyvTagcache(client, options);
  const keyv = new Keyv<Value>({ throwOnErrors: true, ...rest, store });
  const deserialize = keyv.deserialize;
  if (deserialize) {
    keyv.deserialize = async <T>(raw: string) => {
      try {
        const data = await deserialize<T>(raw);
        if (typeof data === "object" && data !== null) return data;
        throw new TypeError("Keyv did not write it");
      } catch (error) {
        onError(new Error(`a value does not decode: ${error}`, { cause: error }));
        return undefined;
      }
    };
  }
  // Keyv's own iterator ends at a value that does not decode, and cuts the namespace off at its first colon.
  keyv.iterator = async function* () {
    const prefix = keyv.useKeyPrefix && keyv.namespace ? `${keyv.namespace}:` : "";
    for await (const [key, raw] of store.iterator<string>(keyv.namespace)) {
      const data = await keyv.deserializeData(raw);
      const isOver = typeof data?.expires === "number" && data.expires < Date.now();
      if (data && !isOver) yield [key.slice(prefix.length), data.value];
    }
  };
  return { keyv, store };
}
