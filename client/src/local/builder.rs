use std::{fmt, sync::Arc};

use super::{
    LocalCache,
    bounds::Bounds,
    clock::{Clock, NEVER},
    inner::{Inner, Leaving},
    loads::Loads,
    marks::Marks,
    report::Report,
    stats::Counters,
    sync::{AtomicU64, Mutex},
    tags::TagTable,
};

pub(super) type Weigher<V> = dyn Fn(&str, &V) -> u64 + Send + Sync;

/// The settings of a [`LocalCache`] that is to be built, see [`LocalCache::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct LocalCacheBuilder<V: ?Sized> {
    max_entries: usize,
    max_bytes: Option<u64>,
    max_tracked: usize,
    shards: Option<usize>,
    weigher: Box<Weigher<V>>,
    report_hits: bool,
    clock: Clock,
}

impl<V: ?Sized> LocalCacheBuilder<V> {
    pub(super) fn new() -> Self {
        Self {
            max_entries: 100,
            max_bytes: None,
            max_tracked: 200,
            shards: None,
            weigher: Box::new(|_, value| size_of_val(value) as u64),
            report_hits: false,
            clock: Clock::system(),
        }
    }

    /// The most entries that are held at any time. Default: 100. With 0 nothing is stored; more than 2^40 counts as
    /// 2^40.
    ///
    /// A large cache is divided into shards (see [`shards`](Self::shards)). Each evicts for itself once it holds its
    /// share, so eviction may begin a few per cent before the whole cache is full.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.max_entries = entries;
        self
    }

    /// The most bytes that all entries together may weigh. Default: no limit.
    ///
    /// An entry weighs its value (by the [`weigher`](Self::weigher)), its key, its tags and about 200 bytes of
    /// bookkeeping; more than 1 TiB counts as 1 TiB. With both limits, an entry uses up the larger of its two shares: a
    /// cache for 1000 entries and 1 MB can be filled by ten values of 100 kB, but not by ten of these and 990 small
    /// ones.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// The most keys that [`LocalCache::top_accessed_keys`] lists. The hits of keys without an entry are remembered for
    /// as many keys, up to twice as many or about a thousand. Default: 200. With 0 no key is listed.
    pub fn max_tracked(mut self, keys: usize) -> Self {
        self.max_tracked = keys;
        self
    }

    /// How many shards the cache is divided into, each with its own lock and its share of both limits.
    ///
    /// Rounded down to a power of two between 1 and 1024, and not more than the cache can have entries. Default: one
    /// per 512 expected entries, up to four per processor. More shards mean less waiting between threads. Fewer shards
    /// admit heavier values, because an entry has to fit into one shard: see [`LocalCache::max_entry_bytes`].
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// How many bytes a value weighs, besides its key, its tags and the cache's bookkeeping.
    ///
    /// Called once for each value that is stored, with no lock held. Default: `size_of::<V>()`, which is right for
    /// values that own no other memory, and too little for strings, vectors and the like.
    pub fn weigher(mut self, weigher: impl Fn(&str, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.weigher = Box::new(weigher);
        self
    }

    /// Builds the cache. It is empty, and no thread is started.
    pub fn build(self) -> LocalCache<V> {
        let bounds = Bounds::new(self.max_entries, self.max_bytes, self.shards);
        let entries = quick_cache::sync::Cache::with_options(
            bounds.options(),
            bounds.clone(),
            quick_cache::DefaultHashBuilder::default(),
            Leaving,
        );
        let reported = bounds.max_entries().max(Report::LEAST);
        LocalCache {
            inner: Arc::new(Inner {
                entries,
                all: Marks::default(),
                trusted_until: AtomicU64::new(NEVER),
                max_tracked: self.max_tracked,
                report: Report::new(if self.report_hits { reported } else { 0 }),
                clock: self.clock,
                tags: TagTable::new(),
                loads: Loads::new(self.max_tracked),
                counters: Counters::default(),
                bounds,
                weigher: self.weigher,
                cleaner: Mutex::new(None),
            }),
        }
    }
}

#[cfg_attr(not(feature = "remote"), allow(dead_code))]
impl<V: ?Sized> LocalCacheBuilder<V> {
    pub(crate) fn report_hits(mut self, report: bool) -> Self {
        self.report_hits = report;
        self
    }
}

#[cfg(all(test, not(shuttle)))]
impl<V: ?Sized> LocalCacheBuilder<V> {
    pub(super) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl<V: ?Sized> fmt::Debug for LocalCacheBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCacheBuilder").finish_non_exhaustive()
    }
}
