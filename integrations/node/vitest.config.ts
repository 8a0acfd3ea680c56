import { defineConfig } from "vitest/config";

// Servers start and two processes render meanwhile: the limit is for tests that hang, not for slow ones.
export default defineConfig({ test: { testTimeout: 120_000, hookTimeout: 120_000 } });
