import { useCacheHandler } from "../../dist/next/index.js";
import { client } from "./client.mjs";

export default useCacheHandler({ client, waitMs: 20_000 });
