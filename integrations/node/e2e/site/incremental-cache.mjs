import { incrementalCacheHandler } from "../../dist/next/index.js";
import { client } from "./client.mjs";

export default incrementalCacheHandler({ client, waitMs: 20_000 });
