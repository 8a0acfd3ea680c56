//! One process of the fleet: readers, writers and loaders on one cache, and their records.

mod acts;
mod stalls;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use acts::Worker;
use clap::{Args, ValueEnum};
use tagcache::{Cache, CacheBuilder, Codec, Entry, Json, Servers};
use tagcache_tests::{DEADLINE, Rng};

use crate::log::{Event, HELD, Record, Span, now, write};
use crate::naive::Naive;

pub(crate) const KEYS: usize = 400;
pub(crate) const TAGS: usize = 32;
pub(crate) const PROCESSES: u64 = 3;
const TASKS: u64 = 7;
/// Tasks of each process that request the same key at the same time.
const CALLERS: usize = 2;

pub(crate) const PROBE: Duration = Duration::from_millis(300);
pub(crate) const COMMAND: Duration = Duration::from_secs(2);
pub(crate) const LOAD: Duration = Duration::from_secs(4);

/// The protection that a process lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Without {
    Nothing,
    /// For comparison with the next one: replies enter the local tier late enough for many to be overtaken.
    Haste,
    /// The rule by which a reply that was overtaken does not enter the local tier.
    Order,
    /// Leases: each caller that misses loads.
    Leases,
    /// Short time-outs.
    Timeouts,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Task {
    /// `single`, `sentinel` or `cluster`, and ports
    #[arg(long)]
    pub(crate) servers: String,
    #[arg(long)]
    pub(crate) number: u64,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long, value_enum)]
    pub(crate) without: Without,
    /// Directory of the records, and of files that mark the end of something
    #[arg(long)]
    pub(crate) dir: PathBuf,
}

impl Task {
    pub(crate) fn records(&self) -> PathBuf {
        self.dir.join(format!("records-{}", self.number))
    }

    /// Exists when the process is connected.
    pub(crate) fn ready(&self) -> PathBuf {
        self.dir.join(format!("ready-{}", self.number))
    }

    /// Exists when the process has written enough for a run to be meaningful, however busy the machine is.
    pub(crate) fn worked(&self) -> PathBuf {
        self.dir.join(format!("worked-{}", self.number))
    }

    /// Exists when the process has finished its work and changes nothing any more.
    fn done(&self, number: u64) -> PathBuf {
        self.dir.join(format!("done-{number}"))
    }

    fn builder(&self) -> CacheBuilder {
        let (kind, ports) = self
            .servers
            .split_once(':')
            .expect("servers and their ports");
        let urls = ports
            .split(',')
            .map(|port| format!("redis://127.0.0.1:{port}"));
        let servers = match kind {
            "sentinel" => Servers::sentinel("cache", urls),
            "cluster" => Servers::cluster(urls),
            _ => urls.collect::<Vec<_>>().remove(0).into(),
        };
        let times = if self.without == Without::Timeouts {
            60
        } else {
            1
        };
        Cache::builder(servers)
            .connect_timeout(Duration::from_secs(1))
            .probe(PROBE, 2 * PROBE * times)
            .command_timeout(COMMAND * times)
            .load_timeout(LOAD)
    }
}

/// The least number of values that each process writes in a run.
const ENOUGH: u64 = 100;

/// Exists when the fleet is to end.
pub(crate) const STOP: &str = "stop";

/// JSON that is decoded slowly, which delays the entry of a reply into the local tier.
#[derive(Clone, Copy, Debug)]
struct Slow(Duration);

impl<T> Codec<T> for Slow
where
    Json: Codec<T>,
{
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Json.encode(value)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
        if !self.0.is_zero() {
            // Other tasks go on meanwhile, those that handle pushes among them.
            tokio::task::block_in_place(|| std::thread::sleep(self.0));
        }
        Json.decode(bytes)
    }
}

/// The delay between a reply and its entry into the local tier, where that is to take long.
const LATE: Duration = Duration::from_millis(40);

/// A value by its number, with some padding so that memory can run out.
fn value_of(number: u64) -> String {
    format!("{number:020}{}", "x".repeat(200))
}

pub(crate) fn number_of(value: &str) -> u64 {
    value[..20].parse().expect("one of our values")
}

pub(crate) fn key_name(key: u32) -> String {
    format!("key{key}")
}

pub(crate) fn tag_names(tags: u32) -> Vec<String> {
    let set = (0..TAGS).filter(|tag| tags & (1 << tag) != 0);
    set.map(|tag| format!("tag{tag}")).collect()
}

/// Works until the stop file exists.
pub(crate) fn run(task: &Task) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .expect("a runtime");
    let stop = Arc::new(AtomicBool::new(false));
    let watched = std::thread::spawn({
        let (task, stop) = (task.clone(), Arc::clone(&stop));
        move || stalls::watch(&task, &stop)
    });
    let mut records = runtime.block_on(work(task, &stop));
    records.extend(watched.join().expect("nothing panics there"));
    write(&task.records(), &records);
}

