//! The local tier: a bounded cache in this process, with tags, and no server behind it.
//!
//! ```
//! use std::time::Duration;
//! use tagcache::{Entry, LocalCache};
//!
//! # struct Page;
//! # fn render(_: u32) -> Page { Page }
//! let pages: LocalCache<Page> = LocalCache::builder()
//!     .max_entries(10_000)
//!     .max_bytes(64 << 20)
//!     .weigher(|_key, _page| 2_000)
//!     .build();
//! pages.start_cleanup(Duration::from_secs(60));
//!
//! // One thread renders the page, all who ask for it meanwhile get the same one.
//! let entry = Entry::ttl(Duration::from_secs(300)).tags(["tenant:7", "kind:page"]);
//! let page = pages.get_or_insert_with("/tenants/7/invoices", entry, || render(7));
//!
//! // The tenant's data has changed: all its pages are gone at once, those being rendered included.
//! pages.invalidate_tag("tenant:7");
//! assert!(pages.get("/tenants/7/invoices").is_none());
//! # let _ = page;
//! ```
//!
//! # What is promised
//!
//! - **Nothing out of date.** Once a call that removes, overwrites or invalidates has returned, no read that begins
//!   afterwards returns what was there before. That holds for values that were still being loaded, too: a value
//!   whose load began before an invalidation of its key, of one of its tags or of everything is given to those who
//!   asked before it, and is not stored. Loads are those of [`get_or_insert_with`](LocalCache::get_or_insert_with)
//!   and its like and those announced by [`reserve`](LocalCache::reserve); for a plain
//!   [`set`](LocalCache::set) only the caller can know how old the value is.
//! - **Time.** A value is fresh before, not at, the end of its TTL, by the monotonic clock; setting the wall clock
//!   changes nothing, and on systems whose monotonic clock stands still while the machine sleeps, so does the TTL. A TTL of zero stores nothing, one of more than 584 years never ends. After that, and after
//!   [`revalidate_tag`](LocalCache::revalidate_tag), a value is stale for its [grace](crate::Entry::grace), in which only
//!   [`get_stale`](LocalCache::get_stale) returns it.
//! - **Bounds.** Never more than `max_entries` entries, never more than `max_bytes` bytes of weight, at any moment.
//!   Eviction is `quick_cache`'s: scan-resistant, by recency and frequency. The memory of tags is bounded by twice
//!   the tags that entries carry (or about a thousand tags), that of hit counts by `max_tracked`.
//! - **One load a key.** Of all who miss a key at the same time, one loads.
//! - **Counts.** Hits and misses are exact; [`top_accessed_keys`](LocalCache::top_accessed_keys) says what it
//!   guarantees for single keys.
//! - **No lock is held while code of yours runs**: not while a value is loaded, weighed or dropped. All of these may
//!   use the cache.
//!
//! What expired or was invalidated is never served, but stays in memory until its key is read or written, until it
//! is evicted, or until [`run_cleanup`](LocalCache::run_cleanup), by hand or in the background.
//!
//! # What it costs
//!
//! A hit: one hash lookup in one shard under its shared lock, a comparison of epochs for the cache and for each tag,
//! one look at the clock (on Linux a coarse one, until the last tenth of a second before the TTL ends), and three relaxed additions (the entry's hits, the thread's hits, the shared pointer). An
//! invalidation by tag is one lookup of the tag and two stores, whatever the number of entries. An entry needs about
//! 200 bytes beside its key, its value and 16 bytes for each tag. `benches/RESULTS.md` in the repository has
//! measurements against other caches, and `make bench-local` takes them again.
//!
//! # From the guide's cache service
//!
//! The calls of the `cacheService` that the memory optimization guide brings in, and what stands for them here. Times
//! are [`Duration`](std::time::Duration)s instead of milliseconds, and `None` stands for `null`.
//!
//! | old call | new call |
//! |---|---|
//! | `new UnifiedCacheService()` | [`LocalCache::default()`](LocalCache::default): 100 entries, 200 tracked keys |
//! | `import { cacheService }` (one for the program) | `static CACHE: LazyLock<LocalCache<V>> = LazyLock::new(LocalCache::default)` |
//! | `cacheService.set(key, value, 60000)` | [`cache.set(key, value, Duration::from_secs(60), [])`](LocalCache::set) |
//! | `cacheService.set(key, value, 60000, ['tag-a'])` | [`cache.set(key, value, Duration::from_secs(60), ["tag-a"])`](LocalCache::set) |
//! | `cacheService.get(key)` | [`cache.get(key)`](LocalCache::get) |
//! | `if ((v = cacheService.get(key)) === null) { v = load(); cacheService.set(key, v, …) }` | [`cache.get_or_insert_with(key, entry, load)`](LocalCache::get_or_insert_with), which loads once for all who ask |
//! | `cacheService.invalidateByTag('tag-a')` | [`cache.invalidate_tag("tag-a")`](LocalCache::invalidate_tag) |
//! | `cacheService.invalidateAll()` | [`cache.invalidate_all()`](LocalCache::invalidate_all) |
//! | `cacheService.getTopAccessedKeys(10)`, `[0].key`, `[0].count` | [`cache.top_accessed_keys(10)`](LocalCache::top_accessed_keys), `[0].key`, `[0].hits` |
//! | `cacheService.getStats()`, `.totalEntries`, `.trackingEntries` | [`cache.stats()`](LocalCache::stats), `.entries`, `.tracked` |
//! | `MAX_CACHE_SIZE`, `MAX_TRACKING_SIZE` | [`max_entries`](LocalCacheBuilder::max_entries), [`max_tracked`](LocalCacheBuilder::max_tracked) of the builder |
//! | the cleanup timer, `stopCleanup()` | [`cache.start_cleanup(interval)`](LocalCache::start_cleanup), [`cache.stop_cleanup()`](LocalCache::stop_cleanup) |
//! | `cacheService['performCleanup']()` | [`cache.run_cleanup()`](LocalCache::run_cleanup) |
//!
//! ```
//! use std::{sync::LazyLock, time::Duration};
//! use serde_json::{Value, json};
//! use tagcache::LocalCache;
//!
//! static CACHE: LazyLock<LocalCache<Value>> = LazyLock::new(LocalCache::default);
//!
//! CACHE.set("dashboard:7", json!({"open": 3}), Duration::from_secs(60), ["tenant:7"]);
//! assert_eq!(CACHE.get("dashboard:7").as_deref(), Some(&json!({"open": 3})));
//! CACHE.invalidate_tag("tenant:7");
//! assert_eq!(CACHE.get("dashboard:7"), None);
//! ```
//!
//! # How it works
//!
//! Every invalidation takes the next number of one counter, the epoch, and leaves it as a mark: on a tag, or on the
//! whole. Every entry carries the epoch that was current when its value began to be loaded. An entry that is older
//! than a mark that concerns it is not served. So it does not matter how many entries a tag has, nor when a value
//! that was overtaken arrives.
//!
//! Keys have no marks, because there would be too many. Instead a load notes its key while it is under way, and who
//! removes or overwrites the key marks the load as overtaken.

mod bounds;
mod builder;
mod cache;
mod clock;
mod hits;
mod inner;
mod load;
mod loading;
mod loads;
mod marks;
mod report;
mod stats;
mod stored;
mod sync;
mod tags;

#[cfg(all(test, not(shuttle)))]
mod model_tests;
#[cfg(all(test, shuttle))]
mod shuttle_tests;

pub use self::{
    builder::LocalCacheBuilder,
    cache::LocalCache,
    loading::Reservation,
    stats::{EntryInfo, LocalStats, TopKey},
};
#[cfg(feature = "remote")]
pub(crate) use self::{load::End, loading::Role, tags::TagSet};
