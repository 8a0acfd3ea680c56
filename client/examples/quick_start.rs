//! The two-tier cache in one page. Run it against a server with the module:
//!
//! ```text
//! make run ARGS='--port 6379'
//! cargo run -p tagcache --example quick_start -- redis://127.0.0.1:6379
//! ```
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tagcache::{Cache, Entry, Error};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    tenant: u32,
}

/// Stands for a slow database.
async fn load_user(id: u32) -> Result<User, std::io::Error> {
    println!("  (asking the database for user {id})");
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(User {
        name: format!("user {id}"),
        tenant: 7,
    })
}

async fn user(cache: &Cache, id: u32) -> Result<User, Error> {
    let entry = Entry::ttl(Duration::from_secs(60))
        .grace(Duration::from_secs(30))
        .tags(["users", "tenant:7"]);
    cache
        .get_or_load(&format!("user:{id}"), entry, move || load_user(id))
        .await
}

pub(crate) async fn tour(url: &str) -> Result<(), Error> {
    let cache = Cache::builder(url).namespace("quick-start").build().await?;
    // Not needed: without a server the cache would load and return values all the same.
    cache.ready(Duration::from_secs(5)).await?;

    println!("The first call loads, the others do not, in whatever process:");
    for _ in 0..3 {
        println!("{:?}", user(&cache, 1).await?);
    }

    println!("Everything of tenant 7 changes:");
    let dropped = cache.invalidate_tags(["tenant:7"]).await?;
    println!("{dropped} dropped");
    println!("{:?}", user(&cache, 1).await?);

    println!("It may be stale for a moment while one process loads it anew:");
    cache.revalidate_tags(["users"]).await?;
    println!("{:?}", user(&cache, 1).await?);

    // Single values, without a loader.
    let minute = Entry::ttl(Duration::from_secs(60));
    cache.set("greeting", &"hello".to_owned(), minute).await?;
    println!("{:?}", cache.get::<String>("greeting").await?);
    println!("{} dropped at the end", cache.clear().await?);

    let stats = cache.stats();
    println!(
        "{} loads, {} hits here, {} on the server",
        stats.loads, stats.local.hits, stats.server_hits
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1);
    tour(url.as_deref().unwrap_or("redis://127.0.0.1:6379")).await
}
