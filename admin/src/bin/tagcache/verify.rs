//! `tagcache verify`: the success criteria, each with its measured figure.

mod alarms;
mod behaviours;
mod dashboard;

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{Verify, Work};
use crate::output::{Failure, note, show};
use crate::soak::{self, Verdict};
use crate::text::{ms, percent, unknown};
use crate::{connect, signals};

/// Limit for the heap under load, in percent.
const HEAP: f64 = 80.0;
/// Smallest hit rate, in percent.
const HIT_RATE: f64 = 70.0;
/// Longest pause.
const PAUSE: Duration = Duration::from_millis(100);

/// Number of expired entries that a local tier's cleanup is measured with: ten times the guide's whole capacity.
const LOCAL_ENTRIES: u32 = 1000;

/// One criterion.
#[derive(Debug)]
pub(crate) struct Check {
    what: &'static str,
    met: bool,
    measured: String,
}

impl Check {
    pub(crate) fn new(what: &'static str, met: bool, measured: impl Into<String>) -> Self {
        Self {
            what,
            met,
            measured: measured.into(),
        }
    }

    pub(crate) fn of(what: &'static str, result: Result<String, String>) -> Self {
        let met = result.is_ok();
        let (Ok(measured) | Err(measured)) = result;
        Self::new(what, met, measured)
    }
}

pub(crate) fn run(args: &Verify, json: bool) -> Result<(), Failure> {
    let server = connect::server(&args.at)?;
    let ended = signals::ended_or_killed()?;
    if !json {
        let lasts = humantime::format_duration(args.work.duration);
        note(&format!("Load for {lasts} …\n"));
    }
    let mut verdict = soak::soak(&server, &args.at.redis, &args.work, &ended, !json)?;
    if let Some(failure) = verdict.outcome.failed.take() {
        return Err(failure);
    }
    let mut checks = of_soak(&verdict, &args.work);
    checks.extend(dashboard::checks(&server)?);
    checks.push(Check::of(
        "Alerts trigger correctly at thresholds",
        alarms::check()?,
    ));
    if let Some(file) = &args.alerts {
        checks.push(Check::of(
            "Alert rules are right and their channels open",
            alarms::check_file(file),
        ));
    }
    checks.extend(behaviours::checks(&server, &args.at.redis)?);
    if verdict.interrupted || ended.load(Ordering::Relaxed) {
        return Err(Failure::Because(
            "ended before everything was checked".into(),
        ));
    }

    let met = checks.iter().all(|check| check.met);
    show(json, &to_json(&checks, &verdict, met), || {
        to_text(&checks, met)
    })?;
    if met { Ok(()) } else { Err(Failure::No) }
}

fn of_soak(verdict: &Verdict, work: &Work) -> Vec<Check> {
    let hit_rate = verdict.outcome.hit_percent();
    let heap = verdict.heap_percent;
    let slice = verdict.longest_slice;
    let cleanup = behaviours::longest_cleanup(LOCAL_ENTRIES);
    let lasted = humantime::format_duration(work.duration);
    vec![
        Check::new(
            "Heap usage remains below 80% under normal load",
            heap.is_some_and(|heap| heap < HEAP),
            soak::memory_text(verdict),
        ),
        Check::new(
            "No memory leaks detected in the stress test",
            verdict.growth.is_some() && !verdict.leaks,
            format!("{}; {lasted} of 24h", soak::growth_text(verdict)),
        ),
        Check::new(
            "Cache hit rate above 70%",
            hit_rate.is_some_and(|rate| rate > HIT_RATE),
            format!("{} of {} reads", percent(hit_rate), verdict.outcome.reads),
        ),
        Check::new(
            "Pauses below 100 ms",
            slice.is_some_and(|slice| slice < PAUSE) && cleanup < PAUSE,
            format!(
                "longest reclaim slice {}; {LOCAL_ENTRIES} expired entries of a local tier cleaned up in {}",
                slice.map_or_else(unknown, ms),
                ms(cleanup)
            ),
        ),
    ]
}

fn to_json(checks: &[Check], verdict: &Verdict, met: bool) -> Value {
    let check = |check: &Check| json!({"criterion": check.what, "met": check.met, "measured": check.measured});
    let checks: Value = checks.iter().map(check).collect();
    json!({"met": met, "checks": checks, "soak": soak::to_json(verdict)})
}

fn to_text(checks: &[Check], met: bool) -> String {
    let line = |check: &Check| {
        let mark = if check.met { "[x]" } else { "[ ] NOT MET:" };
        format!("- {mark} {}: {}\n", check.what, check.measured)
    };
    let mut text: String = checks.iter().map(line).collect();
    text += if met {
        "\nAll is met.\n"
    } else {
        "\nNot all is met.\n"
    };
    text
}
