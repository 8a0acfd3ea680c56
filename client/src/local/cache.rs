use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    EntryInfo, LocalCacheBuilder, LocalStats, TopKey,
    inner::Inner,
    marks::Marks,
    stored::Handle,
    sync::{Ordering, unpoisoned},
};
use crate::{Entry, worker::Worker};

/// A cache in this process: bounded, with a TTL and tags for each value. It needs no server.
///
/// A handle: cloning it is cheap, and all clones are the same cache. All calls take `&self` and may be made from any
/// thread and from async code. They hold a lock only while they check one entry, unless they state otherwise. Storing a
/// value with a new tag may also search a sixty-fourth of the tags for those that no entry carries any more. Values are
/// returned as `Arc<V>` and never cloned.
///
/// The [module](super) shows the calls and lists the promises.
pub struct LocalCache<V: ?Sized> {
    pub(super) inner: Arc<Inner<V>>,
}

impl<V: ?Sized> LocalCache<V> {
    /// A cache for at most `max_entries` entries, with the other settings of [`builder`](Self::builder).
    pub fn new(max_entries: usize) -> Self {
        Self::builder().max_entries(max_entries).build()
    }

    /// The settings, to be changed before [`build`](LocalCacheBuilder::build): 100 entries, no limit in bytes, 200
    /// tracked keys.
    pub fn builder() -> LocalCacheBuilder<V> {
        LocalCacheBuilder::new()
    }

    /// Returns the value of `key` if it is fresh. Counts a hit or a miss, for the key and in total.
    ///
    /// O(tags of the entry): one hash lookup, one read of the clock.
    #[inline]
    pub fn get(&self, key: &str) -> Option<Arc<V>> {
        self.inner.get(key)
    }

    /// Returns the value of `key` if it is fresh or stale, that is in its [grace](Entry::grace), for callers that
    /// prefer an old value to none. Counts a hit if it is fresh, otherwise a miss.
    pub fn get_stale(&self, key: &str) -> Option<Arc<V>> {
        self.get(key).or_else(|| self.peek_stale(key))
    }

