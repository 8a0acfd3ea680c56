//! Several processes, one server, everything that can happen to it at random; then the checker reads what each
//! process saw. And the same with the ordering rule switched off, where the checker must find wrong reads.
//!
//! `TAGCACHE_SEED` takes another course, `TAGCACHE_COHERENCE_SECONDS` a longer one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tagcache::{Cache, Entry, Error};
use tagcache_tests::{DEADLINE, RawClient, Rng, Server, args, for_each_engine, look};

use crate::checker::{Event, NEVER, Record, Span, Time, Violation, check};
use crate::support::{Slow, builder, connected, eventually, on_server, run};

const KEYS: usize = 200;
const TAGS: usize = 20;
const PROCESSES: u64 = 3;
const TASKS: u64 = 8;
/// What a push may need on a machine where several processes share two cores, and connections that are dead without
/// saying so are noticed within 0.6 s.
const BOUND: Duration = Duration::from_millis(1500);

/// What each task does at least, also where the machine has so little time for it that the work takes longer, up to
/// so much longer.
const LEAST: usize = 50;
const LONGER: Duration = Duration::from_secs(20);

/// Between an answer and its entering the local tier, where that is to take long.
const LATE: Duration = Duration::from_millis(40);

/// Marks the process that the parent starts, and says what it shall do.
const CHILD: &str = "TAGCACHE_COHERENCE_CHILD";

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The ordering rule is kept, whatever is done to the server.
    Kept,
    /// Nothing is done to the server, and answers enter the local tier so late that many are overtaken.
    KeptLate,
    /// The same with a local tier that does without the rule.
    IgnoredLate,
}

/// What a child is told: port, number, seed, milliseconds of work, rule, file for its records.
struct Task {
    port: u16,
    number: u64,
    seed: u64,
    work: Duration,
    rule: Rule,
    file: PathBuf,
}

impl Task {
    fn to_env(&self) -> String {
        let (work, rule) = (self.work.as_millis(), self.rule as u8);
        format!(
            "{} {} {} {work} {rule} {}",
            self.port,
            self.number,
            self.seed,
            self.file.display()
        )
    }

    fn from_env(text: &str) -> Self {
        let words: Vec<&str> = text.splitn(6, ' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        Self {
            port: number(0) as u16,
            number: number(1),
            seed: number(2),
            work: Duration::from_millis(number(3)),
            rule: [Rule::Kept, Rule::KeptLate, Rule::IgnoredLate][number(4) as usize],
            file: words[5].into(),
        }
    }

    /// Exists when that process (the parent is number 0) changes nothing any more.
    fn done(&self, number: u64) -> PathBuf {
        let name = format!("done-{number}-{}", self.seed);
        self.file.with_file_name(name)
    }

    fn start(&self) -> Child {
        let program = std::env::current_exe().expect("the path of this program");
        Command::new(program)
            .args([
                "--exact",
                "coherence::child",
                "--include-ignored",
                "--nocapture",
            ])
            .env(CHILD, self.to_env())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program starts again")
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock after 1970").as_nanos() as Time
}

/// A value by its number, with some bulk so that memory has something to run out of.
fn value_of(number: u64) -> String {
    format!("{number:020}{}", "x".repeat(200))
}

fn number_of(value: &str) -> u64 {
    value[..20].parse().expect("one of our values")
}

#[test]
#[ignore = "started by the other tests of this module, in processes of their own"]
fn child() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let task = Task::from_env(&task);
    let records = run(work(&task));
    let mut text = String::new();
    for Record {
        span: Span { start, end },
        event,
    } in records
    {
        let (kind, key, value, tags, ttl) = match event {
            Event::Read { key, value } => ('r', key, value, 0, 0),
            Event::Write {
                key,
                value,
                tags,
                ttl,
            } => ('w', key, value, tags, ttl),
            Event::Load {
                key,
                value,
                tags,
                ttl,
            } => ('l', key, value, tags, ttl),
            Event::Remove { key } => ('d', key, 0, 0, 0),
            Event::Invalidate { tags } => ('i', 0, 0, tags, 0),
            Event::Flush => ('f', 0, 0, 0, 0),
        };
        writeln!(text, "{kind} {key} {value} {tags} {ttl} {start} {end}")
            .expect("a string takes everything");
    }
    std::fs::write(&task.file, text).expect("a file in the parent's directory");
}

