//! The two-tier cache with a server on the same machine: what a local hit costs against a round trip, and what a
//! load costs.
//!
//! ```text
//! make build && cargo bench -p tagcache-benches --bench two_tier
//! ```
//! At the end it prints how many times faster a local hit is than a round trip, and how it compares with a hit of a
//! `LocalCache`: measured in alternating samples in one run, the median of the ratios. `-- --ratios` does only that.
//! `-- --instructions` counts the instructions of both hits with valgrind's callgrind, which gives the same on every run.
#![allow(missing_docs, reason = "criterion's macros document nothing")]

mod contenders;

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use contenders::{keys, zipf};
use cpu_time::ThreadTime;
use criterion::{Criterion, criterion_group};
use tagcache::{Cache, Entry, LocalCache};
use tagcache_tests::{DEADLINE, Server};
use tokio::runtime::Runtime;

const VALUE: &str = "a value of a hundred bytes, which is what most of the other figures of this project were taken with....";

const LOCAL_ENTRIES: usize = 20_000;

/// A cache of two tiers, one that always asks the server, and what they run on.
struct World {
    runtime: Runtime,
    two_tier: Cache,
    server_only: Cache,
    _server: Server,
}

impl World {
    fn new() -> Self {
        let server = Server::start();
        let runtime = Runtime::new().expect("a runtime");
        let url = format!("redis://127.0.0.1:{}", server.port());
        let (two_tier, server_only) = runtime.block_on(async {
            let two_tier = Cache::builder(url.as_str())
                .local_max_entries(LOCAL_ENTRIES)
                .build()
                .await
                .expect("an address");
            let server_only = Cache::builder(url.as_str())
                .local_max_entries(0)
                .build()
                .await
                .expect("an address");
            two_tier.ready(DEADLINE).await.expect("a server of our own");
            server_only
                .ready(DEADLINE)
                .await
                .expect("a server of our own");
            two_tier
                .set("key", &VALUE.to_owned(), long())
                .await
                .expect("it is stored");
            while two_tier.stats().local.hits == 0 {
                let _: Option<String> = two_tier.get("key").await.expect("it is read");
            }
            (two_tier, server_only)
        });
        Self {
            runtime,
            two_tier,
            server_only,
            _server: server,
        }
    }

    fn read(&self, cache: &Cache, times: u64) -> Duration {
        self.runtime.block_on(async {
            let start = Instant::now();
            for _ in 0..times {
                let value: Option<String> = cache
                    .get(black_box("key"))
                    .await
                    .expect("a server of our own");
                assert!(black_box(value).is_some());
            }
            start.elapsed()
        })
    }
}

fn long() -> Entry {
    Entry::ttl(Duration::from_secs(3600))
}

fn reads(c: &mut Criterion) {
    let world = World::new();
    let mut group = c.benchmark_group("get");
    group.bench_function("local hit", |b| {
        b.iter_custom(|times| world.read(&world.two_tier, times));
    });
    group.bench_function("server round trip", |b| {
        b.iter_custom(|times| world.read(&world.server_only, times));
    });
    group.finish();

    let keys: Vec<String> = (0..100).map(|n| format!("many:{n}")).collect();
    world.runtime.block_on(async {
        for key in &keys {
            world
                .two_tier
                .set(key, &VALUE.to_owned(), long())
                .await
                .expect("it is stored");
        }
    });
    let many = |cache: &Cache, times: u64| {
        world.runtime.block_on(async {
            let start = Instant::now();
            for _ in 0..times {
                black_box(
                    cache
                        .get_many::<String>(&keys)
                        .await
                        .expect("a server of our own"),
                );
            }
            start.elapsed()
        })
    };
    let mut group = c.benchmark_group("get_many of 100");
    group.bench_function("local hits", |b| {
        b.iter_custom(|times| many(&world.two_tier, times));
    });
    group.bench_function("one round trip", |b| {
        b.iter_custom(|times| many(&world.server_only, times));
    });
    group.finish();
}

fn loads(c: &mut Criterion) {
    let world = World::new();
    let mut group = c.benchmark_group("get_or_load");
    let mut next = 0_u64;
    let entry = long().tags(["tag"]);
    group.bench_function("local hit", |b| {
        b.iter_custom(|times| {
            world.runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..times {
                    let loader = || async { Ok::<_, String>(VALUE.to_owned()) };
                    let value: String = world
                        .two_tier
                        .get_or_load("key", entry, loader)
                        .await
                        .expect("it is there");
                    black_box(value);
                }
                start.elapsed()
            })
        });
    });
    // Lease, loader (which takes no time) and write: two round trips.
    group.bench_function("miss, with 1 tag", |b| {
        b.iter_custom(|times| {
            world.runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..times {
                    next += 1;
                    let loader = || async { Ok::<_, String>(VALUE.to_owned()) };
                    let value: String = world
                        .two_tier
                        .get_or_load(&format!("load:{next}"), entry, loader)
                        .await
                        .expect("it is loaded");
                    black_box(value);
                }
                start.elapsed()
            })
        });
    });
    group.finish();
}

