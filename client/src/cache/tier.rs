//! The local tier as the two-tier cache uses it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::Entry;
use crate::local::{LocalCache, Reservation};

use super::stats::Counters;

/// A decoded value as the local tier holds it and loads hand it over; `None` is a known absence.
#[derive(Clone)]
pub(crate) struct Stored {
    value: Option<Arc<dyn Any + Send + Sync>>,
    /// Bytes when encoded, before compression.
    len: usize,
}

/// What is known of a key.
pub(crate) enum Known<T> {
    Value(T),
    /// That the loader found nothing.
    Absent,
}

impl<T> Known<T> {
    pub(crate) fn into_option(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent => None,
        }
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored")
            .field("negative", &self.value.is_none())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Stored {
    pub(crate) fn new<T: Any + Send + Sync>(value: Option<T>, len: usize) -> Self {
        Self {
            value: value.map(|value| Arc::new(value) as Arc<dyn Any + Send + Sync>),
            len,
        }
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.value.is_none()
    }

    /// The value or its known absence; `None` if it is a value of another type.
    pub(crate) fn get<T: Any + Clone>(&self) -> Option<Known<T>> {
        match &self.value {
            None => Some(Known::Absent),
            Some(value) => value.downcast_ref::<T>().cloned().map(Known::Value),
        }
    }
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
    cache: LocalCache<Stored>,
    when_lost: WhenLost,
}

impl Local {
    pub(crate) fn new(max_entries: usize, max_bytes: u64, when_lost: WhenLost) -> Self {
        let cache = LocalCache::builder()
            .max_entries(max_entries)
            .max_bytes(max_bytes)
            .report_hits(true)
            // A decoded value is taken to need twice what its encoding does.
            .weigher(|_, stored: &Stored| (size_of::<Stored>() + 2 * stored.len) as u64)
            .build();
        Self { cache, when_lost }
    }

    pub(crate) fn cache(&self) -> &LocalCache<Stored> {
        &self.cache
    }

    /// A fresh value. Counts as a hit or a miss.
    pub(crate) fn fresh<T: Any + Clone>(&self, key: &str) -> Option<Known<T>> {
        self.cache.get(key)?.get()
    }

    /// A value that is no longer known to be right: to be asked for only when the server has failed. Counts nothing.
    pub(crate) fn stale(&self, key: &str) -> Option<Stored> {
        self.cache.peek_stale(key).map(|stored| (*stored).clone())
    }

    /// To be called before a read of `key` is sent.
    pub(crate) fn reserve(&self, key: &str) -> Reservation<Stored> {
        self.cache.reserve(key)
    }

    /// Lets a value in that may be served for `ttl`, unless something was said about it since it was reserved.
    pub(crate) fn enter(
        &self,
        reservation: &Reservation<Stored>,
        stored: Stored,
        ttl: Duration,
        tags: &[String],
        weight: Option<u64>,
    ) -> bool {
        let grace = match self.when_lost {
            WhenLost::Drop => Duration::ZERO,
            WhenLost::KeepStale(bound) => bound,
        };
        let mut entry = Entry::ttl(ttl).grace(grace).tags(tags);
        if let Some(bytes) = weight {
            entry = entry.weight(bytes);
        }
        reservation.store(Arc::new(stored), entry)
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
