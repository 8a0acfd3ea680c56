//! What the memory monitor costs at one sample a second: processor time of this process, which does nothing else, as
//! a part of the wall clock. `cargo bench -p tagcache-benches --bench monitor`
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use tagcache::memory::{MemoryMonitor, MemoryUsage, ProcessSource};

/// Pieces of which every second one is given back: what glibc then has to walk through.
const PIECES: usize = 200_000;
const LASTS: Duration = Duration::from_secs(60);

fn main() {
    println!("One sample a second for {} s:", LASTS.as_secs());
    report("small heap");
    let mut pieces: Vec<Option<Vec<u8>>> =
        (0..PIECES).map(|i| Some(vec![1; 600 + i % 400])).collect();
    for piece in pieces.iter_mut().step_by(2) {
        *piece = None;
    }
    report("100,000 free pieces in the heap");
    drop(black_box(pieces));
}

fn report(heap: &str) {
    let start = ProcessTime::now();
    black_box(MemoryUsage::of_this_process());
    let one = start.elapsed();
    let monitor = MemoryMonitor::builder(ProcessSource::default())
        .interval(Duration::from_secs(1))
        .start()
        .expect("an interval in range");
    let (cpu, wall) = (ProcessTime::now(), Instant::now());
    std::thread::sleep(LASTS);
    let share = cpu.elapsed().as_secs_f64() / wall.elapsed().as_secs_f64();
    println!(
        "  {heap}: {:.4} % of a core, {} samples; one full reading {:.3} ms",
        share * 100.0,
        monitor.history().len(),
        one.as_secs_f64() * 1000.0
    );
}
