//! `tagcache soak --churn`: finds figures of a server and of its clients that rise although no stored entry stays.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::{InfoDict, RedisResult};
use serde_json::{Value, json};
use tagcache_admin::memory::{MemoryUsage, Server};

use super::mix::{Churn, Counts, Latencies, Running};
use super::series::{self, Series};
use super::{SAMPLES, WARM_UP, reclaimed};
use crate::args::Soak;
use crate::load::{latency_json, latency_text};
use crate::output::{Failure, note, show};
use crate::text::maybe_bytes;
use crate::traffic::histogram;

/// Latencies are compared between this part at the beginning and at the end of the time after the warm-up.
const END: f64 = 0.1;
/// Commands in a round trip of the warm-up.
const WARM_UP_PIPELINE: u32 = 100;

pub(super) fn run(
    args: &Soak,
    server: &Server,
    ended: &AtomicBool,
    json: bool,
) -> Result<(), Failure> {
    let before = server.figures()?;
    if before.cache.is_none() {
        return Err(crate::connect::without_cache(server));
    }
    let churn = Churn {
        redis: args.at.redis.clone(),
        connections: args.work.concurrency,
        keys: args.work.keys,
        value_bytes: args.work.value_bytes,
        pipeline: args.pipeline,
        rate: args.rate,
        duration: args.work.duration,
        commands: args.commands,
        before: args.warm_up,
    };
    if args.warm_up > 0 {
        warm_up(&churn, ended)?;
    }
    let interval =
        (args.work.duration / SAMPLES).clamp(Duration::from_millis(20), Duration::from_secs(60));
    let started = Instant::now();
    let running = churn.start()?;
    let mut watch = Watch::new(args.work.duration.div_duration_f64(interval) as usize + 1);
    let mut last_progress = started;
    while !running.is_over() {
        std::thread::sleep(interval.min(Duration::from_millis(20)));
        if ended.load(Ordering::Relaxed) {
            running.counts.stop();
        }
        if started.elapsed() < interval * (watch.samples + 1) {
            continue;
        }
        let part = args.part(
            started.elapsed(),
            running.counts.commands.load(Ordering::Relaxed),
        );
        if watch
            .sample(server, &running, started.elapsed(), part)
            .is_err()
        {
            // The workers get the same error, and report it.
            continue;
        }
        if !json && last_progress.elapsed() > Duration::from_secs(60).min(args.work.duration / 4) {
            last_progress = Instant::now();
            note(&watch.line(started.elapsed()));
        }
    }
    let counts = running.counts.clone();
    let took = started.elapsed();
    let failed = running.end();
    let warm = took.mul_f64(WARM_UP);
    let rises = watch
        .series
        .iter()
        .any(|series| series.trend(warm).is_some_and(|trend| trend.rises));
    let end = End {
        took,
        warm,
        before: before.used_memory,
        after: reclaimed(server).ok().flatten(),
        rises,
    };
    show(json, &to_json(&watch, &counts, &end), || {
        to_text(args.pipeline, &watch, &counts, &end)
    })?;
    match failed {
        Some(failure) => Err(failure),
        None if rises => Err(Failure::No),
        None => Ok(()),
    }
}

/// Runs the commands of the warm-up at full speed, and leaves the entries that they stored.
fn warm_up(churn: &Churn, ended: &AtomicBool) -> Result<(), Failure> {
    let fast = Churn {
        pipeline: WARM_UP_PIPELINE,
        rate: 0,
        duration: Duration::MAX,
        commands: churn.before,
        before: 0,
        ..churn.clone()
    };
    let running = fast.start()?;
    while !running.is_over() {
        std::thread::sleep(Duration::from_millis(20));
        if ended.load(Ordering::Relaxed) {
            running.counts.stop();
        }
    }
    running.join().map_or(Ok(()), Err)
}

/// The result of a run.
struct End {
    took: Duration,
    warm: Duration,
    /// The server's memory before the run, and after everything that it stored was dropped.
    before: Option<u64>,
    after: Option<u64>,
    rises: bool,
}

fn count(n: &AtomicU64) -> u64 {
    n.load(Ordering::Relaxed)
}

fn to_json(watch: &Watch, counts: &Counts, end: &End) -> Value {
    json!({
        "rises": end.rises,
        "seconds": end.took.as_secs_f64(),
        "commands": count(&counts.commands),
        "refused": count(&counts.refused),
        "connections": count(&counts.connections),
        "clients": count(&counts.clients),
        "clientReads": count(&counts.client_reads),
        "expired": watch.grown("expired"),
        "evicted": watch.grown("evicted"),
        "invalidated": watch.grown("invalidated"),
        "memoryBefore": end.before,
        "memoryAfter": end.after,
        "latencyMsFirst": latency_json(&watch.first),
        "latencyMsLast": latency_json(&watch.last),
        "series": series::to_json(&watch.series, end.warm),
    })
}

fn to_text(pipeline: u32, watch: &Watch, counts: &Counts, end: &End) -> String {
    format!(
        "{} commands in {:.0} s ({:.0} a second) in round trips of {pipeline}, {} refused for want of memory; {} connections; {} reads through {} clients with a local tier\n\
         {} entries expired, {} were evicted, {} invalidated\n\
         latency of a round trip after the warm-up  {}\n\
         latency of a round trip at the end         {}\n\
         memory before {}, after everything was dropped {}\n\n{}\n{}\n",
        count(&counts.commands),
        end.took.as_secs_f64(),
        count(&counts.commands) as f64 / end.took.as_secs_f64(),
        count(&counts.refused),
        count(&counts.connections),
        count(&counts.client_reads),
        count(&counts.clients),
        watch.grown("expired"),
        watch.grown("evicted"),
        watch.grown("invalidated"),
        latency_text(&watch.first),
        latency_text(&watch.last),
        maybe_bytes(end.before),
        maybe_bytes(end.after),
        series::to_text(&watch.series, end.warm),
        if end.rises {
            "SOMETHING RISES"
        } else {
            "Nothing rises."
        },
    )
}

