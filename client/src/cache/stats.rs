//! The counts of a cache.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::local::LocalStats;
use crate::remote::ServerStatus;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
        }

        /// The result of [`Cache::stats`](crate::Cache::stats): counts since the cache was built, the local tier's
        /// figures, and the state of each server.
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct CacheStats {
            $($(#[doc = $doc])+ pub $name: u64,)+
            /// The local tier: entries, bytes, hits, misses, evictions.
            pub local: LocalStats,
            /// The servers as this process sees them.
            pub servers: Vec<ServerStatus>,
        }

        impl CacheStats {
            /// All counts for an exporter: name, description, count.
            pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_start(), self.$name),)+]
            }
        }

        impl Counters {
            pub(crate) fn read(&self, local: LocalStats, servers: Vec<ServerStatus>) -> CacheStats {
                CacheStats { $($name: self.$name.get(),)+ local, servers }
            }
        }
    };
}

counters! {
    /// Reads that found a fresh value on a server.
    server_hits,
    /// Reads that found no fresh value anywhere.
    misses,
    /// Reads that found the key cached as known to be absent, on a server.
    negative_hits,
    /// Stale values served while a fresh one is loaded.
    stale_served,
    /// Stale values served because a server could not be reached or a loader failed.
    fail_safe,
    /// Loaders run.
    loads,
    /// Loaders that failed, panicked or ran out of time.
    load_failures,
    /// Calls that waited for a load of the same process instead of loading.
    joined,
    /// Waits for a load of another process.
    lease_waits,
    /// Loads behind a stale value that had already been served.
    refreshes,
    /// Loads whose value was not stored because no lease was available.
    loads_unstored,
    /// Values written to a server.
    sets,
    /// Loaded values that the server refused because something was invalidated while they were loaded.
    sets_refused,
    /// Writes that failed.
    set_failures,
    /// Loaded values that were returned to callers but can never be stored: a tag, the value or the key is refused.
    unstorable,
    /// Values that entered the local tier.
    entered,
    /// Values that did not enter the local tier because an invalidation overtook them.
    overtaken,
    /// Values from a server that could not be decoded.
    undecodable,
    /// Keys that servers reported as changed.
    keys_pushed,
    /// Tags that servers reported as invalidated.
    tags_pushed,
    /// Connections that broke; each emptied the local tier.
    connections_lost,
    /// Calls that failed, or continued without a server, because of a server's error.
    server_errors,
    /// Hits of the local tier that were reported to servers.
    hits_reported,
    /// Hits of the local tier that could not be reported.
    hits_unreported,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn up(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
