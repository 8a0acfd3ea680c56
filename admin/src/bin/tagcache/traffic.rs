//! Reads, writes and invalidations as an application makes them: popular keys are read more often, a miss is loaded and
//! stored with tags, and a tag is invalidated now and then. The entries are dropped at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::{Connection, RedisResult, cmd};

use crate::connect::wrong_url;
use crate::output::Failure;

/// A worker invalidates a tag after this many reads.
const READS_AN_INVALIDATION: u64 = 2_000;
/// Keys share this many tags.
const TAGS: u32 = 200;
/// TTL of the entries, in case the program is killed before it drops them.
const TTL_S: u32 = 300;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Commands per round trip while the cache is filled.
const FILL_BATCH: usize = 500;

/// The options of a run.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    pub(crate) redis: String,
    pub(crate) connections: u32,
    pub(crate) keys: u32,
    pub(crate) value_bytes: u32,
    pub(crate) until: Until,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// Run for this time.
    Time(Duration),
    /// Run until this many reads.
    Reads(u64),
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) reads: u64,
    pub(crate) hits: u64,
    pub(crate) invalidations: u64,
    pub(crate) took: Duration,
    /// Round trips of all commands, in microseconds.
    pub(crate) latencies: Histogram<u64>,
    /// The reason why the run ended early, if it did; the counts until then are valid.
    pub(crate) failed: Option<Failure>,
}

impl Outcome {
    pub(crate) fn hit_percent(&self) -> Option<f64> {
        (self.reads > 0).then(|| self.hits as f64 * 100.0 / self.reads as f64)
    }
}

/// Progress of the run, for the display.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    reads: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Ends the run early.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Work that runs in the background.
pub(crate) struct Running {
    pub(crate) progress: Arc<Progress>,
    threads: Vec<std::thread::JoinHandle<(Worker, RedisResult<()>)>>,
    started: Instant,
    redis: String,
}

impl Traffic {
    /// Stores every key once, so that the run begins with a full cache.
    pub(crate) fn fill(&self) -> Result<(), Failure> {
        let mut connection = connect(&self.redis)?;
        let filled = self.fill_through(&mut connection);
        if filled.is_err() {
            // If the server is full, the entries that did fit are dropped.
            let _ = sweep(&mut connection);
        }
        Ok(filled?)
    }

    fn fill_through(&self, connection: &mut Connection) -> RedisResult<()> {
        let value = vec![b'x'; self.value_bytes as usize];
        let own = own_tag();
        for first in (0..self.keys).step_by(FILL_BATCH) {
            let mut pipe = redis::pipe();
            let last = first.saturating_add(FILL_BATCH as u32).min(self.keys);
            for i in first..last {
                pipe.add_command(set(&own, i, &value)).ignore();
            }
            pipe.exec(connection)?;
        }
        Ok(())
    }

    pub(crate) fn start(self) -> Result<Running, Failure> {
        let progress: Arc<Progress> = Arc::default();
        let started = Instant::now();
        let mut threads = Vec::new();
        for i in 0..self.connections {
            let connection = connect(&self.redis)?;
            let traffic = self.clone();
            let progress = Arc::clone(&progress);
            // The same keys in the same order each time, so that runs can be compared.
            let rng = fastrand::Rng::with_seed(u64::from(i) + 1);
            threads.push(std::thread::spawn(move || {
                let mut worker = Worker::new(connection, rng);
                let result = worker.run(&traffic, &progress, started);
                if result.is_err() {
                    progress.stop();
                }
                (worker, result)
            }));
        }
        Ok(Running {
            progress,
            threads,
            started,
            redis: self.redis,
        })
    }
}

impl Running {
    pub(crate) fn is_over(&self) -> bool {
        self.threads
            .iter()
            .all(std::thread::JoinHandle::is_finished)
    }

