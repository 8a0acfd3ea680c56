use std::{cell::Cell, time::Duration};

use super::sync::{AtomicU64, Ordering};

/// Power of two.
const STRIPES: usize = 16;

/// Counts since the cache was built, kept so that threads do not wait for each other's cache lines.
#[derive(Default)]
pub(super) struct Counters {
    stripes: [Stripe; STRIPES],
    pub(super) bytes: AtomicU64,
    pub(super) insertions: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) expirations: AtomicU64,
    pub(super) invalidated: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) longest_cleanup: AtomicU64,
    /// Entries in memory that were hit.
    pub(super) hit_entries: AtomicU64,
}

/// Two cache lines, because processors fetch neighbouring lines in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Stripe {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counters {
    fn stripe(&self) -> &Stripe {
        thread_local! {
            static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        let mut mine = MINE.get();
        if mine == usize::MAX {
            static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            mine = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % STRIPES;
            MINE.set(mine);
        }
        &self.stripes[mine % STRIPES]
    }

    pub(super) fn hit(&self) {
        self.stripe().hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn miss(&self) {
        self.stripe().misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hits_and_misses(&self) -> (u64, u64) {
        let loaded =
            |stripe: &Stripe| [&stripe.hits, &stripe.misses].map(|n| n.load(Ordering::Relaxed));
        let counts = self.stripes.iter().map(loaded);
        counts.fold((0, 0), |(hits, misses), [h, m]| (hits + h, misses + m))
    }
}

/// The size and the counters of a [`LocalCache`](super::LocalCache).
///
/// The counters start at zero when the cache is built and only grow. They are read one after the other while other
/// threads go on, so under load they need not match each other exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalStats {
    /// Entries in memory. Expired and invalidated ones count until they are reclaimed: by a read or a write of their
    /// key, by eviction or by cleanup.
    pub entries: usize,
    /// Weight of these entries in bytes, including the cache's own bookkeeping.
    pub bytes: u64,
    /// The most entries that can be held.
    pub max_entries: usize,
    /// The most bytes that can be held, `None` if only entries are limited.
    pub max_bytes: Option<u64>,
    /// Keys whose hits are listed by [`top_accessed_keys`](super::LocalCache::top_accessed_keys).
    pub tracked: usize,
    /// Tags that entries carry or that were invalidated lately.
    pub tags: usize,
    /// Reads that found a fresh value.
    pub hits: u64,
    /// Reads that found no fresh value.
    pub misses: u64,
    /// Values stored.
    pub insertions: u64,
    /// Entries evicted while they could still have been served.
    pub evictions: u64,
    /// Entries reclaimed after their TTL, and their grace if they had one.
    pub expirations: u64,
    /// Entries reclaimed because a tag of theirs, or everything, was invalidated.
    pub invalidated: u64,
    /// Values that were not stored because they alone are too heavy, see
    /// [`max_entry_bytes`](super::LocalCache::max_entry_bytes).
    pub rejected: u64,
    /// The longest time of a cleanup. It holds no lock longer than for one entry, so no call waited for that long.
    pub longest_cleanup: Duration,
}

impl LocalStats {
    /// Share of reads that were hits, between 0 and 1; `None` before the first read.
    pub fn hit_rate(&self) -> Option<f64> {
        let reads = self.hits + self.misses;
        (reads != 0).then(|| self.hits as f64 / reads as f64)
    }
}

/// A key and how often it was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopKey {
    /// The key.
    pub key: String,
    /// Reads that found the key fresh, including those of its earlier entries as far as they are remembered.
    pub hits: u64,
}

/// One entry as [`LocalCache::entries`](super::LocalCache::entries) lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryInfo {
    /// The key.
    pub key: String,
    /// Its tags, in no particular order.
    pub tags: Vec<String>,
    /// Reads that found the key fresh.
    pub hits: u64,
    /// Weight in bytes, including the cache's own bookkeeping.
    pub bytes: u64,
    /// Whether it is fresh; otherwise it is stale.
    pub is_fresh: bool,
    /// How long it stays fresh, or may still be served as stale; [`Duration::MAX`] if it never expires.
    pub left: Duration,
}
