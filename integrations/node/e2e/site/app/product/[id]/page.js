import { cacheLife, cacheTag } from "next/cache";
import { render } from "../../source.js";

async function Product({ id }) {
  "use cache";
  cacheLife({ stale: 30, revalidate: 900, expire: 3600 });
  cacheTag(`product:${id}`);
  return <p>{`render ${await render(`product-${id}`)}.`}</p>;
}

export function generateStaticParams() {
  return [{ id: "built" }];
}

export default async function Page({ params }) {
  return <Product id={(await params).id} />;
}
