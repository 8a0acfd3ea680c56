//! `tagcache soak`: tests whether the server's memory grows under a load that should not make it grow.

mod churn;
mod mix;
mod series;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tagcache_admin::memory::{Growth, MemoryMonitor, Sample, Server, ServerMemory, Subject};

use crate::args::{Soak, Work};
use crate::load::{latency_json, latency_text};
use crate::output::{Failure, note, show};
use crate::text::{bytes, maybe_bytes, ms, percent};
use crate::traffic::{Outcome, Traffic, Until};
use crate::{connect, signals};

/// Number of samples in a run.
const SAMPLES: u32 = 400;
/// This part at the beginning is ignored: the server and its clients allocate what they need.
const WARM_UP: f64 = 0.3;
/// Time limit for reclaiming the memory of dropped entries.
const RECLAIM: Duration = Duration::from_secs(10);

/// The result of a soak.
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// Growth after the warm-up.
    pub(crate) growth: Option<Growth>,
    pub(crate) leaks: bool,
    pub(crate) before: Option<u64>,
    /// Maximum of the whole run.
    pub(crate) most: Option<u64>,
    /// Memory after all stored entries were dropped.
    pub(crate) after: Option<u64>,
    /// Highest heap percent of the server.
    pub(crate) heap_percent: Option<f64>,
    pub(crate) longest_slice: Option<Duration>,
    pub(crate) samples: usize,
    /// Whether a signal ended it early.
    pub(crate) interrupted: bool,
}

pub(crate) fn run(args: &Soak, json: bool) -> Result<(), Failure> {
    let server = connect::server(&args.at)?;
    let ended = signals::ended_or_killed()?;
    if args.churn {
        check_duration(&args.work)?;
        return churn::run(args, &server, &ended, json);
    }
    let mut verdict = soak(&server, &args.at.redis, &args.work, &ended, !json)?;
    show(json, &to_json(&verdict), || to_text(&verdict))?;
    if let Some(failure) = verdict.outcome.failed.take() {
        return Err(failure);
    }
    if verdict.leaks {
        Err(Failure::No)
    } else {
        Ok(())
    }
}

pub(crate) fn soak(
    server: &Server,
    redis: &str,
    work: &Work,
    ended: &AtomicBool,
    verbose: bool,
) -> Result<Verdict, Failure> {
    check_duration(work)?;
    let before = server.figures()?;
    let traffic = Traffic {
        redis: redis.to_owned(),
        connections: work.concurrency,
        keys: work.keys,
        value_bytes: work.value_bytes,
        until: Until::Time(work.duration),
    };
    if before.cache.is_none() {
        return Err(connect::without_cache(server));
    }
    traffic.fill()?;
    let interval =
        (work.duration / SAMPLES).clamp(Duration::from_millis(20), Duration::from_secs(60));
    let monitor = MemoryMonitor::builder(ServerMemory::new(server.clone(), Subject::Server))
        .interval(interval)
        .samples(100_000)
        .start()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let running = traffic.start()?;
    let mut last_progress = Instant::now();
    while !running.is_over() {
        std::thread::sleep(Duration::from_millis(20));
        if ended.load(Ordering::Relaxed) {
            running.progress.stop();
        }
        // One line per minute, so that a long run shows progress.
        if verbose && last_progress.elapsed() > Duration::from_secs(60).min(work.duration / 4) {
            last_progress = Instant::now();
            let snapshot = monitor.snapshot();
            let growth = snapshot.growth.map_or(0.0, |growth| growth.mb_per_minute);
            note(&format!(
                "{:>6.0} s  {:>12} reads  {:>10}  {growth:+.3} MB/min\n",
                snapshot.uptime.as_secs_f64(),
                running.progress.reads(),
                maybe_bytes(snapshot.latest.memory.heap_used),
            ));
        }
    }
    monitor.stop();
    let history = monitor.history();
    let outcome = running.outcome();
    // Unknown if the server is gone: the earlier measurements are still valid.
    let after = reclaimed(server).ok().flatten();
    let mut verdict = judge(&history, outcome, work, before.used_memory, after);
    verdict.interrupted = ended.load(Ordering::Relaxed);
    Ok(verdict)
}

fn check_duration(work: &Work) -> Result<(), Failure> {
    if work.duration < Duration::from_secs(2) {
        return Err(Failure::Usage(
            "--duration must be 2s or more: growth needs time to show".into(),
        ));
    }
    Ok(())
}

