import { cacheLife, cacheTag } from "next/cache";
import { render } from "../../../source.js";

async function data(id) {
  "use cache";
  cacheLife({ stale: 30, revalidate: 900, expire: 3600 });
  cacheTag(`data:${id}`, "data");
  return render(`data-${id}`);
}

export async function GET(_request, { params }) {
  return new Response(await data((await params).id));
}
