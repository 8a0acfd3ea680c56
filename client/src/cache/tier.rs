//! The local tier as the two-tier cache uses it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::Entry;
use crate::local::{LocalCache, Reservation, TagSet};

use super::stats::Counters;

/// A decoded value, or an [`Absent`]: what the local tier holds and loads hand over.
pub(crate) type Stored = Arc<Held>;
pub(crate) type Held = dyn Any + Send + Sync;

/// That the loader found nothing.
struct Absent;

/// A decoded value, or its known absence.
pub(crate) fn stored<T: Any + Send + Sync>(value: Option<T>) -> Stored {
    match value {
        Some(value) => Arc::new(value),
        None => Arc::new(Absent),
    }
}

pub(crate) fn is_absent(stored: &Stored) -> bool {
    stored.is::<Absent>()
}

/// Whether it is a `T`, or the known absence of any value.
pub(crate) fn is_one<T: Any>(stored: &Stored) -> bool {
    stored.is::<T>() || is_absent(stored)
}

/// Whether entries stay, as stale, while a server is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenLost {
    Drop,
    KeepStale(Duration),
}

/// The local tier. What may enter it is decided by reservations: one is made before a read is sent, and whatever the
/// servers say about its key, its tags or everything until the value is there keeps the value out. `DESIGN.md`,
/// section "Order".
pub(crate) struct Local {
    cache: LocalCache<Held>,
    when_lost: WhenLost,
}

impl Local {
    pub(crate) fn new(max_entries: usize, max_bytes: u64, when_lost: WhenLost) -> Self {
        let cache = LocalCache::builder()
            .max_entries(max_entries)
            .max_bytes(max_bytes)
            .report_hits(true)
            .build();
        Self { cache, when_lost }
    }

    pub(crate) fn cache(&self) -> &LocalCache<Held> {
        &self.cache
    }

    /// A fresh `T`, or its known absence. Counts as a hit or a miss.
    pub(crate) fn fresh<T: Any>(&self, key: &str) -> Option<Stored> {
        self.cache.get(key).filter(is_one::<T>)
    }

    /// A value that is no longer known to be right: to be asked for only when the server has failed. Counts nothing.
    pub(crate) fn stale(&self, key: &str) -> Option<Stored> {
        self.cache.peek_stale(key)
    }

    /// Lets a value in that may be served for `ttl`, unless something was said about it since it was reserved.
    pub(crate) fn enter(
        &self,
        reservation: &Reservation<Held>,
        stored: Stored,
        ttl: Duration,
        tags: TagSet,
        weight: u64,
    ) -> bool {
        let grace = match self.when_lost {
            WhenLost::Drop => Duration::ZERO,
            WhenLost::KeepStale(bound) => bound,
        };
        let entry = Entry::ttl(ttl).grace(grace).weight(weight);
        reservation.store(stored, entry.map_tags(|_| tags))
    }

    pub(crate) fn remove(&self, key: &str) {
        self.cache.remove(key);
    }

    pub(crate) fn invalidate_tags(&self, tags: impl IntoIterator<Item: AsRef<str>>) {
        self.cache.invalidate_tags(tags);
    }

    /// Anything may have changed.
    pub(crate) fn clear(&self) {
        self.cache.forget_all();
    }

    /// The connection that kept the tier true is gone: nothing is fresh.
    fn lose(&self) {
        match self.when_lost {
            WhenLost::Drop => self.cache.forget_all(),
            WhenLost::KeepStale(_) => self.cache.revalidate_all(),
        }
    }
}

/// Applies what servers say to the local tier. Keys lose their namespace, tags keep it: other clients' tags have none.
pub(crate) struct Pushes {
    pub(crate) local: Arc<Local>,
    pub(crate) prefix: String,
    pub(crate) counters: Arc<Counters>,
}

impl crate::remote::Listener for Pushes {
    fn keys_changed(&self, keys: &[&[u8]]) {
        self.counters.keys_pushed.add(keys.len() as u64);
        for key in keys {
            // Others are not in this tier.
            let key = std::str::from_utf8(key).ok();
            if let Some(key) = key.and_then(|key| key.strip_prefix(&self.prefix)) {
                self.local.remove(key);
            }
        }
    }

    fn tags_invalidated(&self, tags: &[&[u8]]) {
        self.counters.tags_pushed.add(tags.len() as u64);
        // An entry with a tag that is not UTF-8 never enters this tier.
        self.local
            .invalidate_tags(tags.iter().filter_map(|tag| std::str::from_utf8(tag).ok()));
    }

    fn everything_changed(&self) {
        self.local.clear();
        crate::observe::local_tier_dropped("the server said that everything changed");
    }

    fn connection_lost(&self) {
        self.counters.connections_lost.up();
        self.local.lose();
        crate::observe::local_tier_dropped("connection lost");
    }

    fn connection_restored(&self) {
        self.local.clear();
    }
}
