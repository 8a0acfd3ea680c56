//! The client side of tagcache, a cache with tags inside Redis.
//!
//! **There is no client code here yet.** The local tier, the two-tier cache and typed commands will come to
//! this crate; until then the module is used through the client that you already have, because its commands
//! are ordinary Redis commands. With the `redis` crate:
//!
//! ```no_run
//! # fn main() -> redis::RedisResult<()> {
//! let client = redis::Client::open("redis://127.0.0.1:6379/")?;
//! let mut connection = client.get_connection()?;
//!
//! // A value for five minutes, with two tags.
//! redis::cmd("CACHE.SET")
//!     .arg("page:/tenants/7/invoices")
//!     .arg("<html>…</html>")
//!     .arg("EX").arg(300)
//!     .arg("TAGS").arg(2).arg("tenant:7").arg("kind:page")
//!     .exec(&mut connection)?;
//!
//! // `None` is a miss: never set, expired, or one of its tags was invalidated.
//! let page: Option<String> = redis::cmd("CACHE.GET")
//!     .arg("page:/tenants/7/invoices")
//!     .query(&mut connection)?;
//! assert!(page.is_some());
//!
//! // Everything of tenant 7 is gone when this answers, however much it is.
//! let dropped: u64 = redis::cmd("CACHE.INVALIDATE").arg("tenant:7").query(&mut connection)?;
//! println!("{dropped} entries dropped");
//!
//! // The answers of CACHE.STATS, CACHE.TAGINFO and CACHE.INSPECT are maps.
//! let stats: std::collections::HashMap<String, String> =
//!     redis::cmd("CACHE.STATS").query(&mut connection)?;
//! println!("{} entries, hit rate {}", stats["entries"], stats["hit_rate"]);
//! # Ok(())
//! # }
//! ```
//!
//! Keys, values and tags are byte strings: whatever the client can send as an argument may be one.
//! `module/COMMANDS.md` in the repository is the reference of all commands, and the example `packages` of
//! this crate a whole program (`make run` in the repository's root runs it).
#![forbid(unsafe_code)]

#[cfg(feature = "alerts")]
pub mod alerts;
#[cfg(feature = "remote")]
mod cache;
mod entry;
#[cfg(feature = "http")]
pub mod http;
pub mod local;
#[cfg(feature = "monitor")]
pub mod memory;

#[cfg(feature = "remote")]
mod observe;
#[cfg(feature = "remote")]
mod remote;

#[cfg(feature = "msgpack")]
pub use cache::MessagePack;
#[cfg(feature = "remote")]
pub use cache::{Bytes, Cache, CacheBuilder, CacheStats, Codec, CodecError, Json, ServerFigures, TopKey};
pub use entry::{Entry, NoTags};
pub use local::LocalCache;
#[cfg(feature = "remote")]
pub use remote::{Error, LoaderError, Remedy, ServerState, ServerStatus, Servers};