fn records_of(file: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(file).expect("the records of a child");
    let record = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let n = |at: usize| words[at].parse::<u64>().expect("a number");
        let (key, value, tags, ttl) = (n(1) as u32, n(2), n(3) as u32, n(4));
        let event = match words[0] {
            "r" => Event::Read { key, value },
            "w" => Event::Write {
                key,
                value,
                tags,
                ttl,
            },
            "l" => Event::Load {
                key,
                value,
                tags,
                ttl,
            },
            "d" => Event::Remove { key },
            "i" => Event::Invalidate { tags },
            _ => Event::Flush,
        };
        Record {
            span: Span {
                start: n(5),
                end: n(6),
            },
            event,
        }
    };
    text.lines().map(record).collect()
}

async fn work(task: &Task) -> Vec<Record> {
    let building = builder(task.port)
        .probe(Duration::from_millis(300), Duration::from_millis(300))
        .command_timeout(Duration::from_secs(2));
    let (building, naive) = match task.rule {
        Rule::Kept => (building.codec(Slow(Duration::from_millis(10))), None),
        // Many slow reads, so that it is not left to chance whether some are overtaken.
        Rule::KeptLate => (building.codec(Slow(LATE)), None),
        Rule::IgnoredLate => (
            building.local_max_entries(0).codec(Slow(Duration::ZERO)),
            Some(Naive::start(task.port).await),
        ),
    };
    let cache = connected(building).await;
    let values = Arc::new(AtomicU64::new(task.number << 32));
    let deadline = Instant::now() + task.work;
    let owned = (task.rule != Rule::Kept).then_some(task.number as usize - 1);
    let mut running = Vec::new();
    let tasks = if task.rule == Rule::Kept {
        TASKS
    } else {
        5 * TASKS
    };
    for n in 0..tasks {
        let rng = Rng::new(task.seed ^ (task.number << 8 | n));
        running.push(tokio::spawn(operate(
            cache.clone(),
            naive.clone(),
            rng,
            Arc::clone(&values),
            owned,
            deadline,
        )));
    }
    let mut records = Vec::new();
    for task in running {
        records.extend(task.await.expect("no operation panics"));
    }
    std::fs::write(task.done(task.number), "").expect("a file in the parent's directory");
    eventually("nobody changes anything any more", async || {
        (0..=PROCESSES).all(|number| task.done(number).exists())
    })
    .await;
    records.extend(afterwards(&cache, task.port).await);
    let stats = cache.stats();
    eprintln!(
        "child {}: {} operations, {} local hits, {} entered, {} overtaken, {} connections lost",
        task.number,
        records.len(),
        stats.local.hits,
        stats.entered,
        stats.overtaken,
        stats.connections_lost,
    );
    records
}

/// A local tier as it is often built, without the ordering rule: what was read is kept after the await, whatever was
/// pushed meanwhile.
#[derive(Clone)]
struct Naive {
    held: Arc<Mutex<Held>>,
    connection: redis::aio::MultiplexedConnection,
}

/// Values and their tags by key.
type Held = HashMap<String, (String, Vec<String>)>;

impl Naive {
    async fn start(port: u16) -> Self {
        let held: Arc<Mutex<Held>> = Arc::default();
        let pushed = Arc::clone(&held);
        let apply = move |push: redis::PushInfo| {
            apply(&push, &mut pushed.lock().expect("no test panics here"));
            Ok::<_, redis::aio::SendError>(())
        };
        // Half a second, the default, is not much on a machine that has other things to do.
        let config = redis::AsyncConnectionConfig::new()
            .set_push_sender(apply)
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let url = format!("redis://127.0.0.1:{port}/?protocol=resp3");
        let client = redis::Client::open(url).expect("an address");
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .expect("a server that answers");
        let tracking = redis::cmd("CLIENT").arg("TRACKING").arg("ON").to_owned();
        tracking
            .exec_async(&mut connection)
            .await
            .expect("tracking");
        connection
            .subscribe("__cache@0__:invalidate")
            .await
            .expect("a subscription");
        Self { held, connection }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no test panics here")
    }

    async fn get(&self, key: &str) -> Option<String> {
        if let Some((value, _)) = self.held().get(key) {
            return Some(value.clone());
        }
        let mut connection = self.connection.clone();
        let found: (String, Option<String>, i64, u64, Vec<String>) = redis::cmd("CACHE.FETCH")
            .arg(key)
            .query_async(&mut connection)
            .await
            .expect("a server that answers");
        // So long that some are overtaken also where the machine has little time for it.
        tokio::time::sleep(5 * LATE).await;
        let value: String = serde_json::from_str(&found.1?).expect("JSON");
        self.held().insert(key.to_owned(), (value.clone(), found.4));
        Some(value)
    }
}