    /// Stores `value` under `key` for `ttl`, with these tags (`[]` for none), in place of any older value.
    ///
    /// `ttl` counts from now: the value is fresh before, not at, its end. With zero nothing is stored and the older
    /// value is removed; with [`Duration::MAX`] the value never expires. A value that is too heavy (see
    /// [`max_entry_bytes`](Self::max_entry_bytes)) is not stored either, and the older one is removed.
    /// [`set_with`](Self::set_with) takes tags that are not `&str`.
    ///
    /// O(tags), plus the cost of evictions.
    #[doc(alias = "insert")]
    pub fn set<'t>(
        &self,
        key: &str,
        value: V,
        ttl: Duration,
        tags: impl IntoIterator<Item = &'t str>,
    ) where
        V: Sized,
    {
        self.set_with(key, value, Entry::ttl(ttl).tags(tags));
    }

    /// Stores `value` under `key` with the settings of `entry`: see [`set`](Self::set); [`Entry`] has grace and weight.
    pub fn set_with(&self, key: &str, value: V, entry: Entry<impl IntoIterator<Item: AsRef<str>>>)
    where
        V: Sized,
    {
        let entry = self.inner.intern(entry);
        self.inner.set(key, Arc::new(value), entry);
    }

    /// Whether `key` has a fresh value. Counts neither as a hit nor as a miss, and does not defer eviction.
    pub fn contains(&self, key: &str) -> bool {
        self.remaining_ttl(key).is_some()
    }

    /// How long the value of `key` stays fresh: `None` if it is not fresh, [`Duration::MAX`] if it never expires.
    /// Counts neither as a hit nor as a miss.
    pub fn remaining_ttl(&self, key: &str) -> Option<Duration> {
        let (_, found) = self.inner.peek(key)?;
        found.is_fresh.then_some(found.left)
    }

    /// Removes `key` and returns its value if it was fresh. A value that is being loaded for it is not stored.
    pub fn remove(&self, key: &str) -> Option<Arc<V>> {
        self.inner.take(key)
    }

    /// Drops every entry with this tag at once, stale ones too. A value with this tag that is being loaded is not
    /// stored.
    ///
    /// O(1), however many entries have the tag: they are reclaimed later, see [`run_cleanup`](Self::run_cleanup).
    #[doc(alias = "invalidate")]
    pub fn invalidate_tag(&self, tag: &str) {
        self.mark(tag, Marks::drop_at);
    }

    /// [`invalidate_tag`](Self::invalidate_tag) for several tags, one after the other. O(tags given).
    pub fn invalidate_tags(&self, tags: impl IntoIterator<Item: AsRef<str>>) {
        for tag in tags {
            self.invalidate_tag(tag.as_ref());
        }
    }

    /// Makes every entry with this tag stale at once: [`get`](Self::get) does not return it any more; for its grace,
    /// counted from now, [`get_stale`](Self::get_stale) does. Entries without grace are gone.
    ///
    /// Repeating it does not change an entry that is stale already, except that an entry that was not replaced through
    /// sixteen such calls is gone. O(1).
    pub fn revalidate_tag(&self, tag: &str) {
        let now = self.inner.clock.now();
        self.mark(tag, |marks, epoch| marks.soften_at(epoch, now));
    }

    fn mark(&self, tag: &str, mark: impl FnOnce(&Marks, u64)) {
        let inner = &*self.inner;
        let epoch = inner.tags.next_epoch();
        // A tag that no entry carries has to be remembered only for loads that may return an old value.
        let tag = if inner.loads.is_idle() {
            inner.tags.find(tag)
        } else {
            Some(inner.tags.intern_one(tag))
        };
        if let Some(tag) = tag {
            mark(&tag.marks, epoch);
        }
    }

    /// Drops every entry at once, then reclaims them. Values that are being loaded are not stored. Hit counts and
    /// statistics stay.
    ///
    /// As soon as this begins, no older entry is served any more, in O(1). Reclaiming is O(entries), about half a
    /// second for a million, with locks held for one entry at a time.
    #[doc(alias = "clear")]
    pub fn invalidate_all(&self) {
        self.forget_all();
        self.inner.clean(|| false);
    }

    /// Up to `n` keys with the most hits, most first; keys with equally many hits are sorted by key.
    ///
    /// A key's hits are the reads that found it fresh. The count goes on when the key is overwritten. It also goes on
    /// when the key expires, is evicted or removed, and is stored again before the second cleanup after that, if its
    /// hits are many enough to be remembered. Counts are exact, except that hits may be missing for a key that several
    /// threads overwrite at the same moment.
    ///
    /// At most [`max_tracked`](LocalCacheBuilder::max_tracked) keys. O(entries), with locks held for one entry at a time.
    pub fn top_accessed_keys(&self, n: usize) -> Vec<TopKey> {
        self.inner.top(n)
    }

    /// Up to `n` entries that may be served, fresh or stale, in no particular order. Counts nothing. O(`n` +
    /// out-of-date entries that are not yet reclaimed).
    pub fn entries(&self, n: usize) -> Vec<EntryInfo> {
        let info = |(handle, _): (Handle, Arc<V>)| {
            let found = self.inner.found(&handle)?;
            let stored = handle.stored();
            Some(EntryInfo {
                key: handle.key().to_owned(),
                tags: stored.tags.iter().map(|tag| tag.name.to_string()).collect(),
                hits: stored.hits.read().count(),
                bytes: stored.weight,
                is_fresh: found.is_fresh,
                left: found.left,
            })
        };
        self.inner.entries.iter().filter_map(info).take(n).collect()
    }

    /// Entries in memory, including expired and invalidated ones that are not yet reclaimed. O(shards).
    pub fn len(&self) -> usize {
        self.inner.entries.len()
    }

    /// Whether there is no entry in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight of the heaviest entry that can be stored, in bytes and with the cache's bookkeeping: one shard's
    /// limit for one entry. `u64::MAX` if only the number of entries is limited.
    pub fn max_entry_bytes(&self) -> u64 {
        self.inner.bounds.max_entry_bytes()
    }

    /// The cache's size and counters. O(shards).
    pub fn stats(&self) -> LocalStats {
        let Inner {
            counters,
            bounds,
            tags,
            ..
        } = &*self.inner;
        let (hits, misses) = counters.hits_and_misses();
        let bytes = counters.bytes.load(Ordering::Relaxed);
        LocalStats {
            entries: self.len(),
            // Entries on their way in or out are counted too, although the entries inside never exceed the limit.
            bytes: bounds.max_bytes().map_or(bytes, |max| bytes.min(max)),
            max_entries: bounds.max_entries(),
            max_bytes: bounds.max_bytes(),
            tracked: self.inner.tracked(),
            tags: tags.len(),
            hits,
            misses,
            insertions: counters.insertions.load(Ordering::Relaxed),
            evictions: counters.evictions.load(Ordering::Relaxed),
            expirations: counters.expirations.load(Ordering::Relaxed),
            invalidated: counters.invalidated.load(Ordering::Relaxed),
            rejected: counters.rejected.load(Ordering::Relaxed),
            longest_cleanup: Duration::from_nanos(counters.longest_cleanup.load(Ordering::Relaxed)),
        }
    }

    /// Reclaims every entry that can no longer be served, forgets tags that no entry carries and keys that have long
    /// had no entry. Returns how many entries were reclaimed.
    ///
    /// O(entries + tags), about half a second for a million entries that are reclaimed. Locks are held for one entry
    /// at a time, and for a sixty-fourth of the tags.
    pub fn run_cleanup(&self) -> u64 {
        self.inner.clean(|| false)
    }

    /// Ends the background cleanup, even in the middle of a run: when this returns, it has ended. May be called without
    /// one.
    pub fn stop_cleanup(&self) {
        let cleaner = unpoisoned(self.inner.cleaner.lock()).take();
        if let Some(cleaner) = cleaner {
            cleaner.stop();
        }
    }
}