    /// Waits for the end.
    pub(crate) fn outcome(self) -> Outcome {
        let mut all = Outcome {
            reads: 0,
            hits: 0,
            invalidations: 0,
            took: Duration::ZERO,
            latencies: histogram(),
            failed: None,
        };
        for thread in self.threads {
            let Ok((worker, result)) = thread.join() else {
                all.failed = Some(Failure::Because("a worker panicked".into()));
                continue;
            };
            all.reads += worker.reads;
            all.hits += worker.hits;
            all.invalidations += worker.invalidations;
            let _ = all.latencies.add(&worker.latencies);
            if let Err(error) = result {
                all.failed = Some(error.into());
            }
        }
        all.took = self.started.elapsed();
        let swept = connect(&self.redis).and_then(|mut connection| Ok(sweep(&mut connection)?));
        if let Err(failure) = swept {
            all.failed.get_or_insert(failure);
        }
        all
    }
}

pub(crate) fn connect(redis: &str) -> Result<Connection, Failure> {
    let client = redis::Client::open(redis).map_err(|error| wrong_url(&error))?;
    let connection = client.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    Ok(connection)
}

/// The tag of all entries that this process stores, and of no others.
pub(crate) fn own_tag() -> String {
    format!("tagcache:load:{}", std::process::id())
}

fn set(own: &str, i: u32, value: &[u8]) -> redis::Cmd {
    let mut set = cmd("CACHE.SET");
    set.arg(format!("{own}:{i}"))
        .arg(value)
        .arg("EX")
        .arg(TTL_S);
    set.arg("TAGS")
        .arg(2)
        .arg(own)
        .arg(format!("{own}:{}", i % TAGS));
    set
}

pub(crate) fn sweep(connection: &mut Connection) -> RedisResult<()> {
    cmd("CACHE.INVALIDATE").arg(own_tag()).exec(connection)
}

/// Up to a minute in microseconds, three digits; longer times count as a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("the bounds are constants that it takes")
}

struct Worker {
    connection: Connection,
    rng: fastrand::Rng,
    reads: u64,
    hits: u64,
    invalidations: u64,
    latencies: Histogram<u64>,
}

impl Worker {
    fn new(connection: Connection, rng: fastrand::Rng) -> Self {
        Self {
            connection,
            rng,
            reads: 0,
            hits: 0,
            invalidations: 0,
            latencies: histogram(),
        }
    }

    fn run(&mut self, traffic: &Traffic, progress: &Progress, started: Instant) -> RedisResult<()> {
        let value = vec![b'x'; traffic.value_bytes as usize];
        let own = own_tag();
        let over = |reads: u64| match traffic.until {
            Until::Time(time) => started.elapsed() >= time,
            Until::Reads(most) => reads >= most,
        };
        while !progress.stop.load(Ordering::Relaxed) {
            // Counted before the read, so that the number of reads is exact.
            if over(progress.reads.fetch_add(1, Ordering::Relaxed)) {
                break;
            }
            self.read(traffic.keys, &own, &value)?;
            if self.reads.is_multiple_of(READS_AN_INVALIDATION) {
                let tag = format!("{own}:{}", self.rng.u32(..TAGS));
                self.timed(|connection| cmd("CACHE.INVALIDATE").arg(tag).exec(connection))?;
                self.invalidations += 1;
            }
        }
        Ok(())
    }

    fn read(&mut self, keys: u32, own: &str, value: &[u8]) -> RedisResult<()> {
        // Cubed: half of the reads go to an eighth of the keys.
        let popular = self.rng.f64().powi(3);
        let i = (popular * f64::from(keys)) as u32;
        let key = format!("{own}:{i}");
        let found: Option<Vec<u8>> =
            self.timed(|connection| cmd("CACHE.GET").arg(&key).query(connection))?;
        self.reads += 1;
        if found.is_some() {
            self.hits += 1;
            return Ok(());
        }
        self.timed(|connection| set(own, i, value).exec(connection))
    }

    fn timed<T>(&mut self, run: impl FnOnce(&mut Connection) -> RedisResult<T>) -> RedisResult<T> {
        let start = Instant::now();
        let result = run(&mut self.connection)?;
        self.latencies
            .saturating_record(start.elapsed().as_micros() as u64);
        Ok(result)
    }
}
