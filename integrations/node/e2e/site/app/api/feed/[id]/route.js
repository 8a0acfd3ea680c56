export async function GET(_request, { params }) {
  const { id } = await params;
  const options = { cache: "force-cache", next: { tags: [`feed:${id}`], revalidate: 900 } };
  const response = await fetch(`${process.env.TAGCACHE_E2E_SOURCE}/feed-${id}`, options);
  return new Response(await response.text());
}
