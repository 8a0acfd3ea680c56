//! The local tier against other in-process caches, in samples that alternate.
//! `cargo bench -p tagcache-benches --bench local_ratios`, with `-- --quick` for a short look.
//!
//! A shared machine is seldom equally fast for a minute, but mostly for a second. So what is compared is the ratio of
//! two samples of the same round, and the figures are medians over the rounds. Nothing is asserted about them.
#![forbid(unsafe_code)]

mod contenders;

use std::time::{Duration, Instant};

use contenders::{Contender, Took, Under, VALUE_BYTES, contenders, keys, time, zipf};
use tagcache::{LocalCache, memory::MemoryUsage};

/// Sizes of the caches whose hits are measured: in and beyond what a processor keeps near itself.
const SIZES: [usize; 2] = [10_000, 100_000];

/// Entries of the caches that are too small for all keys.
const KEYS: usize = 100_000;

/// Accesses of a thread in one sample: some ten milliseconds.
const SAMPLE: usize = 100_000;

/// Samples before the accesses are the same again.
const WINDOWS: usize = 10;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 10 } else { 40 };
    println!(
        "Keys of 13 bytes, values of {VALUE_BYTES} bytes, a TTL on all, accesses by Zipf 0.99; {rounds} rounds, \
         load average before {}\n",
        load_average()
    );
    for size in SIZES {
        hits(size, rounds);
    }
    loads(rounds);
    memory();
    tags();
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

fn hits(size: usize, rounds: usize) {
    let keys = keys(size);
    let caches: Vec<Cache> = contenders()
        .into_iter()
        .map(|contender| {
            let cache = contender.create(2 * size);
            for key in &keys {
                cache.set(key);
            }
            (contender, cache)
        })
        .collect();
    for threads in [1, 2] {
        println!("**Hit, {size} resident keys, {threads} threads**\n");
        alternate(&caches, rounds, &traces(&keys, threads), |cache, keys| {
            cache.get_all(keys)
        });
    }
}

fn loads(rounds: usize) {
    let keys = keys(10 * KEYS);
    for threads in [1, 2] {
        let traces = traces(&keys, threads);
        let caches: Vec<Cache> = contenders()
            .into_iter()
            .map(|contender| {
                let cache = contender.create(KEYS);
                (contender, cache)
            })
            .collect();
        println!("**Get or insert, a tenth of the keys fit, {threads} threads**\n");
        for (contender, cache) in &caches {
            // Twice: into an empty cache, and with what it has kept of that.
            let missing = [(); 2].map(|()| {
                let missing = traces.iter().map(|keys| cache.get_or_insert_all(keys));
                missing.sum::<usize>()
            });
            let share = 100.0 * missing[1] as f64 / (threads * SAMPLE * WINDOWS) as f64;
            println!("- {}: {share:.1} % missing", contender.name());
        }
        println!();
        alternate(&caches, rounds, &traces, |cache, keys| {
            cache.get_or_insert_all(keys)
        });
    }
}

fn traces(keys: &[String], threads: usize) -> Vec<Vec<&str>> {
    (0..threads)
        .map(|thread| zipf(keys, 0.99, SAMPLE * WINDOWS, thread as u64))
        .collect()
}

type Cache = (Box<dyn Contender>, Box<dyn Under>);

