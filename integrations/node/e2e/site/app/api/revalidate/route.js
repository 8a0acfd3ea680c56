import { revalidatePath, revalidateTag } from "next/cache";

/** POST {tag} or {path}, with {profile} for a soft one. */
export async function POST(request) {
  const { tag, path, profile } = await request.json();
  if (tag) revalidateTag(tag, profile ?? { expire: 0 });
  if (path) revalidatePath(path);
  return new Response("done");
}