fn apply(push: &redis::PushInfo, held: &mut Held) {
    use redis::{PushKind, Value};
    match (&push.kind, push.data.as_slice()) {
        (PushKind::Invalidate, [Value::Array(keys)]) => {
            for key in keys {
                if let Value::BulkString(key) = key {
                    held.remove(std::str::from_utf8(key).expect("our keys"));
                }
            }
        }
        (PushKind::Message, [_, Value::BulkString(message)]) => {
            let head = if message[0] == 1 { 10 } else { 18 };
            let (kind, mut rest) = (message[1], &message[head..]);
            if !matches!(kind, b'I' | b'R') {
                return held.clear();
            }
            while let Some((len, after)) = rest.split_first_chunk::<4>() {
                let (tag, after) = after.split_at(u32::from_be_bytes(*len) as usize);
                held.retain(|_, (_, tags)| !tags.iter().any(|held| held.as_bytes() == tag));
                rest = after;
            }
        }
        (PushKind::Invalidate, _) => held.clear(),
        _ => {}
    }
}

#[allow(clippy::too_many_lines, reason = "one arm for each operation")]
async fn operate(
    cache: Cache<Slow>,
    naive: Option<Naive>,
    mut rng: Rng,
    values: Arc<AtomicU64>,
    owned: Option<usize>,
    deadline: Instant,
) -> Vec<Record> {
    let mut records = Vec::new();
    while Instant::now() < deadline || records.len() < LEAST && Instant::now() < deadline + LONGER {
        let act = rng.below(1000);
        let before = records.len();
        let key = match owned {
            // What others change leaves a process only if it is told: its own writes shall not do that by the way.
            Some(process) if act >= 900 => {
                rng.below(KEYS / PROCESSES as usize) * PROCESSES as usize + process
            }
            _ => rng.below(KEYS),
        } as u32;
        let name = format!("key{key}");
        let start = now();
        // What failed may have happened or may happen yet.
        let span = |done: bool| Span {
            start,
            end: if done { now() } else { NEVER },
        };
        let tags = 1 << rng.below(TAGS) | u32::from(rng.one_in(2)) << rng.below(TAGS);
        let names = (0..TAGS)
            .filter(|tag| tags & (1 << tag) != 0)
            .map(|tag| format!("tag{tag}"));
        // Few live so shortly that they expire under way.
        let ttl = Duration::from_millis(if rng.one_in(5) {
            30 + rng.below(300) as u64
        } else {
            60_000
        });
        let entry = Entry::ttl(ttl).tags(names.clone().collect::<Vec<_>>());
        let ttl = ttl.as_nanos() as Time;
        match act {
            0..800 => {
                let read: Result<Option<String>, Error> = match &naive {
                    Some(naive) => Ok(naive.get(&name).await),
                    None => cache.get(&name).await,
                };
                if let Ok(Some(value)) = read {
                    let event = Event::Read {
                        key,
                        value: number_of(&value),
                    };
                    records.push(Record {
                        span: span(true),
                        event,
                    });
                }
            }
            800..900 if naive.is_none() => {
                let others: Vec<u32> = (0..5).map(|_| rng.below(KEYS) as u32).collect();
                let names: Vec<String> = others.iter().map(|key| format!("key{key}")).collect();
                let read: Result<Vec<Option<String>>, Error> = cache.get_many(names).await;
                for (key, value) in others.iter().zip(read.unwrap_or_default()) {
                    if let Some(value) = value {
                        let event = Event::Read {
                            key: *key,
                            value: number_of(&value),
                        };
                        records.push(Record {
                            span: span(true),
                            event,
                        });
                    }
                }
            }
            900..950 => {
                let value = values.fetch_add(1, Ordering::SeqCst);
                let done = cache.set(&name, &value_of(value), entry).await.is_ok();
                records.push(Record {
                    span: span(done),
                    event: Event::Write {
                        key,
                        value,
                        tags,
                        ttl,
                    },
                });
            }
            950..985 => {
                let value = values.fetch_add(1, Ordering::SeqCst);
                let loader = move || async move {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Ok::<_, String>(value_of(value))
                };
                let loaded: Result<String, Error> = cache.get_or_load(&name, entry, loader).await;
                // Whether this value was loaded, and stored or refused, others' reads show. If it was stored, it was
                // before this ended.
                let done = loaded.is_ok();
                records.push(Record {
                    span: span(done),
                    event: Event::Load {
                        key,
                        value,
                        tags,
                        ttl,
                    },
                });
                if let Ok(loaded) = loaded {
                    let event = Event::Read {
                        key,
                        value: number_of(&loaded),
                    };
                    records.push(Record {
                        span: span(true),
                        event,
                    });
                }
            }
            985..990 => {
                let done = cache.remove(&name).await.is_ok();
                records.push(Record {
                    span: span(done),
                    event: Event::Remove { key },
                });
            }
            990..993 => {
                // No entry has a grace, so the soft form takes them away as well.
                let done = if rng.one_in(3) {
                    cache.revalidate_tags(names).await.is_ok()
                } else {
                    cache.invalidate_tags(names).await.is_ok()
                };
                records.push(Record {
                    span: span(done),
                    event: Event::Invalidate { tags },
                });
            }
            _ if rng.one_in(200) => {
                let done = cache.clear().await.is_ok();
                records.push(Record {
                    span: span(done),
                    event: Event::Flush,
                });
            }
            _ => {}
        }
        if records.len() == before {
            // Nothing there, or nobody to ask: asking at once again would only keep the others from working.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    records
}

/// When all is quiet nobody may hold what the server does not. Answers a read of a value that nobody wrote for each
/// that is held wrongly.
async fn afterwards(cache: &Cache<Slow>, port: u16) -> Vec<Record> {
    tokio::time::sleep(BOUND * 2).await;
    let mut client = RawClient::connect(port).expect("a server that answers");
    let mut records = Vec::new();
    for key in 0..KEYS as u32 {
        let name = format!("key{key}");
        let held = async || {
            let mut read = cache.get::<String>(&name).await;
            // On a machine that is short of time a probe may still fail; what is not answered is not held.
            eventually("a server that answers", async || {
                if read.is_err() {
                    read = cache.get(&name).await;
                }
                read.is_ok()
            })
            .await;
            read.ok().flatten().as_deref().map(number_of)
        };
        let start = now();
        let mut here = held().await;
        let there = on_server(&mut client, &name);
        // JSON, with its quotes.
        let there = there.map(|value| number_of(value.trim_matches('"')));
        if here != there {
            // It expired between the two, perhaps.
            here = held().await;
        }
        if here != there {
            eprintln!("{name} is held as {here:?}, the server has {there:?}");
            let event = Event::Read {
                key,
                value: u64::MAX,
            };
            records.push(Record {
                span: Span { start, end: now() },
                event,
            });
        }
    }
    records
}

/// Lets processes work on a server while `disturb` does what it does to it; answers what the checker finds, and
/// how many reads there were.
fn observe(
    server: &mut Server,
    rule: Rule,
    work: Duration,
    seed: u64,
    disturb: impl FnOnce(&mut Server) -> Vec<Record>,
) -> (Vec<Violation>, usize) {
    let dir = server.dir().to_owned();
    let tasks: Vec<Task> = (1..=PROCESSES)
        .map(|number| Task {
            port: server.port(),
            number,
            seed,
            work,
            rule,
            file: dir.join(format!("records-{number}-{seed}")),
        })
        .collect();
    let mut children: Vec<Child> = tasks.iter().map(Task::start).collect();
    let mut records = disturb(server);
    std::fs::write(tasks[0].done(0), "").expect("a file in the server's directory");
    for child in &mut children {
        let status = child.wait().expect("a child of ours");
        assert!(status.success(), "a process of the test failed");
    }
    for task in &tasks {
        records.extend(records_of(&task.file));
    }
    let reads = records
        .iter()
        .filter(|record| matches!(record.event, Event::Read { .. }))
        .count();
    (check(&records, BOUND.as_nanos() as Time), reads)
}

/// Everything that can happen to a server, each at least once if there is time, and changes by clients that know
/// nothing of this crate.
#[allow(clippy::too_many_lines, reason = "one arm for each of them")]
fn disturb(server: &mut Server, work: Duration, rng: &mut Rng) -> Vec<Record> {
    let mut records = Vec::new();
    let mut left: Vec<usize> = Vec::new();
    let mut evicted = 0;
    let deadline = Instant::now() + work;
    // Once, in the middle.
    let restart_at = Instant::now() + work / 2;
    let mut restarted = false;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(150 + rng.below(400) as u64));
        if !restarted && Instant::now() > restart_at {
            restarted = true;
            let start = now();
            server.restart();
            records.push(Record {
                span: Span { start, end: now() },
                event: Event::Flush,
            });
            continue;
        }
        if left.is_empty() {
            left.extend(0..8);
        }
        let next = left.swap_remove(rng.below(left.len()));
        let mut client = server.raw();
        match next {
            0 => drop(client.call(&["CLIENT", "KILL", "TYPE", "pubsub"])),
            1 => drop(client.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])),
            2 => drop(client.call(&args!["CLIENT", "PAUSE", 50 + rng.below(200)])),
            3 => {
                let start = now();
                client.call(&["FLUSHALL"]);
                records.push(Record {
                    span: Span { start, end: now() },
                    event: Event::Flush,
                });
            }
            4 => {
                // Some of the entries are evicted. (What is evicted is read by nobody afterwards, or it is wrong.)
                let used = look::info(&mut client, "used_memory");
                let before = look::info(&mut client, "evicted_keys");
                client.call(&args![
                    "CONFIG",
                    "SET",
                    "maxmemory-policy",
                    "allkeys-random"
                ]);
                client.call(&args!["CONFIG", "SET", "maxmemory", (used - 10_000).max(1)]);
                client.call(&args!["SET", "filler", "y".repeat(5000)]);
                client.call(&args!["CONFIG", "SET", "maxmemory", 0]);
                evicted += look::info(&mut client, "evicted_keys") - before;
            }
            5 => {
                let keys: Vec<u32> = (0..KEYS / 10).map(|_| rng.below(KEYS) as u32).collect();
                let command = rng.pick(&["DEL", "UNLINK", "CACHE.DEL"]).to_owned();
                let names = keys.iter().map(|key| format!("key{key}"));
                let words: Vec<String> = std::iter::once(command).chain(names).collect();
                let start = now();
                client.call(&words);
                let span = Span { start, end: now() };
                let event = |key| Event::Remove { key };
                records.extend(keys.iter().map(|&key| Record {
                    span,
                    event: event(key),
                }));
            }
            6 => {
                let tag = rng.below(TAGS);
                let name = format!("tag{tag}");
                let start = now();
                client.call(&args!["CACHE.INVALIDATEWHERE", "ANY", 1, name]);
                records.push(Record {
                    span: Span { start, end: now() },
                    event: Event::Invalidate { tags: 1 << tag },
                });
            }
            _ => {
                server.pause();
                std::thread::sleep(Duration::from_millis(rng.below(400) as u64));
                server.resume();
            }
        }
    }
    assert!(evicted > 0, "nothing was evicted");
    records
}