impl<V: ?Sized + Send + Sync + 'static> LocalCache<V> {
    /// Starts a thread that runs a [cleanup](Self::run_cleanup) every `interval`, at least a millisecond. It replaces a
    /// thread that runs already.
    ///
    /// The thread ends with [`stop_cleanup`](Self::stop_cleanup), or when the last handle is dropped.
    ///
    /// # Panics
    ///
    /// If the system cannot start a thread.
    pub fn start_cleanup(&self, interval: Duration) {
        // Weak, so that the thread does not keep the cache alive.
        let inner = Arc::downgrade(&self.inner);
        // Locked first: a value that this very thread drops may stop the thread, and has to find it.
        let mut slot = unpoisoned(self.inner.cleaner.lock());
        let interval = interval.max(Duration::from_millis(1));
        let cleaner = Worker::start("tagcache-cleanup", interval, move |signal| {
            let inner = inner.upgrade()?;
            // A value whose Drop panics must not end all cleanup.
            let _ = catch_unwind(AssertUnwindSafe(|| inner.clean(|| signal.is_stopped())));
            Some(interval)
        })
        .expect("a program that cannot start a thread is out of resources");
        let before = slot.replace(cleaner);
        drop(slot);
        if let Some(before) = before {
            before.stop();
        }
    }
}

/// Calls that only the two-tier cache needs.
#[cfg_attr(not(feature = "remote"), allow(dead_code))]
impl<V: ?Sized> LocalCache<V> {
    /// The value of `key`, fresh or stale; counts nothing.
    pub(crate) fn peek_stale(&self, key: &str) -> Option<Arc<V>> {
        self.inner.peek(key).map(|(value, _)| value)
    }

    pub(crate) fn intern(&self, tags: impl IntoIterator<Item: AsRef<str>>) -> super::tags::TagSet {
        self.inner.tags.intern(tags)
    }

    /// Drops every entry at once; [`run_cleanup`](Self::run_cleanup) reclaims them. O(1).
    pub(crate) fn forget_all(&self) {
        let inner = &*self.inner;
        inner.all.drop_at(inner.tags.next_epoch());
    }

    /// Makes every entry stale at once, each for at most its grace. O(1).
    pub(crate) fn revalidate_all(&self) {
        let inner = &*self.inner;
        let now = inner.clock.now();
        inner.all.soften_at(inner.tags.next_epoch(), now);
    }

    /// Serves nothing from `end` on, unless a later call sets a later time.
    pub(crate) fn trust_until(&self, end: Instant) {
        let end = self.inner.clock.at(end);
        self.inner.trusted_until.store(end, Ordering::Release);
    }

    /// Takes the hits since the last call, of up to `max` entries, including entries that have left. Exact, unless more
    /// entries than the cache holds (and more than 1024) were hit since: then hits of entries that have left may be
    /// missing. A hit that is taken while its entry is overwritten may be returned with the next hit of its key.
    pub(crate) fn take_hits(&self, max: usize) -> Vec<(String, u64)> {
        self.inner.report.take(max)
    }
}

impl<V: ?Sized> Clone for LocalCache<V> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<V: ?Sized> Default for LocalCache<V> {
    /// A cache with the settings of [`builder`](Self::builder).
    fn default() -> Self {
        Self::builder().build()
    }
}

impl<V: ?Sized> fmt::Debug for LocalCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod invariants {
    use super::*;

    impl<V: ?Sized> LocalCache<V> {
        /// Asserts the invariants that hold whenever no other thread is at work.
        pub(in crate::local) fn validate(&self) {
            let inner = &*self.inner;
            let (mut bytes, mut hit) = (0, 0);
            for (handle, _) in inner.entries.iter() {
                let word = handle.stored().hits.read();
                assert!(!word.is_retired());
                bytes += handle.stored().weight;
                hit += u64::from(word.count() > 0);
            }
            assert_eq!(inner.counters.bytes.load(Ordering::Relaxed), bytes);
            assert_eq!(inner.counters.hit_entries.load(Ordering::Relaxed), hit);
            let is_back = |key: &str, _| assert!(inner.peek(key).is_none(), "{key}");
            inner.loads.departed(is_back);
            assert!(inner.entries.len() <= inner.bounds.max_entries());
            assert!(inner.bounds.max_bytes().is_none_or(|max| bytes <= max));
        }
    }

    #[test]
    fn entries_are_not_served_after_trust_expires() {
        let cache = LocalCache::new(10);
        cache.set("key", 1, Duration::MAX, []);
        cache.trust_until(Instant::now());
        assert_eq!(cache.get("key"), None);
        cache.trust_until(Instant::now() + Duration::from_secs(600));
        assert_eq!(cache.get("key").as_deref(), Some(&1));
    }
}
