//! Caches with tags: in this process, and in two tiers with a server that runs the tagcache module.
//!
//! - [`LocalCache`]: bounded, with TTL, tags and counts. It needs no server and no async runtime.
//! - `Cache` (feature `remote`, on by default): a local tier in front of a Redis or Valkey server that all
//!   processes share. A value that is missing is loaded once in the whole fleet, and what one process invalidates
//!   is gone in all of them.
//!
//! ```
//! use std::time::Duration;
//! use tagcache::LocalCache;
//!
//! let pages: LocalCache<String> = LocalCache::builder().max_entries(10_000).build();
//! pages.set("invoices", "<html>…</html>".into(), Duration::from_secs(300), ["tenant:7", "kind:page"]);
//! assert!(pages.get("invoices").is_some());
//!
//! // Everything of tenant 7 is gone when this returns, however much it is.
//! pages.invalidate_tag("tenant:7");
//! assert!(pages.get("invoices").is_none());
//! ```
//!
//! [`local`] lists what it promises and costs, and has a table of the memory optimization guide's `cacheService`
//! calls with what stands for them here.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `remote` | yes | `Cache`, on tokio |
//! | `tls` | yes | `rediss://` addresses, by rustls |
//! | `monitor` | yes | memory of the process, its growth and status |
//! | `msgpack`, `compression` | | `MessagePack` as a codec; large values compressed |
//! | `metrics`, `tracing` | | what a `Cache` does, for operators |
//! | `jemalloc` | | the process's heap figures from jemalloc |
//!
//! The admin endpoint, the dashboard, alert rules and the program `tagcache` are the crate `tagcache-admin`.
//! The oldest supported Rust is 1.88.
//!
#![cfg_attr(feature = "remote", doc = include_str!("cache/overview.md"))]
#![forbid(unsafe_code)]

#[cfg(feature = "remote")]
mod cache;
mod entry;
pub mod local;
#[cfg(feature = "monitor")]
pub mod memory;
#[cfg(feature = "remote")]
mod observe;
#[cfg(feature = "remote")]
mod remote;
mod worker;

#[cfg(feature = "msgpack")]
pub use cache::MessagePack;
#[cfg(feature = "remote")]
pub use cache::{Bytes, Cache, CacheBuilder, CacheStats, Codec, Inspection, Json, TagInfo, Where};
pub use entry::Entry;
pub use local::{LocalCache, TopKey};
#[cfg(feature = "remote")]
pub use remote::{Credentials, Error, Remedy, ServerState, ServerStatus, Servers};
