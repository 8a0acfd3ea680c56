//! What a sample of the memory monitor costs: at one a second, 100 µs are 0.01 % of a core.
//! `cargo bench -p tagcache-benches --bench monitor`
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tagcache::memory::{MemoryMonitor, MemoryUsage, ProcessSource};

/// Pieces between which every second one is given back: what glibc then has to walk through.
const PIECES: usize = 200_000;

fn sample(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memory");
    group.bench_function("of this process", |bencher| {
        bencher.iter(|| black_box(MemoryUsage::of_this_process()));
    });
    let monitor = MemoryMonitor::builder(ProcessSource::default())
        .interval(Duration::from_secs(3600))
        .start()
        .expect("an interval in range");
    group.bench_function("monitor, ring of 360", |bencher| {
        bencher.iter(|| black_box(monitor.sample_now()));
    });
    let mut pieces: Vec<Option<Vec<u8>>> =
        (0..PIECES).map(|i| Some(vec![1; 600 + i % 400])).collect();
    for piece in pieces.iter_mut().step_by(2) {
        *piece = None;
    }
    group.bench_function("monitor, 100,000 free pieces in the heap", |bencher| {
        bencher.iter(|| black_box(monitor.sample_now()));
    });
    drop(black_box(pieces));
}

criterion_group!(benches, sample);
criterion_main!(benches);
