/** Asks the test's own server for a number that grows with each question: how often something was rendered. */
export async function render(name) {
  const response = await fetch(`${process.env.TAGCACHE_E2E_SOURCE}/${name}`, { cache: "no-store" });
  return response.text();
}
