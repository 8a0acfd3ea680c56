//! What is measured: the same little cache on three libraries, and the keys they are asked for.
#![allow(dead_code, reason = "each bench uses its part of it")]

use std::{
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use rand_distr::{Distribution, Zipf};
use tagcache::{Entry, LocalCache};

/// Nothing expires while it is measured, but whether it has is always looked at.
const TTL: Duration = Duration::from_secs(3600);

pub(crate) type Value = Arc<[u8; 100]>;

/// Bytes of a value, shared pointer's counts not included.
pub(crate) const VALUE_BYTES: usize = 100;

pub(crate) fn value() -> Value {
    Arc::new([7; VALUE_BYTES])
}

/// One cache under measurement.
pub(crate) trait Contender: Send + Sync {
    fn name(&self) -> &'static str;
    /// The cache itself, for at most `entries`.
    fn create(&self, entries: usize) -> Box<dyn Under>;
}

/// A cache with keys of text, shared values and a TTL on each entry.
pub(crate) trait Under: Send + Sync {
    fn set(&self, key: &str);
    /// Looks up each of these: how many were found.
    fn get_all(&self, keys: &[&str]) -> usize;
    /// Looks up each of these and stores those that are missing: how many were missing.
    fn get_or_insert_all(&self, keys: &[&str]) -> usize;
}

/// `LocalCache` with this many tags on each entry.
pub(crate) struct Tagcache {
    pub(crate) tags: usize,
}

struct TagcacheUnder {
    cache: LocalCache<[u8; VALUE_BYTES]>,
    tags: &'static [&'static str],
}

impl Contender for Tagcache {
    fn name(&self) -> &'static str {
        match self.tags {
            0 => "LocalCache",
            _ => "LocalCache, 2 tags",
        }
    }

    fn create(&self, entries: usize) -> Box<dyn Under> {
        Box::new(TagcacheUnder {
            cache: LocalCache::new(entries),
            tags: &["tenant:7", "kind:page"][..self.tags],
        })
    }
}

impl Under for TagcacheUnder {
    fn set(&self, key: &str) {
        self.cache
            .set(key, [7; VALUE_BYTES], TTL, self.tags.iter().copied());
    }

    fn get_all(&self, keys: &[&str]) -> usize {
        keys.iter()
            .filter(|key| self.cache.get(key).is_some())
            .count()
    }

    fn get_or_insert_all(&self, keys: &[&str]) -> usize {
        let mut missing = 0;
        for key in keys {
            self.cache
                .get_or_insert_with(key, Entry::ttl(TTL).tags(self.tags), || {
                    missing += 1;
                    [7; VALUE_BYTES]
                });
        }
        missing
    }
}

/// `quick_cache` as it is, the end of each entry beside its value: what any cache on top of it has to do at least.
pub(crate) struct QuickCache;

struct QuickCacheUnder(quick_cache::sync::Cache<String, (Instant, Value)>);

impl Contender for QuickCache {
    fn name(&self) -> &'static str {
        "quick_cache + TTL check"
    }

    fn create(&self, entries: usize) -> Box<dyn Under> {
        Box::new(QuickCacheUnder(quick_cache::sync::Cache::new(entries)))
    }
}

impl QuickCacheUnder {
    fn get(&self, key: &str) -> Option<Value> {
        let (end, value) = self.0.get(key)?;
        (Instant::now() < end).then_some(value)
    }
}

impl Under for QuickCacheUnder {
    fn set(&self, key: &str) {
        self.0.insert(key.into(), (Instant::now() + TTL, value()));
    }

    fn get_all(&self, keys: &[&str]) -> usize {
        keys.iter().filter(|key| self.get(key).is_some()).count()
    }

    fn get_or_insert_all(&self, keys: &[&str]) -> usize {
        let mut missing = 0;
        for key in keys {
            let found = self.0.get_or_insert_with(*key, || {
                missing += 1;
                Ok::<_, ()>((Instant::now() + TTL, value()))
            });
            std::hint::black_box(found.is_ok_and(|(end, _)| Instant::now() < end));
        }
        missing
    }
}

