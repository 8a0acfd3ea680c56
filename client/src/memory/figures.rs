//! The contents of a sample, and their source.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::process::MemoryUsage;
use crate::local::EntryInfo;

/// The source from which a [`MemoryMonitor`](super::MemoryMonitor) reads. It is called on the monitor's own thread, so
/// it may block; it must bound how long.
pub trait Source: Send + 'static {
    /// Reads everything once, into a sample in which only the time is set.
    fn read(&mut self, sample: &mut Sample);
}

/// The figures that were read at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sample {
    /// By the system's clock, for display.
    pub at: SystemTime,
    /// Since the monitor started, by the monotonic clock: for differences.
    pub since_start: Duration,
    /// Of the process that is watched.
    pub memory: MemoryUsage,
    /// Of the local tier, if there is one.
    pub local: Option<LocalFigures>,
    /// Of the server.
    pub server: ServerReading,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            at: SystemTime::UNIX_EPOCH,
            since_start: Duration::ZERO,
            memory: MemoryUsage::default(),
            local: None,
            server: ServerReading::None,
        }
    }
}

/// A local tier for the monitor and the admin endpoint. No method has a name that an application is likely to try on a
/// [`LocalCache`](crate::LocalCache): the compiler would recommend this trait.
pub trait LocalTier: Send + Sync {
    /// Its figures now. O(1).
    fn figures(&self) -> LocalFigures;
    /// At most `limit` of its entries, the most read first as far as the tier knows.
    fn entries(&self, limit: usize) -> Vec<EntryInfo>;
    /// Drops everything.
    fn drop_all(&self);
    /// Drops the entries that carry one of these tags.
    fn drop_tagged(&self, tags: &[String]);
}

/// Figures of a local tier; counters since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct LocalFigures {
    /// Entries held.
    pub entries: u64,
    /// Bytes that they are accounted with, if the tier accounts for them.
    pub bytes: Option<u64>,
    /// Reads that found a value.
    pub hits: u64,
    /// Reads that found none.
    pub misses: u64,
    /// Of these, reads of this process that a server served; `None` for a tier without servers behind it.
    pub server_hits: Option<u64>,
    /// Entries dropped because there was no room.
    pub evictions: u64,
    /// Entries that invalidations dropped.
    pub invalidated: u64,
    /// The longest cleanup so far, in microseconds, if the tier cleans up in one go.
    pub longest_cleanup_us: Option<u64>,
}

/// A sample's data about the server.
#[derive(Clone, Debug, Default)]
pub enum ServerReading {
    /// No server is watched.
    #[default]
    None,
    /// It did not reply, for this reason.
    Unreachable(Arc<str>),
    /// It replied.
    Up(Arc<ServerUsage>),
}

impl ServerReading {
    /// The figures, if it replied.
    pub fn figures(&self) -> Option<&ServerUsage> {
        match self {
            Self::Up(figures) => Some(figures),
            Self::None | Self::Unreachable(_) => None,
        }
    }

    /// The figures of the module, if the server replied and has the module.
    pub fn cache(&self) -> Option<&CacheFigures> {
        self.figures()?.cache.as_ref()
    }
}

/// Figures of a server, from INFO and DBSIZE; bytes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ServerUsage {
    /// The server's name, such as `redis 7.0.15`.
    pub name: String,
    /// Keys of the selected database, of any type; `None` if the user may not read it, as for all fields below.
    pub key_count: Option<u64>,
    /// `used_memory`.
    pub used_memory: Option<u64>,
    /// `used_memory_rss`.
    pub rss: Option<u64>,
    /// `used_memory_peak`.
    pub peak_memory: Option<u64>,
    /// `allocator_active`: the bytes that its allocator holds.
    pub committed_memory: Option<u64>,
    /// `maxmemory`, or the memory of its machine if that is 0.
    pub memory_limit: Option<u64>,
    /// Connected clients.
    pub clients: Option<u64>,
    /// Seconds since it started.
    pub uptime_seconds: Option<u64>,
    /// Of the module; `None` if it is not loaded.
    pub cache: Option<CacheFigures>,
}

macro_rules! cache_figures {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// `CACHE.STATS` of the selected database: see `docs/src/commands/stats.md`. A field that this version of the
        /// module does not know is 0.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs)] // The command's reference is theirs.
        #[non_exhaustive]
        pub struct CacheFigures {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl CacheFigures {
            /// Sets the field of this name; unknown names are ignored, a newer module may have more.
            pub fn set(&mut self, name: &str, value: u64) {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => {}
                }
            }
        }
    };
}

cache_figures! {
    entries,
    tags,
    bytes,
    index_bytes,
    hits,
    misses,
    stale_hits,
    sets,
    deletes,
    expired,
    evicted,
    invalidations,
    invalidated,
    reclaim_backlog,
    reclaimed,
    reclaim_max_us,
    leases,
    lease_waiters,
    leases_refused,
    clock,
}
