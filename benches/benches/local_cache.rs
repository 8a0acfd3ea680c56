//! The local tier against other in-process caches, by criterion: one contender after the other, each with its own
//! statistics; and what it takes to drop a tag. `cargo bench -p tagcache-benches --bench local_cache`, two to four
//! minutes.
//!
//! On a shared machine the ratios of `local_ratios` are the more trustworthy ones; it also measures memory.
#![forbid(unsafe_code)]

mod contenders;

use std::time::Duration;

use contenders::{Contender, Under, VALUE_BYTES, contenders, keys, time, zipf};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use tagcache::LocalCache;

const KEYS: usize = 100_000;
/// Accesses of each thread in one iteration.
const ACCESSES: usize = 100_000;

/// Measures `work` on each contender that `create` makes, with one and with two threads.
fn compare(
    criterion: &mut Criterion,
    what: &str,
    keys: &[String],
    create: impl Fn(&dyn Contender, &[&[&str]]) -> Box<dyn Under>,
    work: impl Fn(&dyn Under, &[&str]) -> usize + Sync,
) {
    for threads in [1, 2] {
        let accesses: Vec<_> = (0..threads)
            .map(|thread| zipf(keys, 0.99, ACCESSES, thread))
            .collect();
        let traces: Vec<&[&str]> = accesses.iter().map(Vec::as_slice).collect();
        let mut group = criterion.benchmark_group(format!("{what}, {threads} threads"));
        group.throughput(Throughput::Elements(ACCESSES as u64 * threads));
        // An iteration takes some ten milliseconds: there is no need for more and more of them in a sample.
        group.sampling_mode(SamplingMode::Flat);
        for contender in contenders() {
            let under = create(&*contender, &traces);
            group.bench_function(BenchmarkId::from_parameter(contender.name()), |bencher| {
                bencher.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| time(&traces, |keys| work(&*under, keys)).wall)
                        .sum()
                });
            });
        }
    }
}

/// All keys are there.
fn hit(criterion: &mut Criterion) {
    let keys = keys(KEYS);
    let create = |contender: &dyn Contender, _: &[&[&str]]| {
        let under = contender.create(2 * KEYS);
        for key in &keys {
            under.set(key);
        }
        under
    };
    compare(criterion, "hit", &keys, create, |under, keys| {
        under.get_all(keys)
    });
}

/// A tenth of the keys fit.
fn get_or_insert(criterion: &mut Criterion) {
    let keys = keys(10 * KEYS);
    let create = |contender: &dyn Contender, traces: &[&[&str]]| {
        let under = contender.create(KEYS);
        time(traces, |keys| under.get_or_insert_all(keys));
        under
    };
    compare(criterion, "get or insert", &keys, create, |under, keys| {
        under.get_or_insert_all(keys)
    });
}

/// A tag that a million entries carry takes no longer than one that ten carry. The entries are not reclaimed in
/// between: they go on carrying it.
fn drop_tag(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("drop a tag");
    for entries in [10, 1_000_000] {
        let cache: LocalCache<[u8; VALUE_BYTES]> = LocalCache::new(entries + entries / 8 + 10);
        for key in &keys(entries) {
            cache.set(key, [7; VALUE_BYTES], Duration::MAX, ["tag"]);
        }
        group.bench_function(BenchmarkId::new("entries", entries), |bencher| {
            bencher.iter(|| cache.invalidate_tag("tag"));
        });
        assert_eq!(cache.len(), entries);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = hit, get_or_insert, drop_tag
}
criterion_main!(benches);