/// How many times faster a local hit is than a round trip, and how much slower than one of a `LocalCache`.
fn ratios() {
    let world = World::new();
    let (hits, trips) = (200_000, 1000);
    let each = |took: Duration, times: u64| took.as_secs_f64() / times as f64;
    let faster = spread(|| {
        let hit = each(world.read(&world.two_tier, hits), hits);
        each(world.read(&world.server_only, trips), trips) / hit
    });
    let [least, median, most] = faster;
    let reached = if median >= 200.0 {
        "reached"
    } else {
        "not reached"
    };
    println!(
        "a local hit is {median:.0} x faster than a round trip ({least:.0} to {most:.0} in 11 samples); \
         wanted 200: {reached}"
    );

    let one = keys(1);
    slower(
        &world,
        "of one key",
        &one,
        &vec![one[0].as_str(); hits as usize],
    );
    let many = keys(10_000);
    let accesses = zipf(&many, 0.99, hits as usize, 1);
    slower(&world, "of 10,000 keys by Zipf 0.99", &many, &accesses);
}

/// How much longer a hit of both tiers takes than one of a `LocalCache`, by the time that the thread has a processor: what
/// else runs on the machine counts less.
fn slower(world: &World, what: &str, held: &[String], accesses: &[&str]) {
    let local = hold_numbers(world, held);
    let [least, median, most] = spread(|| {
        let start = ThreadTime::now();
        hits_of_local(&local, accesses);
        let alone = start.elapsed();
        let start = ThreadTime::now();
        hits_of_both(world, accesses);
        start.elapsed().as_secs_f64() / alone.as_secs_f64()
    });
    let reached = if median <= 1.3 {
        "reached"
    } else {
        "not reached"
    };
    println!(
        "Cache::get {what} takes {median:.2} x as long as LocalCache::get ({least:.2} to {most:.2} in 11 samples); \
         wanted 1.3: {reached}"
    );
}

/// Not inlined, so that callgrind finds it by name.
#[inline(never)]
fn hits_of_local(local: &LocalCache<u64>, keys: &[&str]) {
    for key in keys {
        assert!(black_box(local.get(black_box(key))).is_some());
    }
}

/// Not inlined, so that callgrind finds it by name.
#[inline(never)]
fn hits_of_both(world: &World, keys: &[&str]) {
    world.runtime.block_on(async {
        for key in keys {
            let value: Option<u64> = world
                .two_tier
                .get(black_box(key))
                .await
                .expect("it is held");
            assert!(black_box(value).is_some());
        }
    });
}

/// Numbers under these keys, in a `LocalCache` and in both tiers.
fn hold_numbers(world: &World, keys: &[String]) -> LocalCache<u64> {
    let local: LocalCache<u64> = LocalCache::new(LOCAL_ENTRIES);
    let cache = &world.two_tier;
    for key in keys {
        local.set(key, 7, Duration::from_secs(3600), []);
        world.runtime.block_on(async {
            let stored = cache.set(key, &7_u64, long()).await;
            stored.expect("it is stored");
            let before = cache.stats().local.hits;
            while cache.stats().local.hits == before {
                let _: Option<u64> = cache.get(key).await.expect("it is read");
            }
        });
    }
    local
}

/// Instructions of one hit of each: the difference between two runs of this program.
fn instructions() {
    let program = std::env::current_exe().expect("this program");
    let run = |tier, times: u64| -> f64 {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .args([
                "--toggle-collect=*two_tier::hits_of_both",
                "--toggle-collect=*two_tier::hits_of_local",
                &program.to_string_lossy(),
            ])
            .args(["--hits", tier, &times.to_string()])
            .output()
            .expect("valgrind runs");
        let text = String::from_utf8_lossy(&output.stderr);
        let collected = text
            .rsplit_once("Collected : ")
            .map(|(_, rest)| rest.trim());
        let count = collected.and_then(|rest| rest.lines().next()?.trim().parse().ok());
        count.unwrap_or_else(|| panic!("callgrind said: {text}"))
    };
    let each = |tier| (run(tier, 40_000) - run(tier, 20_000)) / 20_000.0;
    let (local, both) = (each("LocalCache"), each("Cache"));
    println!(
        "instructions of a hit: LocalCache {local:.0}, Cache {both:.0}: {:.2} x",
        both / local
    );
}

/// Lowest, median and highest of 11 samples.
fn spread(sample: impl FnMut() -> f64) -> [f64; 3] {
    let mut samples: Vec<f64> = std::iter::repeat_with(sample).take(11).collect();
    samples.sort_by(f64::total_cmp);
    [samples[0], samples[5], samples[10]]
}

criterion_group!(benches, reads, loads);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, tier, times, ..] = args.as_slice()
        && flag == "--hits"
    {
        let times = times.parse().expect("a number of hits");
        let (world, one) = (World::new(), keys(1));
        let local = hold_numbers(&world, &one);
        let accesses = vec![one[0].as_str(); times];
        match tier.as_str() {
            "LocalCache" => hits_of_local(&local, &accesses),
            _ => hits_of_both(&world, &accesses),
        }
        return;
    }
    if args.iter().any(|arg| arg == "--instructions") {
        return instructions();
    }
    let only_ratios = args.iter().any(|arg| arg == "--ratios");
    if !only_ratios {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
    // `cargo test` runs benches once with `--test`, and a name picks some of them: then nobody asked for this.
    if only_ratios || args == ["--bench"] {
        ratios();
    }
}
