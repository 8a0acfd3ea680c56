export async function getStaticProps({ params }) {
  const response = await fetch(`${process.env.TAGCACHE_E2E_SOURCE}/old-${params.id}`);
  return { props: { count: await response.text() }, revalidate: 900 };
}

export function getStaticPaths() {
  return { paths: [], fallback: "blocking" };
}

export default function Old({ count }) {
  return <p>{`render ${count}.`}</p>;
}
