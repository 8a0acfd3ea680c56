//! Helpers of several suites.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tagcache::{Cache, CacheBuilder, Codec, Entry, Json};
use tagcache_tests::{DEADLINE, RawClient, Reply, Server};

/// Long enough that nothing expires while a test runs.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// An entry that lives long.
pub(crate) fn long() -> Entry {
    Entry::ttl(LONG)
}

/// A cache that gives up quickly, so that tests of failures need not wait.
pub(crate) fn builder(port: u16) -> CacheBuilder {
    Cache::builder(format!("redis://127.0.0.1:{port}"))
        .connect_timeout(Duration::from_secs(5))
        .probe(Duration::from_millis(100), Duration::from_secs(2))
}

/// A connected cache.
pub(crate) async fn cache_at(server: &Server) -> Cache {
    connected(builder(server.port())).await
}

pub(crate) async fn connected<C>(builder: CacheBuilder<C>) -> Cache<C> {
    let cache = builder.build().await.expect("settings that can work");
    cache.ready(DEADLINE).await.expect("a server that answers");
    cache
}

/// JSON that is decoded slowly: this much time lies between a reply and its entering the local tier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slow(pub(crate) Duration);

impl<T> Codec<T> for Slow
where
    Json: Codec<T>,
{
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Json.encode(value)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
        // Other tasks run meanwhile, including those that handle pushes.
        tokio::task::block_in_place(|| std::thread::sleep(self.0));
        Json.decode(bytes)
    }
}

/// Runs on a runtime of several threads, as applications do.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test)
}

/// Polls `cond` until it holds.
pub(crate) async fn eventually(what: &str, mut cond: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !cond().await {
        assert!(
            start.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain for: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads until the value is in the local tier; returns the value.
pub(crate) async fn warm(cache: &Cache, key: &str) -> Option<String> {
    let start = Instant::now();
    loop {
        let before = cache.stats().local.hits;
        let value: Option<String> = cache.get(key).await.expect("a server that answers");
        if value.is_none() || cache.stats().local.hits > before {
            return value;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "{key} never enters the local tier"
        );
    }
}

/// Whether a read of the key is served without a server.
pub(crate) async fn is_local(cache: &Cache, key: &str) -> bool {
    let before = cache.stats().local.hits;
    let _ = cache.get::<String>(key).await;
    cache.stats().local.hits > before
}

/// Counts calls of loaders.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Arc<AtomicU64>);

impl Calls {
    pub(crate) fn note(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The value on the server, read by another client.
pub(crate) fn on_server(client: &mut RawClient, key: &str) -> Option<String> {
    let reply = client.call(&["CACHE.GET", key]);
    match &reply {
        Reply::Null => None,
        reply => Some(reply.text()),
    }
}
