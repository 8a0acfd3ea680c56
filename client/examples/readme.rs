//! The program of the README.
#![forbid(unsafe_code)]
#![allow(clippy::unused_async, reason = "a database would be awaited")]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tagcache::{Cache, Entry};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct User {
    name: String,
}

/// Your database.
async fn load_user(id: u32) -> Result<User, std::io::Error> {
    Ok(User {
        name: format!("user {id}"),
    })
}

#[tokio::main]
async fn main() -> Result<(), tagcache::Error> {
    let cache = Cache::builder("redis://127.0.0.1:6379")
        .namespace("shop")
        .build()
        .await?;
    let entry = Entry::ttl(Duration::from_secs(60))
        .grace(Duration::from_secs(30))
        .tags(["users", "tenant:7"]);
    let user: User = cache.get_or_load("user:1", entry, || load_user(1)).await?;
    println!("{user:?}");
    match cache.invalidate_tags(["tenant:7"]).await {
        Ok(dropped) => println!("{dropped} dropped"),
        Err(error) => println!("{error}"),
    }
    cache.close(Duration::from_secs(5)).await;
    Ok(())
}
