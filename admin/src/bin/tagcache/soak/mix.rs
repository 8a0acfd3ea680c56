//! Traffic in which nothing stays: keys, tags, connections and clients come and go, while entries are invalidated,
//! expire, are evicted and are removed by native commands. Numbers in names have a fixed width, or entries would grow
//! with the numbers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::{Cmd, Connection, ConnectionLike as _, RedisResult, Value, cmd};
use tagcache::{Cache, Entry};

use crate::output::Failure;
use crate::traffic::{connect, histogram, own_tag, sweep};

/// Tags that many keys share.
const SHARED_TAGS: u64 = 200;
/// This many neighbouring keys share a tag that no other key ever has.
const GROUP: u64 = 20;
/// The window of keys moves on by one key per this many commands.
const COMMANDS_A_KEY: u64 = 8;
/// A worker connects again after this many batches.
const BATCHES_A_CONNECTION: u64 = 1_000;
/// Longest TTL of entries; the shortest is 1 s.
const TTL_MAX_S: u64 = 300;
/// Number of tasks that read through a client with a local tier, their pause, and the lifetime of such a client.
const CLIENT_TASKS: u64 = 4;
const CLIENT_PAUSE: Duration = Duration::from_millis(10);
const CLIENT_LIFE: Duration = Duration::from_secs(10);
const CLIENT_END: Duration = Duration::from_secs(5);

/// The options of a run with churn.
#[derive(Clone, Debug)]
pub(crate) struct Churn {
    pub(crate) redis: String,
    pub(crate) connections: u32,
    pub(crate) keys: u32,
    pub(crate) value_bytes: u32,
    /// Commands in one round trip.
    pub(crate) pipeline: u32,
    /// Commands per second of all connections; 0: no limit.
    pub(crate) rate: u64,
    pub(crate) duration: Duration,
    /// Number of commands; 0: the run ends by time.
    pub(crate) commands: u64,
    /// Commands of the run before this one; the window of keys continues after them.
    pub(crate) before: u64,
}

/// For each this many round trips there is one of PINGs, whose time is that of the machine and the server alone.
const ROUND_TRIPS_A_PING: u64 = 4;

/// Times of round trips, in microseconds.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) commands: Histogram<u64>,
    pub(crate) pings: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            commands: histogram(),
            pings: histogram(),
        }
    }
}

/// Progress of the run.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    stop: AtomicBool,
    pub(crate) commands: AtomicU64,
    /// Number of replies that refuse a command because the server is out of memory.
    pub(crate) refused: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) client_reads: AtomicU64,
    pub(crate) clients: AtomicU64,
    /// Latencies since they were last taken.
    latencies: Mutex<Latencies>,
    failure: Mutex<Option<Failure>>,
}

impl Counts {
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, failure: Failure) {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(failure);
        self.stop();
    }

    pub(crate) fn take_latencies(&self) -> Latencies {
        std::mem::take(&mut self.latencies())
    }

    fn latencies(&self) -> MutexGuard<'_, Latencies> {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Traffic that runs in the background.
pub(crate) struct Running {
    pub(crate) counts: Arc<Counts>,
    threads: Vec<std::thread::JoinHandle<()>>,
    clients: tokio::runtime::Runtime,
    redis: String,
}

impl Churn {
    /// The first key of the window after this many commands.
    fn first_key(&self, commands: u64) -> u64 {
        (self.before + commands) / COMMANDS_A_KEY
    }

