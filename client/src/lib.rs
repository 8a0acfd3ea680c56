#![doc = include_str!("overview.md")]
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

/// Returns the guard even if a thread panicked with it: no code under these locks can leave the data half changed.
#[cfg(any(feature = "monitor", feature = "remote"))]
fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The programs of the README.
#[cfg(all(doctest, feature = "remote"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "msgpack")]
pub use cache::MessagePack;
#[cfg(feature = "remote")]
pub use cache::{Bytes, Cache, CacheBuilder, CacheStats, Codec, Inspection, Json, TagInfo, Where};
pub use entry::Entry;
pub use local::{LocalCache, TopKey};
#[cfg(feature = "remote")]
pub use remote::{Credentials, Error, Remedy, ServerState, ServerStatus, Servers};