/// `moka` with one of its expirations.
pub(crate) enum Moka {
    /// The cheapest: one TTL for all entries.
    TimeToLive,
    /// A TTL for each entry, as the others here have.
    Expiry,
}

struct MokaUnder(moka::sync::Cache<String, (Duration, Value)>);

/// The TTL that stands beside the value.
struct OwnTtl;

impl moka::Expiry<String, (Duration, Value)> for OwnTtl {
    fn expire_after_create(
        &self,
        _: &String,
        entry: &(Duration, Value),
        _: Instant,
    ) -> Option<Duration> {
        Some(entry.0)
    }

    fn expire_after_update(
        &self,
        _: &String,
        entry: &(Duration, Value),
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.0)
    }
}

impl Contender for Moka {
    fn name(&self) -> &'static str {
        match self {
            Self::TimeToLive => "moka, one TTL for all",
            Self::Expiry => "moka, TTL an entry",
        }
    }

    fn create(&self, entries: usize) -> Box<dyn Under> {
        let builder = moka::sync::Cache::builder().max_capacity(entries as u64);
        Box::new(MokaUnder(match self {
            Self::TimeToLive => builder.time_to_live(TTL).build(),
            Self::Expiry => builder.expire_after(OwnTtl).build(),
        }))
    }
}

impl Under for MokaUnder {
    fn set(&self, key: &str) {
        self.0.insert(key.into(), (TTL, value()));
    }

    fn get_all(&self, keys: &[&str]) -> usize {
        keys.iter()
            .filter(|key| self.0.get(**key).is_some())
            .count()
    }

    fn get_or_insert_all(&self, keys: &[&str]) -> usize {
        let mut missing = 0;
        for key in keys {
            std::hint::black_box(self.0.get_with_by_ref(*key, || {
                missing += 1;
                (TTL, value())
            }));
        }
        missing
    }
}

/// All of them: first what others are compared to, then `LocalCache`.
pub(crate) fn contenders() -> [Box<dyn Contender>; 5] {
    [
        Box::new(QuickCache),
        Box::new(Tagcache { tags: 0 }),
        Box::new(Tagcache { tags: 2 }),
        Box::new(Moka::TimeToLive),
        Box::new(Moka::Expiry),
    ]
}

/// `count` keys of 13 bytes.
pub(crate) fn keys(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("page:{i:08}")).collect()
}

/// `length` accesses to the keys, the n-th most popular with a probability of 1/n^`exponent`. Which keys are popular
/// has nothing to do with their order.
pub(crate) fn zipf(keys: &[String], exponent: f64, length: usize, seed: u64) -> Vec<&str> {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut by_rank: Vec<&str> = keys.iter().map(String::as_str).collect();
    by_rank.shuffle(&mut rng);
    let mut rng = SmallRng::seed_from_u64(seed);
    let ranks =
        Zipf::new(keys.len() as f64, exponent).expect("a positive exponent and at least one key");
    (0..length)
        .map(|_| by_rank[ranks.sample(&mut rng) as usize - 1])
        .collect()
}

/// What a piece of work took.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    /// From the common start to the last end.
    pub(crate) wall: Duration,
    /// Processor time, all threads together: what other programs on the machine hardly change.
    pub(crate) cpu: Duration,
}

/// Does `work` in as many threads as there are lists of accesses, each on its own.
pub(crate) fn time(threads: &[&[&str]], work: impl Fn(&[&str]) -> usize + Sync) -> Took {
    let start = Barrier::new(threads.len());
    let times: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = threads
            .iter()
            .map(|accesses| {
                scope.spawn(|| {
                    start.wait();
                    let begin = Instant::now();
                    let cpu = ThreadTime::now();
                    std::hint::black_box(work(accesses));
                    (begin, Instant::now(), cpu.elapsed())
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("it does not panic"))
            .collect()
    });
    let begin = times.iter().map(|(begin, ..)| *begin).min();
    let end = times.iter().map(|(_, end, _)| *end).max();
    Took {
        wall: begin
            .zip(end)
            .map_or(Duration::ZERO, |(begin, end)| end - begin),
        cpu: times.iter().map(|(.., cpu)| *cpu).sum(),
    }
}
