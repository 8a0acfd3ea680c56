//! usage: `tagcache-opentelemetry [redis://HOST:PORT/] [http://COLLECTOR:4318]`
//!
//! Reads a user through the cache, twice, in a span of the application. The collector receives one trace, with the load
//! and the commands to the server below the application's span, and histograms of the times of both.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use tagcache::{Cache, Entry};
use tagcache_opentelemetry::Telemetry;
use tracing::Instrument as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let server = args.next().unwrap_or("redis://127.0.0.1:6379/".into());
    let collector = args.next().unwrap_or("http://127.0.0.1:4318".into());
    // A span's target is the crate that creates it; this crate's spans are exported too.
    let telemetry = Telemetry::start(env!("CARGO_CRATE_NAME"), &collector)?;

    let cache = Cache::builder(server.as_str())
        .namespace("otel")
        .build()
        .await?;
    for _ in 0..2 {
        let user = page(&cache).instrument(tracing::info_span!("page")).await?;
        println!("{user}");
    }
    // Ends the tasks that still hold spans: a span that is open is not exported.
    cache.close(Duration::from_secs(5)).await;
    // The exporter's error names neither the collector nor the cause.
    telemetry
        .stop()
        .map_err(|error| format!("is there a collector at {collector}? {error}").into())
}

async fn page(cache: &Cache) -> Result<String, tagcache::Error> {
    let entry = Entry::ttl(Duration::from_secs(60)).tags(["tenant:7"]);
    let load = async || Ok::<_, std::io::Error>("Ada".to_owned());
    cache.get_or_load("user:7", entry, load).await
}