/// Runs all caches once a round, and prints their time an access and the ratio to the first one.
fn alternate(
    caches: &[Cache],
    rounds: usize,
    traces: &[Vec<&str>],
    work: impl Fn(&dyn Under, &[&str]) -> usize + Sync,
) {
    let accesses = traces.len() * SAMPLE;
    let mut took = vec![Vec::new(); caches.len()];
    // The first round only warms up.
    for round in 0..=rounds {
        // The others have pushed this one out of the processor's caches: it may come back before it is measured.
        let [before, measured] = [round, round + 1].map(|window| -> Vec<&[&str]> {
            let begin = window % WINDOWS * SAMPLE;
            let window = begin..begin + SAMPLE;
            traces.iter().map(|keys| &keys[window.clone()]).collect()
        });
        for (index, (_, cache)) in caches.iter().enumerate() {
            time(&before, |keys| work(&**cache, keys));
            let sample = time(&measured, |keys| work(&**cache, keys));
            if round > 0 {
                took[index].push(sample);
            }
        }
    }
    println!(
        "| | ns each | ratio | lowest | highest | CPU ns each | by CPU | times LocalCache, by CPU |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|"
    );
    let ratios = |index: usize, base: usize, seconds: fn(&Took) -> f64| {
        let samples = took[index].iter().zip(&took[base]);
        spread(samples.map(|(one, base)| seconds(one) / seconds(base)))
    };
    let wall = |took: &Took| took.wall.as_secs_f64();
    let cpu = |took: &Took| took.cpu.as_secs_f64();
    for (index, (contender, _)) in caches.iter().enumerate() {
        let (low, ratio, high) = ratios(index, 0, wall);
        let each = 1e9 / accesses as f64;
        println!(
            "| {} | {:.0} | {ratio:.2} | {low:.2} | {high:.2} | {:.0} | {:.2} | {:.2} |",
            contender.name(),
            spread(took[index].iter().map(wall)).1 * each,
            spread(took[index].iter().map(cpu)).1 * each,
            ratios(index, 0, cpu).1,
            ratios(index, 1, cpu).1,
        );
    }
    println!();
}

/// Lowest, median, highest.
fn spread(figures: impl IntoIterator<Item = f64>) -> (f64, f64, f64) {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let last = figures.len() - 1;
    (figures[0], figures[last / 2], figures[last])
}

fn allocated() -> u64 {
    MemoryUsage::of_this_process()
        .heap_used
        .expect("the allocator tells what is allocated")
}

fn memory() {
    const ENTRIES: usize = 1_000_000;
    let keys = keys(ENTRIES);
    println!("**Memory an entry, {ENTRIES} entries in a cache made for them**\n");
    println!("| | bytes allocated an entry | beyond key and value |\n|---|---:|---:|");
    for contender in contenders() {
        let before = allocated();
        let cache = contender.create(ENTRIES + ENTRIES / 8);
        for key in &keys {
            cache.set(key);
        }
        let entry = allocated().saturating_sub(before) as f64 / ENTRIES as f64;
        let own = entry - (keys[0].len() + VALUE_BYTES) as f64;
        println!("| {} | {entry:.0} | {own:.0} |", contender.name());
        drop(cache);
    }
    println!();
}

/// What it takes to drop a tag that a million entries carry, and one that ten carry.
fn tags() {
    const ROUNDS: usize = 7;
    println!("**Dropping a tag, {ROUNDS} rounds**\n");
    println!(
        "| entries with the tag | drop, us | first read after it, us | cleanup, ms |\n|---:|---:|---:|---:|"
    );
    for entries in [10, 1_000_000] {
        let keys = keys(entries);
        let cache: LocalCache<[u8; VALUE_BYTES]> = LocalCache::new(entries + entries / 8 + 10);
        let (mut drops, mut reads, mut cleanups) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for key in &keys {
                cache.set(key, [7; VALUE_BYTES], Duration::from_secs(3600), ["tag"]);
            }
            let begin = Instant::now();
            cache.invalidate_tag("tag");
            drops.push(begin.elapsed().as_secs_f64() * 1e6);
            let begin = Instant::now();
            assert!(cache.get(&keys[0]).is_none());
            reads.push(begin.elapsed().as_secs_f64() * 1e6);
            let begin = Instant::now();
            cache.run_cleanup();
            cleanups.push(begin.elapsed().as_secs_f64() * 1e3);
            assert!(cache.is_empty());
        }
        println!(
            "| {entries} | {:.2} | {:.2} | {:.2} |",
            spread(drops).1,
            spread(reads).1,
            spread(cleanups).1
        );
    }
    println!();
}
