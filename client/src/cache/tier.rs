//! The local tier as the two-tier cache uses it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::Entry;
use crate::local::{LocalCache, Lookup};

use super::coherence::{Coherence, Tier};
use super::stats::Counters;

/// A decoded value as the local tier holds it and loads hand it over; `None` is a known absence.
#[derive(Clone)]
pub(crate) struct Stored {
    value: Option<Arc<dyn Any + Send + Sync>>,
    /// Bytes when encoded.
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

/// The local tier.
pub(crate) struct Local {
    cache: LocalCache<Stored>,
    when_lost: WhenLost,
}

impl Local {
    pub(crate) fn new(max_entries: usize, max_bytes: Option<u64>, when_lost: WhenLost) -> Self {
        let mut builder = LocalCache::builder()
            .max_entries(max_entries)
            .report_hits(true)
            // A decoded value is taken to need twice what its encoding does.
            .weigher(|_, stored: &Stored| (size_of::<Stored>() + 2 * stored.len) as u64);
        if let Some(bytes) = max_bytes {
            builder = builder.max_bytes(bytes);
        }
        Self {
            cache: builder.build(),
            when_lost,
        }
    }

    pub(crate) fn cache(&self) -> &LocalCache<Stored> {
        &self.cache
    }

    /// A fresh value. Counts as a hit or a miss.
    pub(crate) fn fresh<T: Any + Clone>(&self, key: &str) -> Option<Known<T>> {
        match self.cache.lookup(key) {
            Lookup::Fresh { value, .. } => value.get(),
            _ => None,
        }
    }

    /// A value that is no longer known to be right: to be asked for only when the server has failed.
    pub(crate) fn stale(&self, key: &str) -> Option<Stored> {
        match self.cache.lookup(key) {
            Lookup::Fresh { value, .. } | Lookup::Stale { value, .. } => {
                Some(Stored::clone(&value))
            }
            Lookup::Miss => None,
        }
    }

    /// Puts in a value that may be served for `ttl`.
    pub(crate) fn put(&self, key: &str, stored: Stored, ttl: Duration, tags: &[String]) {
        let grace = match self.when_lost {
            WhenLost::Drop => Duration::ZERO,
            WhenLost::KeepStale(bound) => bound,
        };
        self.cache
            .set_with(key, stored, Entry::ttl(ttl).grace(grace).tags(tags));
    }

    /// Puts in a value that may be served for `bound` while there is no server to ask.
    pub(crate) fn put_stale(&self, key: &str, stored: Stored, bound: Duration, tags: &[String]) {
        let at_once = Duration::from_nanos(1);
        self.cache
            .set_with(key, stored, Entry::ttl(at_once).grace(bound).tags(tags));
    }
}

impl Tier for Local {
    fn remove(&self, key: &str) {
        self.cache.remove(key);
    }

    fn invalidate_tag(&self, tag: &str) {
        self.cache.invalidate_tag(tag);
    }

    fn clear(&self) {
        self.cache.forget_all();
    }

    fn lose(&self) {
        match self.when_lost {
            WhenLost::Drop => self.cache.forget_all(),
            WhenLost::KeepStale(_) => self.cache.revalidate_all(),
        }
    }
}

/// Hears what servers say, and applies it. Keys lose their namespace, tags keep it: other clients' tags have none.
pub(crate) struct Ears {
    pub(crate) coherence: Arc<Coherence<Local>>,
    pub(crate) prefix: String,
    pub(crate) counters: Arc<Counters>,
}

impl crate::remote::Listener for Ears {
    fn keys_changed(&self, keys: &[&[u8]]) {
        self.counters.keys_pushed.add(keys.len() as u64);
        for key in keys {
            // Others are not in this tier.
            let key = std::str::from_utf8(key).ok();
            if let Some(key) = key.and_then(|key| key.strip_prefix(&self.prefix)) {
                self.coherence.key_changed(key);
            }
        }
    }

    fn tags_invalidated(&self, tags: &[&[u8]]) {
        self.counters.tags_pushed.add(tags.len() as u64);
        // An entry with a tag that is not UTF-8 never enters this tier.
        self.coherence
            .tags_invalidated(tags.iter().filter_map(|tag| std::str::from_utf8(tag).ok()));
    }

    fn everything_changed(&self) {
        self.coherence.everything_changed();
        crate::observe::local_tier_dropped("the server said that everything changed");
    }

    fn connection_lost(&self) {
        self.counters.connections_lost.up();
        self.coherence.lost();
        crate::observe::local_tier_dropped("connection lost");
    }

    fn connection_restored(&self) {
        self.coherence.everything_changed();
    }
}