#[test]
fn no_process_reads_what_was_replaced_or_invalidated() {
    for_each_engine(|engine| {
        let mut server = Server::builder().engine(engine).start();
        let mut rng = Rng::from_env(1);
        let seconds = std::env::var("TAGCACHE_COHERENCE_SECONDS");
        let seconds = seconds.map_or(8, |text| text.parse().expect("a number of seconds"));
        let work = Duration::from_secs(seconds);
        let seed = rng.next_u64();
        let (violations, reads) = observe(&mut server, Rule::Kept, work, seed, |server| {
            disturb(server, work, &mut rng)
        });
        assert!(reads > 300, "only {reads} reads");
        let shown: Vec<_> = violations.iter().take(3).collect();
        assert!(
            violations.is_empty(),
            "{} of {reads} reads are wrong: {shown:#?}",
            violations.len()
        );
    });
}

#[test]
fn without_the_ordering_rule_the_checker_finds_wrong_reads() {
    let late = |rule| {
        let mut server = Server::start();
        let (violations, reads) =
            observe(&mut server, rule, Duration::from_secs(4), 2, |_| Vec::new());
        // Those that a read gave away; what is still held at the end comes on top.
        let wrong = violations
            .iter()
            .filter(|violation| violation.taken.is_some())
            .count();
        println!(
            "{rule:?}: {wrong} of {reads} reads are wrong, {} at the end",
            violations.len() - wrong
        );
        (wrong, violations.len())
    };
    assert!(late(Rule::IgnoredLate).0 > 0, "the checker sees nothing");
    assert_eq!(late(Rule::KeptLate), (0, 0));
}