/// The memory after that of the dropped entries was reclaimed.
fn reclaimed(server: &Server) -> Result<Option<u64>, Failure> {
    let start = Instant::now();
    loop {
        let figures = server.figures()?;
        let backlog = figures.cache.map_or(0, |cache| cache.reclaim_backlog);
        if backlog == 0 || start.elapsed() > RECLAIM {
            return Ok(figures.used_memory);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn judge(
    history: &[Arc<Sample>],
    outcome: Outcome,
    work: &Work,
    before: Option<u64>,
    after: Option<u64>,
) -> Verdict {
    // A part of the actual time, which is shorter than the planned one if the run ended early.
    let warm = work.duration.min(outcome.took).mul_f64(WARM_UP);
    let points: Vec<(Duration, u64)> = history
        .iter()
        .filter(|sample| sample.since_start >= warm)
        .filter_map(|sample| Some((sample.since_start, sample.memory.heap_used?)))
        .collect();
    let growth = Growth::fit(&points);
    let caches = history.iter().filter_map(|sample| sample.server.cache());
    let percents = history.iter().filter_map(|sample| {
        sample
            .memory
            .heap_percent(tagcache_admin::memory::HeapTotal::Limit)
    });
    Verdict {
        outcome,
        growth,
        leaks: growth.is_some_and(|growth| growth.steady && growth.at_least() >= work.leak_rate),
        before,
        most: history
            .iter()
            .filter_map(|sample| sample.memory.heap_used)
            .max(),
        after,
        heap_percent: percents.reduce(f64::max),
        longest_slice: caches
            .map(|cache| Duration::from_micros(cache.reclaim_max_us))
            .max(),
        samples: points.len(),
        interrupted: false,
    }
}

pub(crate) fn to_json(verdict: &Verdict) -> Value {
    json!({
        "leak": verdict.leaks,
        "interrupted": verdict.interrupted,
        "growth": verdict.growth,
        "samples": verdict.samples,
        "memoryBefore": verdict.before,
        "memoryMost": verdict.most,
        "memoryAfter": verdict.after,
        "heapPercentMost": verdict.heap_percent,
        "reads": verdict.outcome.reads,
        "hitPercent": verdict.outcome.hit_percent(),
        "invalidations": verdict.outcome.invalidations,
        "seconds": verdict.outcome.took.as_secs_f64(),
        "latencyMs": latency_json(&verdict.outcome.latencies),
        "longestReclaimSliceMs": verdict.longest_slice.map(|slice| slice.as_secs_f64() * 1000.0),
    })
}

fn to_text(verdict: &Verdict) -> String {
    let outcome = &verdict.outcome;
    format!(
        "{} reads in {:.1} s{}, {} invalidations, hit rate {}\nlatency  {}\nmemory   before {}, at most {}, after everything was dropped {}\ngrowth   {}\nslices   longest {}\n{}\n",
        outcome.reads,
        outcome.took.as_secs_f64(),
        if verdict.interrupted {
            " (ended early)"
        } else {
            ""
        },
        outcome.invalidations,
        percent(outcome.hit_percent()),
        latency_text(&outcome.latencies),
        maybe_bytes(verdict.before),
        maybe_bytes(verdict.most),
        maybe_bytes(verdict.after),
        growth_text(verdict),
        verdict.longest_slice.map_or_else(crate::text::unknown, ms),
        if verdict.leaks {
            "MEMORY GROWS"
        } else {
            "No leak found."
        }
    )
}

pub(crate) fn growth_text(verdict: &Verdict) -> String {
    verdict.growth.map_or_else(
        || "too few samples after the warm-up".into(),
        |growth| {
            format!(
                "{:+.3} ± {:.3} MB/min over {:.0} s after the warm-up ({} samples{})",
                growth.mb_per_minute,
                growth.margin,
                growth.seconds,
                growth.samples,
                if growth.steady {
                    ", steady"
                } else {
                    ", not steady"
                }
            )
        },
    )
}

/// For `verify`.
pub(crate) fn memory_text(verdict: &Verdict) -> String {
    let most = verdict.most.map_or_else(crate::text::unknown, bytes);
    format!("at most {} ({most})", percent(verdict.heap_percent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::histogram;

    /// The verdict on 100 s in which this many MB were used at each second, ended after `took`.
    fn verdict(took: u64, used: impl Fn(u64) -> u64) -> Verdict {
        let sample = |second| {
            let mut sample = Sample::default();
            sample.since_start = Duration::from_secs(second);
            sample.memory.heap_used = Some(used(second) * 1024 * 1024);
            sample.memory.limit = Some(1000 * 1024 * 1024);
            sample
        };
        let history: Vec<_> = (0..=took).map(|second| Arc::new(sample(second))).collect();
        let outcome = Outcome {
            reads: 4,
            hits: 3,
            invalidations: 0,
            took: Duration::from_secs(took),
            latencies: histogram(),
            failed: None,
        };
        let work = Work {
            duration: Duration::from_secs(100),
            concurrency: 1,
            keys: 100,
            value_bytes: 1,
            leak_rate: 1.0,
        };
        judge(&history, outcome, &work, Some(1), None)
    }

    #[test]
    fn steady_growth_after_the_warm_up_is_a_leak() {
        let leak = verdict(100, |second| 100 + second);
        assert!(leak.leaks);
        assert_eq!(leak.samples, 71);
        assert!((leak.growth.unwrap().mb_per_minute - 60.0).abs() < 1e-6);
        assert!((leak.heap_percent.unwrap() - 20.0).abs() < 1e-6);
        assert_eq!(leak.most, Some(200 * 1024 * 1024));
    }

    #[test]
    fn step_or_growth_during_warm_up_is_not_a_leak() {
        assert!(!verdict(100, |second| if second > 60 { 200 } else { 100 }).leaks);
        assert!(!verdict(100, |second| 100 + second.min(29)).leaks);
        assert!(!verdict(100, |_| 100).leaks);
    }

    #[test]
    fn soak_that_ended_early_has_a_shorter_warm_up() {
        let early = verdict(20, |second| 100 + second);
        assert!(early.leaks);
        assert_eq!(early.samples, 15);
    }
}