    pub(crate) fn start(self) -> Result<Running, Failure> {
        let counts: Arc<Counts> = Arc::default();
        let started = Instant::now();
        let clients = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        clients.spawn(in_clients(self.clone(), Arc::clone(&counts)));
        let mut threads = Vec::new();
        for i in 0..self.connections {
            // An error of the first connection is reported at once.
            let connection = connect(&self.redis)?;
            let (churn, counts) = (self.clone(), Arc::clone(&counts));
            let rng = fastrand::Rng::with_seed(self.before + u64::from(i) + 1);
            threads.push(std::thread::spawn(move || {
                let mut worker = Worker {
                    churn: &churn,
                    counts: &counts,
                    own: own_tag(),
                    connection,
                    rng,
                    loads: Vec::new(),
                };
                if let Err(failure) = worker.run(started) {
                    counts.fail(failure);
                }
            }));
        }
        Ok(Running {
            counts,
            threads,
            clients,
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

    /// Number of tasks of the clients with a local tier.
    pub(crate) fn tasks(&self) -> u64 {
        self.clients.metrics().num_alive_tasks() as u64
    }

    /// Ends the traffic and drops the entries that it stored; returns the first failure.
    pub(crate) fn end(self) -> Option<Failure> {
        let redis = self.redis.clone();
        let failure = self.join();
        let swept = connect(&redis).and_then(|mut connection| Ok(sweep(&mut connection)?));
        failure.or(swept.err())
    }

    /// Ends the traffic and leaves the entries that it stored; returns the first failure.
    pub(crate) fn join(self) -> Option<Failure> {
        self.counts.stop();
        for thread in self.threads {
            if thread.join().is_err() {
                self.counts
                    .fail(Failure::Because("a worker panicked".into()));
            }
        }
        self.clients.shutdown_timeout(CLIENT_END);
        let mut failure = self
            .counts
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }
}

/// A key that missed, to be stored in the next round trip, under its lease if it has one.
struct Load {
    key: u64,
    lease: Option<i64>,
}

struct Worker<'a> {
    churn: &'a Churn,
    counts: &'a Counts,
    own: String,
    connection: Connection,
    rng: fastrand::Rng,
    loads: Vec<Load>,
}

impl Worker<'_> {
    fn run(&mut self, started: Instant) -> Result<(), Failure> {
        let mut batches = 0_u64;
        while !self.counts.is_stopped() && started.elapsed() < self.churn.duration {
            if batches.is_multiple_of(BATCHES_A_CONNECTION) {
                self.connection = connect(&self.churn.redis)?;
                self.counts.connections.fetch_add(1, Ordering::Relaxed);
            }
            batches += 1;
            let done = self.batch()?;
            if batches.is_multiple_of(ROUND_TRIPS_A_PING) {
                self.ping()?;
            }
            let all = self.counts.commands.fetch_add(done, Ordering::Relaxed) + done;
            if self.churn.commands > 0 && all >= self.churn.commands {
                break;
            }
            if let Some(due_us) = (all * 1_000_000).checked_div(self.churn.rate) {
                let ahead = Duration::from_micros(due_us).saturating_sub(started.elapsed());
                std::thread::sleep(ahead.min(Duration::from_secs(1)));
            }
        }
        Ok(())
    }

    /// One round trip: first the loads for misses of the previous one.
    fn batch(&mut self) -> RedisResult<u64> {
        let size = self.churn.pipeline as usize;
        let mut pipe = redis::Pipeline::with_capacity(size);
        let mut reads = Vec::with_capacity(size);
        for load in self
            .loads
            .drain(..self.loads.len().min(size))
            .collect::<Vec<_>>()
        {
            pipe.add_command(self.set(load.key, load.lease));
            reads.push(None);
        }
        // Loads beyond one pipeline are skipped: the next reader of the key misses it again.
        self.loads.clear();
        while reads.len() < size {
            let (command, read) = self.command();
            pipe.add_command(command);
            reads.push(read);
        }
        let (replies, took) = self.round_trip(&pipe, size)?;
        self.counts.latencies().commands.saturating_record(took);
        for (read, reply) in reads.into_iter().zip(replies) {
            match reply {
                Value::ServerError(error) if error.code() == "OOM" => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                }
                Value::ServerError(error) => return Err(error.into()),
                reply => self.loads.extend(read.and_then(|key| missed(key, &reply))),
            }
        }
        Ok(size as u64)
    }

    /// One round trip of PINGs, as many as a batch has commands.
    fn ping(&mut self) -> RedisResult<()> {
        let size = self.churn.pipeline as usize;
        let mut pipe = redis::Pipeline::with_capacity(size);
        for _ in 0..size {
            pipe.add_command(cmd("PING"));
        }
        let (_, took) = self.round_trip(&pipe, size)?;
        self.counts.latencies().pings.saturating_record(took);
        Ok(())
    }

    /// The replies, and their time in microseconds.
    fn round_trip(
        &mut self,
        pipe: &redis::Pipeline,
        size: usize,
    ) -> RedisResult<(Vec<Value>, u64)> {
        let packed = pipe.get_packed_pipeline();
        let sent = Instant::now();
        let replies = self.connection.req_packed_commands(&packed, 0, size)?;
        Ok((replies, sent.elapsed().as_micros() as u64))
    }

    /// A key of the window, which moves on with the number of commands: popular keys more often.
    fn key(&mut self) -> u64 {
        let done = self.counts.commands.load(Ordering::Relaxed);
        let popular = self.rng.f64().powi(3);
        self.churn.first_key(done) + (popular * f64::from(self.churn.keys)) as u64
    }

    fn named(&self, key: u64) -> String {
        format!("{}:{key:010}", self.own)
    }

    fn group(&self, key: u64) -> String {
        format!("{}:group:{:010}", self.own, key / GROUP)
    }

    fn set(&mut self, key: u64, lease: Option<i64>) -> Cmd {
        let bytes = self.rng.usize(..=2 * self.churn.value_bytes as usize);
        let mut set = cmd("CACHE.SET");
        set.arg(self.named(key)).arg(vec![b'x'; bytes]);
        set.arg("EX").arg(self.rng.u64(1..=TTL_MAX_S));
        if self.rng.u8(..4) == 0 {
            set.arg("GRACE").arg(self.rng.u64(1..60_000));
        }
        if let Some(token) = lease {
            set.arg("LEASE").arg(token);
        }
        set.arg("TAGS").arg(3).arg(&self.own);
        set.arg(format!("{}:shared:{}", self.own, key % SHARED_TAGS));
        set.arg(self.group(key));
        set
    }

