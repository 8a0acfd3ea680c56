//! `tagcache verify`: the success criteria, each with what was measured.

mod alarms;
mod dashboard;

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::Verify;
use crate::connect;
use crate::output::{Failure, show};
use crate::soak::{self, Verdict};
use crate::text::{ms, percent, unknown};

/// Most of the heap that may be used under load, in percent.
const HEAP: f64 = 80.0;
/// Fewest reads that must hit, in percent.
const HIT_RATE: f64 = 70.0;
/// Longest pause.
const PAUSE: Duration = Duration::from_millis(100);

/// One criterion.
#[derive(Debug)]
pub(crate) struct Check {
    what: &'static str,
    result: Judgement,
    measured: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Met,
    NotMet,
    /// Cannot be told here.
    NotChecked,
}

impl Check {
    pub(crate) fn new(what: &'static str, met: bool, measured: impl Into<String>) -> Self {
        Self {
            what,
            result: if met {
                Judgement::Met
            } else {
                Judgement::NotMet
            },
            measured: measured.into(),
        }
    }

    pub(crate) fn of(what: &'static str, result: Result<String, String>) -> Self {
        match result {
            Ok(measured) => Self::new(what, true, measured),
            Err(measured) => Self::new(what, false, measured),
        }
    }

    fn not_checked(what: &'static str, why: &str) -> Self {
        Self {
            what,
            result: Judgement::NotChecked,
            measured: why.into(),
        }
    }
}

pub(crate) fn run(args: &Verify, json: bool) -> Result<(), Failure> {
    let server = connect::server(&args.at)?;
    let figures = server.figures()?;
    if !json {
        eprintln!(
            "Load for {} …",
            humantime::format_duration(args.work.duration)
        );
    }
    let verdict = soak::soak(&server, &args.at.redis, &args.work, !json)?;
    let mut checks = of_soak(&verdict, args.work.duration);
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
    checks.push(Check::not_checked(
        "All unit tests pass",
        "run `make test` in the repository",
    ));
    let deployed = format!(
        "{} with the module, {} keys",
        figures.name, figures.key_count
    );
    checks.push(Check::new(
        "Server deployed",
        figures.cache.is_some(),
        deployed,
    ));

    let met = checks.iter().all(|check| check.result != Judgement::NotMet);
    show(json, &to_json(&checks, &verdict, met), || {
        to_text(&checks, met)
    })?;
    if met { Ok(()) } else { Err(Failure::No) }
}

fn of_soak(verdict: &Verdict, duration: Duration) -> Vec<Check> {
    let hit_rate = verdict.outcome.hit_percent();
    let heap = verdict.heap_percent;
    let pause = verdict.longest_slice;
    let lasted = humantime::format_duration(duration);
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
            pause.is_some_and(|pause| pause < PAUSE),
            format!("longest reclaim slice {}", pause.map_or_else(unknown, ms)),
        ),
    ]
}

fn to_json(checks: &[Check], verdict: &Verdict, met: bool) -> Value {
    let check = |check: &Check| {
        let met = match check.result {
            Judgement::Met => Some(true),
            Judgement::NotMet => Some(false),
            Judgement::NotChecked => None,
        };
        json!({"criterion": check.what, "met": met, "measured": check.measured})
    };
    let checks: Value = checks.iter().map(check).collect();
    json!({"met": met, "checks": checks, "soak": soak::to_json(verdict)})
}

fn to_text(checks: &[Check], met: bool) -> String {
    let line = |check: &Check| {
        let mark = match check.result {
            Judgement::Met => "[x]",
            Judgement::NotMet => "[ ] NOT MET:",
            Judgement::NotChecked => "[?] not checked:",
        };
        format!("- {mark} {}: {}\n", check.what, check.measured)
    };
    let mut text: String = checks.iter().map(line).collect();
    text += if met {
        "\nAll that was checked is met.\n"
    } else {
        "\nNot all is met.\n"
    };
    text
}
