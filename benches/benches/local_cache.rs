//! The local tier against other in-process caches, by criterion: one contender after the other, each with its own
//! statistics. `cargo bench -p tagcache-benches --bench local_cache`
//!
//! On a shared machine the ratios of `local_ratios` are the more trustworthy ones.
#![forbid(unsafe_code)]

mod contenders;

use std::time::Duration;

use contenders::{contenders, keys, time, zipf};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const KEYS: usize = 100_000;
const ACCESSES: usize = 200_000;

fn hit(criterion: &mut Criterion) {
    let keys = keys(KEYS);
    for threads in [1, 2] {
        let accesses: Vec<_> = (0..threads)
            .map(|thread| zipf(&keys, 0.99, ACCESSES, thread))
            .collect();
        let traces: Vec<&[&str]> = accesses.iter().map(Vec::as_slice).collect();
        let mut group = criterion.benchmark_group(format!("hit, {threads} threads"));
        group.throughput(Throughput::Elements(ACCESSES as u64 * threads));
        for contender in contenders() {
            let under = contender.create(2 * KEYS);
            for key in &keys {
                under.set(key);
            }
            group.bench_function(BenchmarkId::from_parameter(contender.name()), |bencher| {
                bencher.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| time(&traces, |keys| under.get_all(keys)).wall)
                        .sum()
                });
            });
        }
    }
}

fn get_or_insert(criterion: &mut Criterion) {
    let keys = keys(10 * KEYS);
    for threads in [1, 2] {
        let accesses: Vec<_> = (0..threads)
            .map(|thread| zipf(&keys, 0.99, ACCESSES, thread))
            .collect();
        let traces: Vec<&[&str]> = accesses.iter().map(Vec::as_slice).collect();
        let mut group = criterion.benchmark_group(format!("get or insert, {threads} threads"));
        group.throughput(Throughput::Elements(ACCESSES as u64 * threads));
        for contender in contenders() {
            let under = contender.create(KEYS);
            time(&traces, |keys| under.get_or_insert_all(keys));
            group.bench_function(BenchmarkId::from_parameter(contender.name()), |bencher| {
                bencher.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| time(&traces, |keys| under.get_or_insert_all(keys)).wall)
                        .sum()
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = hit, get_or_insert
}
criterion_main!(benches);
