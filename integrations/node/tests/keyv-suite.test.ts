/** Keyv's own suite, as it is in the package @keyv/test-suite. */
import keyvTestSuite, { keyvIteratorTests } from "@keyv/test-suite";
import Keyv from "keyv";
import * as vitest from "vitest";
import { KeyvTagcache } from "../src/keyv.js";
import { KINDS, type Server, startServer } from "./server.js";

vitest.describe.each(KINDS)("keyv's suite on $name", ({ connect }) => {
  let server: Server;
  let client: Awaited<ReturnType<typeof connect>>;
  vitest.beforeAll(async () => {
    server = await startServer();
    client = await connect(server.port);
  });
  vitest.afterAll(async () => {
    client.close();
    await server.stop();
  });

  const store = () => new KeyvTagcache(client);
  keyvTestSuite(vitest, Keyv, store);
  keyvIteratorTests(vitest, Keyv, store);
});
