//! A shop on axum: pages are cached, and a write drops every page that shows the written product.
//!
//! ```text
//! make run ARGS='--port 6379'
//! cargo run -p tagcache --example web -- redis://127.0.0.1:6379 127.0.0.1:8080
//! curl 127.0.0.1:8080/products/1
//! curl -X PUT 127.0.0.1:8080/products/1 -H 'content-type: application/json' \
//!      -d '{"id":1,"name":"teapot","category":"kitchen","cents":2500}'
//! curl '127.0.0.1:8080/products?category=kitchen'
//! ```
#![forbid(unsafe_code)]

mod shop;

use std::time::Duration;

use tagcache::Cache;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url = args
        .next()
        .unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());

    let cache = Cache::builder(url).namespace("shop").build().await?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, shop::app(cache.clone()))
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    // Stores values that are being loaded, retries missed invalidations and reports hits.
    if !cache.finish_pending(Duration::from_secs(5)).await {
        eprintln!("not everything was finished: {:?}", cache.stats().servers);
    }
    Ok(())
}
