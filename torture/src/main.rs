//! Runs a fleet of clients against servers with faults, and checks what they read: `make torture`.
#![forbid(unsafe_code)]
#![allow(
    clippy::useless_vec,
    reason = "`args!` makes vectors of any mix of types"
)]

mod checker;
mod crash;
mod faults;
mod fleet;
mod log;
mod moves;
mod naive;
mod proofs;
mod report;
mod site;
mod worker;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tagcache_tests::{Engine, engines};

use crate::crash::{Durability, Moment};
use crate::faults::KINDS;
use crate::fleet::{LIMITS, Plan};
use crate::report::{Found, Report};
use crate::worker::{Task, Without};

#[derive(Parser, Debug)]
#[command(about = "Runs a fleet of clients against servers that suffer, and checks what they read")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How long each kind of fault goes on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Takes another course
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One kind of fault, or `proofs`; default: all
    #[arg(long)]
    only: Option<String>,
    /// One of the servers in `TAGCACHE_ENGINES`; default: the first. `all` for each
    #[arg(long)]
    engine: Option<String>,
    /// Some kinds of fault, which together take about two minutes
    #[arg(long)]
    short: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// One process of a fleet; started by the program itself
    #[command(hide = true)]
    Worker(Task),
}

fn chosen(name: Option<&str>) -> Vec<Engine> {
    let all = engines();
    match name {
        None => all.into_iter().take(1).collect(),
        Some("all") => all,
        Some(name) => all
            .into_iter()
            .filter(|engine| engine.name == name)
            .collect(),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Worker(task)) = &arguments.command {
        worker::run(task);
        return ExitCode::SUCCESS;
    }
    let mut jobs = VecDeque::new();
    for engine in chosen(arguments.engine.as_deref()) {
        let plan = Plan {
            engine,
            seed: arguments.seed,
            seconds: if arguments.short {
                SHORT
            } else {
                arguments.seconds
            },
            without: Without::Nothing,
            limits: LIMITS,
        };
        add_jobs(&mut jobs, &arguments, &plan);
    }
    let report = Mutex::new(Report::new(arguments.short));
    let jobs = Mutex::new(jobs);
    let work = || {
        loop {
            let job = jobs
                .lock()
                .expect("nothing panics while it is held")
                .pop_front();
            let Some(job) = job else { return };
            let found = job();
            report
                .lock()
                .expect("nothing panics while it is held")
                .add(&found);
        }
    };
    std::thread::scope(|scope| {
        // Most of a run's time is pauses; the figures of the long form come from one run at a time.
        for _ in 0..if arguments.short { 2 } else { 1 } {
            scope.spawn(work);
        }
    });
    report
        .into_inner()
        .expect("nothing panics while it is held")
        .end()
}

/// Seconds of each run of the short form, and of the runs that lack a protection.
const SHORT: u64 = 3;

type Job = Box<dyn FnOnce() -> Found + Send>;

fn add_jobs(jobs: &mut VecDeque<Job>, arguments: &Arguments, plan: &Plan) {
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| only == name);
    let kinds = KINDS.iter().filter(|kind| wanted(kind.name));
    for kind in kinds.filter(|kind| kind.short || !arguments.short) {
        let plan = plan.clone();
        jobs.push_back(Box::new(move || {
            let outcome = fleet::run(kind, &plan);
            outcome.map_or_else(
                || Found::Nowhere(kind.name, plan),
                |outcome| Found::Run(Box::new(outcome)),
            )
        }));
    }
    if wanted("proofs") {
        for proof in proofs::PROOFS {
            let seconds = SHORT;
            let plan = Plan {
                seconds,
                ..plan.clone()
            };
            jobs.push_back(Box::new(move || {
                let (outcome, finds) = proof.run(&plan);
                Found::Proof(Box::new(outcome), finds)
            }));
        }
    }
    if wanted("crash") {
        add_crashes(jobs, arguments.short, plan);
    }
}

/// Kills servers at each moment, for each durability.
fn add_crashes(jobs: &mut VecDeque<Job>, short: bool, plan: &Plan) {
    let time = Duration::from_secs(if short { 1 } else { plan.seconds / 4 });
    for durability in crash::DURABILITIES {
        for moment in crash::MOMENTS {
            let happens = match moment {
                // A snapshot would make a server that promises nothing keep something.
                Moment::Rewrite => durability != Durability::Nothing,
                // Other servers go on, and refuse changes.
                Moment::FullDisk => durability == Durability::Always,
                _ => true,
            };
            if happens {
                let plan = plan.clone();
                jobs.push_back(Box::new(move || {
                    let crashes = crash::run(&plan.engine, durability, moment, time, plan.seed);
                    Found::Crashes(crashes, plan)
                }));
            }
        }
    }
    for moment in [Moment::Move, Moment::Migration] {
        let plan = plan.clone();
        jobs.push_back(Box::new(move || {
            match moves::run(&plan.engine, moment, time, plan.seed) {
                Some(crashes) => Found::Crashes(crashes, plan),
                None => Found::Nowhere("killed while slots move as a whole", plan),
            }
        }));
    }
}
