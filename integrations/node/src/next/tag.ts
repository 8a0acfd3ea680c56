import { createHash } from "node:crypto";

/** The server stores tags of up to 512 bytes, the prefix included. */
const LONGEST = 400;

/** Next.js has longer tags for long paths, and for names that it escapes: the hash stands for such a tag. */
export function short(tags: string[]): string[] {
  return tags.map((tag) =>
    Buffer.byteLength(tag) <= LONGEST ? tag : createHash("sha256").update(tag).digest("hex"),
  );
}
