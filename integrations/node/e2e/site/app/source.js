/** Requests a number from the test's own server, which counts the requests: the number of renders. */
export async function render(name) {
  const response = await fetch(`${process.env.TAGCACHE_E2E_SOURCE}/${name}`, { cache: "no-store" });
  return response.text();
}