    /// A command, and its key if a miss is to be loaded.
    fn command(&mut self) -> (Cmd, Option<u64>) {
        let key = self.key();
        let name = self.named(key);
        let one = |word: &str| {
            let mut one = cmd(word);
            one.arg(&name);
            one
        };
        let command = match self.rng.u32(..1000) {
            0..550 => return (one("CACHE.GET"), Some(key)),
            550..700 => {
                let mut fetch = one("CACHE.FETCH");
                fetch.arg("LEASE").arg(5_000);
                return (fetch, Some(key));
            }
            700..850 => self.set(key, None),
            850..870 => {
                let mut retag = one("CACHE.RETAG");
                retag.arg("TAGS").arg(2).arg(&self.own).arg(self.group(key));
                retag
            }
            870..890 => {
                let mut touch = one("CACHE.TOUCH");
                touch.arg("EX").arg(self.rng.u64(1..=TTL_MAX_S));
                touch
            }
            890..905 => one("CACHE.DEL"),
            905..920 => one("UNLINK"),
            920..935 => {
                let mut expire = one("EXPIRE");
                expire.arg(self.rng.u64(1..=TTL_MAX_S));
                expire
            }
            935..960 => {
                let mut drop = cmd("CACHE.INVALIDATE");
                drop.arg(self.group(key));
                drop
            }
            960..975 => {
                let mut soften = cmd("CACHE.REVALIDATE");
                soften.arg(self.group(key));
                soften
            }
            975..985 => {
                let mut hits = one("CACHE.HITS");
                hits.arg(1);
                hits
            }
            985..992 => one("CACHE.INSPECT"),
            992..999 => {
                let mut info = cmd("CACHE.TAGINFO");
                info.arg(self.group(key));
                info
            }
            // Rare, because it drops 0.5 % of all entries.
            _ => {
                let mut drop = cmd("CACHE.INVALIDATE");
                drop.arg(format!("{}:shared:{}", self.own, key % SHARED_TAGS));
                drop
            }
        };
        (command, None)
    }
}

/// The load that this reply to CACHE.GET or CACHE.FETCH requires, if it is a miss.
fn missed(key: u64, reply: &Value) -> Option<Load> {
    match reply {
        Value::Nil => Some(Load { key, lease: None }),
        Value::Array(items) => match items.get(3) {
            Some(&Value::Int(token)) if token > 0 => Some(Load {
                key,
                lease: Some(token),
            }),
            _ => None,
        },
        _ => None,
    }
}

/// Clients with a local tier, one after the other.
async fn in_clients(churn: Churn, counts: Arc<Counts>) {
    while !counts.is_stopped() {
        if let Err(error) = one_client(&churn, &counts).await {
            counts.fail(Failure::Server(error.to_string()));
        }
    }
}

async fn one_client(churn: &Churn, counts: &Arc<Counts>) -> Result<(), tagcache::Error> {
    let cache = Cache::builder(churn.redis.as_str())
        .local_max_entries(1_000)
        .build()
        .await?;
    counts.clients.fetch_add(1, Ordering::Relaxed);
    let own = own_tag();
    let until = Instant::now() + CLIENT_LIFE;
    let mut tasks = Vec::new();
    for task in 0..CLIENT_TASKS {
        let (cache, counts, own) = (cache.clone(), Arc::clone(counts), own.clone());
        let churn = churn.clone();
        let keys = churn.keys;
        let bytes = churn.value_bytes as usize;
        tasks.push(tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(task);
            while Instant::now() < until && !counts.is_stopped() {
                let first = churn.first_key(counts.commands.load(Ordering::Relaxed));
                let key = first + (rng.f64().powi(3) * f64::from(keys)) as u64;
                let group = format!("{own}:client:{:010}", key / GROUP);
                let entry = Entry::ttl(Duration::from_secs(rng.u64(1..=TTL_MAX_S)))
                    .tags([own.clone(), group.clone()]);
                let load =
                    move || async move { Ok::<_, std::convert::Infallible>("x".repeat(bytes)) };
                // If the server has no memory or is too slow, that is no failure: the value is loaded all the same.
                let name = format!("{own}:client:{key:010}");
                let _: Result<String, _> = cache.get_or_load(&name, entry, load).await;
                if rng.u8(..20) == 0 {
                    let _ = cache.invalidate_tags([group]).await;
                }
                counts.client_reads.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(CLIENT_PAUSE).await;
            }
        }));
    }
    for task in tasks {
        if task.await.is_err() {
            counts.fail(Failure::Because("a client's task panicked".into()));
        }
    }
    cache.close(CLIENT_END).await;
    Ok(())
}