async fn work(task: &Task, stop: &AtomicBool) -> Vec<Record> {
    let delay = match task.without {
        Without::Haste => LATE,
        Without::Order => Duration::ZERO,
        _ => Duration::from_millis(2),
    };
    let mut building = task.builder().codec(Slow(delay));
    let naive = if task.without == Without::Order {
        building = building.local_max_entries(0);
        let port = task.servers.split(':').nth(1).expect("a port");
        Some(Naive::start(port, LATE * 5).await)
    } else {
        None
    };
    let cache = building.build().await.expect("settings that can work");
    cache.ready(DEADLINE).await.expect("servers that answer");
    std::fs::write(task.ready(), "").expect("a file in the parent's directory");
    let values = Arc::new(AtomicU64::new(first_value(task)));
    let tasks = if matches!(task.without, Without::Haste | Without::Order) {
        5 * TASKS
    } else {
        TASKS
    };
    let workers = (0..tasks).map(|n| Worker {
        task: task.clone(),
        cache: cache.clone(),
        naive: naive.clone(),
        rng: Rng::new(task.seed ^ (task.number << 8 | n)),
        values: Arc::clone(&values),
        records: Vec::new(),
    });
    let workers: Vec<Worker> = workers.collect();
    let mut running = Vec::new();
    for (n, worker) in workers.into_iter().enumerate() {
        let busy = n >= CALLERS || naive.is_some();
        running.push(if busy {
            tokio::spawn(worker.work())
        } else {
            tokio::spawn(worker.load_expired_keys())
        });
    }
    let mut records = pulses(task, &cache, &values, stop).await;
    for worker in running {
        records.extend(worker.await.expect("no operation panics"));
    }
    std::fs::write(task.done(task.number), "").expect("a file in the parent's directory");
    let start = Instant::now();
    while !(1..=PROCESSES).all(|number| task.done(number).exists()) && start.elapsed() < DEADLINE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if let Some(naive) = naive {
        records.extend(held(task, &naive).await);
    } else {
        records.extend(afterwards(task, &cache).await);
    }
    let stats = cache.stats();
    eprintln!(
        "process {}: {} records, {} hits in the local tier, {} entered, {} overtaken, {} connections lost, {} keys and {} \
         tags pushed",
        task.number,
        records.len(),
        stats.local.hits,
        stats.entered,
        stats.overtaken,
        stats.connections_lost,
        stats.keys_pushed,
        stats.tags_pushed,
    );
    records
}

/// No two processes write the same value.
fn first_value(task: &Task) -> u64 {
    task.number << 32
}

/// Notes repeatedly whether everything works.
async fn pulses(
    task: &Task,
    cache: &Cache<Slow>,
    values: &AtomicU64,
    stop: &AtomicBool,
) -> Vec<Record> {
    let mut records = Vec::new();
    let (key, tag) = (
        format!("pulse{}", task.number),
        format!("beat{}", task.number),
    );
    while !stop.load(Ordering::Relaxed) {
        let mut start = now();
        let entry = Entry::ttl(Duration::from_secs(60)).tags([&tag]);
        let mut done = cache.set(&key, &value_of(0), entry).await.is_ok();
        if done {
            start = now();
            done = cache.invalidate_tags([&tag]).await.is_ok();
        }
        records.push(Record {
            process: task.number,
            span: Span { start, end: now() },
            done,
            event: Event::Pulse,
        });
        if values.load(Ordering::Relaxed) - first_value(task) >= ENOUGH {
            std::fs::write(task.worked(), "").expect("a file in the parent's directory");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    records
}

/// The values that are still held when all has been quiet for longer than a push may take.
async fn held(task: &Task, naive: &Naive) -> Vec<Record> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut records = Vec::new();
    for key in 0..KEYS as u32 {
        let start = now();
        let value = naive.held_value(&key_name(key));
        records.push(Record {
            process: task.number,
            span: Span { start, end: now() },
            done: value.is_some(),
            event: Event::Read {
                key,
                value: value.as_deref().map(number_of),
                loading: true,
            },
        });
    }
    records.retain(|record| record.done);
    records
}

/// When all is quiet, no process may hold values that the servers do not.
async fn afterwards(task: &Task, cache: &Cache<Slow>) -> Vec<Record> {
    let plain = task
        .builder()
        .codec(Slow(Duration::ZERO))
        .local_max_entries(0);
    let plain = plain.build().await.expect("settings that can work");
    plain.ready(DEADLINE).await.expect("servers that answer");
    let mut keys: Vec<u32> = (0..KEYS as u32).collect();
    // A value may expire between two reads.
    for _ in 0..4 {
        let (here, there) = (get(cache, &keys).await, get(&plain, &keys).await);
        let pairs = keys.into_iter().zip(here).zip(there);
        let differing = pairs.filter(|((_, here), there)| here != there);
        keys = differing.map(|((key, _), _)| key).collect();
        if keys.is_empty() {
            break;
        }
        tokio::time::sleep(PROBE).await;
    }
    let held = |key| {
        let start = now();
        Record {
            process: task.number,
            span: Span { start, end: start },
            done: true,
            event: Event::Read {
                key,
                value: Some(HELD),
                loading: true,
            },
        }
    };
    keys.into_iter().map(held).collect()
}

/// The values, as soon as the server replies; without a reply for long, none is held.
async fn get(cache: &Cache<Slow>, keys: &[u32]) -> Vec<Option<u64>> {
    for _ in 0..20 {
        let names = keys.iter().map(|key| key_name(*key));
        if let Ok(values) = cache.get_many::<String>(names).await {
            return values
                .iter()
                .map(|value| value.as_deref().map(number_of))
                .collect();
        }
        tokio::time::sleep(PROBE).await;
    }
    vec![None; keys.len()]
}