/// Figures of INFO and of CACHE.STATS that should not rise, by their names there.
const FROM_INFO: [&str; 4] = [
    "used_memory",
    "used_memory_rss",
    "allocator_frag_ratio",
    "connected_clients",
];
const FROM_STATS: [&str; 6] = [
    "entries",
    "tags",
    "index_bytes",
    "reclaim_backlog",
    "leases",
    "lease_waiters",
];

/// Smallest relevant rise of resident memory: gaps between this program's allocations may add up to it, and a rise of
/// the allocations themselves shows in its heap.
const RESIDENT: f64 = 1024.0 * 1024.0;

/// The samples taken so far.
struct Watch {
    samples: u32,
    /// Number of samples of the whole run: their memory is allocated at the start, or this program's own heap would
    /// rise.
    most: usize,
    series: Vec<Series>,
    /// Commands until the last sample, and its time.
    seen: (u64, Duration),
    /// Latencies of the first part after the warm-up, and of the last part.
    first: Histogram<u64>,
    last: Histogram<u64>,
    stats: [HashMap<String, String>; 2],
}

impl Watch {
    fn new(most: usize) -> Self {
        Self {
            samples: 0,
            most,
            series: Vec::new(),
            seen: (0, Duration::ZERO),
            first: histogram(),
            last: histogram(),
            stats: Default::default(),
        }
    }

    /// Samples every figure once, `part` of the way through the run.
    fn sample(
        &mut self,
        server: &Server,
        running: &Running,
        at: Duration,
        part: f64,
    ) -> RedisResult<()> {
        self.samples += 1;
        let Latencies { commands, pings } = running.counts.take_latencies();
        if (WARM_UP..WARM_UP + END).contains(&part) {
            let _ = self.first.add(&commands);
        } else if part >= 1.0 - END {
            let _ = self.last.add(&commands);
        }
        let info: InfoDict = server.command("INFO", &[])?;
        let stats: HashMap<String, String> = server.command("CACHE.STATS", &[])?;
        let number = |name: &str| stats.get(name)?.parse().ok();
        let process = info.get::<u32>("process_id").unwrap_or(0).to_string();
        // If the server runs on another machine, this process does not exist here or is another program.
        let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        let is_here = name.contains("redis") || name.contains("valkey");
        let files = |process: &str, what| {
            let files = std::fs::read_dir(format!("/proc/{process}/{what}")).ok()?;
            Some(files.count() as f64)
        };
        let of_server = |what| files(&process, what).filter(|_| is_here);
        let done = running.counts.commands.load(Ordering::Relaxed);
        let seconds = at.saturating_sub(self.seen.1).as_secs_f64();
        let rate = (done - self.seen.0) as f64 / seconds;
        self.seen = (done, at);
        let ms = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1000.0;
        let p99 = (ms(&commands, 0.99), ms(&pings, 0.99));
        let to_ping = (p99.1 > 0.0).then(|| p99.0 / p99.1);
        let from_info = FROM_INFO.map(|name| (name, info.get::<f64>(name)));
        let from_stats = FROM_STATS.map(|name| (name, number(name)));
        let own = MemoryUsage::of_this_process();
        let others = [
            ("server descriptors", of_server("fd")),
            ("server threads", of_server("task")),
            ("own heap bytes", own.heap_used.map(|bytes| bytes as f64)),
            ("own descriptors", files("self", "fd")),
            ("own threads", files("self", "task")),
            ("client tasks", Some(running.tasks() as f64)),
            ("p99 / PING's p99", to_ping),
        ];
        // Wall-clock time, so that it includes delays by other work of the machine.
        let of_the_machine = [
            ("p50 ms", Some(ms(&commands, 0.5))),
            ("p99 ms", Some(p99.0)),
            ("PING's p99 ms", Some(p99.1)),
            ("commands a second", Some(rate)),
        ];
        let own_rss = [("own resident bytes", own.rss.map(|bytes| bytes as f64))];
        let figures = from_info.into_iter().chain(from_stats).chain(others);
        let all = (figures.map(|figure| (figure, Some(0.0))))
            .chain(own_rss.map(|figure| (figure, Some(RESIDENT))))
            .chain(of_the_machine.map(|figure| (figure, None)));
        for (i, ((name, value), least)) in all.enumerate() {
            if self.series.len() == i {
                self.series.push(Series::new(name, self.most, least));
            }
            self.series[i].push(at, value);
        }
        if self.samples == 1 {
            self.stats[0].clone_from(&stats);
        }
        self.stats[1] = stats;
        Ok(())
    }

    /// The growth of a counter of CACHE.STATS.
    fn grown(&self, name: &str) -> u64 {
        let [first, last] = self.stats.each_ref().map(|stats| {
            let number = stats.get(name).and_then(|text| text.parse().ok());
            number.unwrap_or(0_u64)
        });
        last.saturating_sub(first)
    }

    fn line(&self, at: Duration) -> String {
        let figure = |name| self.stats[1].get(name).map_or("?", String::as_str);
        format!(
            "{:>6.0} s  {:>12} commands  {:>9} entries  {:>11} index bytes\n",
            at.as_secs_f64(),
            self.seen.0,
            figure("entries"),
            figure("index_bytes"),
        )
    }
}
