//! Runs a fleet of clients against servers that suffer, and judges what they read: `make torture`.
#![forbid(unsafe_code)]

mod crash;
mod faults;
mod fleet;
mod judge;
mod log;
mod moves;
mod naive;
mod proofs;
mod report;
mod site;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tagcache_tests::{Engine, engines};

use crate::faults::KINDS;
use crate::fleet::{LIMITS, Plan};
use crate::report::Report;
use crate::worker::{Task, Without};

#[derive(Parser, Debug)]
#[command(about = "Runs a fleet of clients against servers that suffer, and judges what they read")]
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
    /// One of the servers in TAGCACHE_ENGINES; default: the first. `all` for each
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
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| only == name);
    let mut report = Report::new(arguments.short);
    for engine in chosen(arguments.engine.as_deref()) {
        let plan = Plan {
            engine,
            seed: arguments.seed,
            seconds: if arguments.short {
                4
            } else {
                arguments.seconds
            },
            without: Without::Nothing,
            limits: LIMITS,
        };
        if wanted("proofs") {
            let short = Plan {
                seconds: 4,
                ..plan.clone()
            };
            for (outcome, finds) in proofs::all(&short) {
                report.proof(&outcome, finds);
            }
        }
        let kinds = KINDS.iter().filter(|kind| wanted(kind.name));
        for kind in kinds.filter(|kind| kind.short || !arguments.short) {
            match fleet::run(kind, &plan) {
                Some(outcome) => report.run(&outcome),
                None => println!("{} on {}: cannot be had here", kind.name, plan.engine.name),
            }
        }
        if wanted("crash") {
            crashes(&plan, arguments.short, &mut report);
        }
    }
    report.end()
}

/// Kills servers at each moment, under each promise.
fn crashes(plan: &Plan, short: bool, report: &mut Report) {
    use crash::{Durability, Moment};
    let (engine, seed) = (&plan.engine, plan.seed);
    let time = Duration::from_secs(if short { 1 } else { plan.seconds / 4 });
    for durability in crash::DURABILITIES {
        for moment in crash::MOMENTS {
            // A snapshot would make something of nothing.
            if (durability, moment) != (Durability::Nothing, Moment::Rewrite) {
                report.crashes(plan, &crash::run(engine, durability, moment, time, seed));
            }
        }
    }
    for moment in [Moment::Move, Moment::Migration] {
        if let Some(crashes) = moves::run(engine, moment, time, seed) {
            report.crashes(plan, &crashes);
        }
    }
}
