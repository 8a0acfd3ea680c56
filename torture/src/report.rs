//! The results of runs: printed as they end, and as tables in `target/torture`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::checker::{Rule, Verdict};
use crate::crash::Crashes;
use crate::fleet::{Outcome, Plan};
use crate::log::Time;

const RULES: [Rule; 6] = [
    Rule::Stale,
    Rule::Invented,
    Rule::Lost,
    Rule::LoadedTwice,
    Rule::Overrun,
    Rule::Unhealed,
];

const HEAD: &str = "| fault | server | seed | seconds | faults | reads | changes | loads | failed calls, without a fault | violations | oldest read | longest \
                    call | longest load | healed within | healings | stalled |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
const CRASH_HEAD: &str = "| kept | killed while | server | seed | kills | confirmed changes | lost by one kill, at most |\n\
                          |---|---|---|---|---|---|---|\n";
const PROOF_HEAD: &str = "| without | server | seed | reads | found |\n|---|---|---|---|---|\n";

/// The result of one job.
pub(crate) enum Found {
    Run(Box<Outcome>),
    /// With the violation that should have been found.
    Proof(Box<Outcome>, Option<Rule>),
    Crashes(Result<Crashes, String>, Plan),
    /// Not possible on this server.
    Nowhere(&'static str, Plan),
}

pub(crate) struct Report {
    file: PathBuf,
    runs: String,
    crashes: String,
    proofs: String,
    details: String,
    failed: usize,
    done: usize,
}

fn ms(time: Time) -> String {
    format!("{} ms", time / 1_000_000)
}

fn found(verdict: &Verdict) -> String {
    let counts = RULES.map(|rule| (verdict.count(rule), rule));
    let found: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, rule)| format!("{count} {rule:?}"))
        .collect();
    if found.is_empty() {
        "none".to_owned()
    } else {
        found.join(", ")
    }
}

impl Report {
    pub(crate) fn new(short: bool) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/torture");
        std::fs::create_dir_all(&dir).expect("a directory under target");
        let name = if short { "short.md" } else { "report.md" };
        Self {
            file: dir.join(name),
            runs: HEAD.to_owned(),
            crashes: CRASH_HEAD.to_owned(),
            proofs: PROOF_HEAD.to_owned(),
            details: String::new(),
            failed: 0,
            done: 0,
        }
    }

    pub(crate) fn add(&mut self, found: &Found) {
        match found {
            Found::Run(outcome) => self.run(outcome),
            Found::Proof(outcome, finds) => self.proof(outcome, *finds),
            Found::Crashes(crashes, plan) => self.crashes(plan, crashes),
            Found::Nowhere(name, plan) => {
                println!("{name}: not on {}", plan.engine.name);
                writeln!(self.details, "\nNot run on {}: {name}.", plan.engine.name)
                    .expect("a string takes everything");
            }
        }
    }

    fn detail(&mut self, outcome: &Outcome) {
        let Outcome {
            name,
            plan,
            verdict,
            counts,
            output,
            history,
        } = outcome;
        let counts: Vec<String> = counts
            .iter()
            .map(|(what, count)| format!("{count} × {what}"))
            .collect();
        writeln!(
            self.details,
            "\n## {name} on {}, seed {}\n\n{}\n",
            plan.engine.name,
            plan.seed,
            counts.join("; ")
        )
        .expect("a string takes everything");
        for violation in verdict.violations.iter().take(10) {
            writeln!(self.details, "- {violation:?}").expect("a string takes everything");
        }
        if !history.is_empty() {
            self.details.push_str("\nAround the first:\n\n");
        }
        for record in history {
            writeln!(self.details, "- {record:?}").expect("a string takes everything");
        }
        writeln!(self.details, "\n```text\n{output}```").expect("a string takes everything");
    }

    /// Notes a run in which nothing may be found.
    fn run(&mut self, outcome: &Outcome) {
        let Outcome {
            name,
            plan,
            verdict,
            ..
        } = outcome;
        let found = found(verdict);
        let row = format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {}, {} | {found} | {} | {} | {} | {} | {} | {} |",
            plan.engine.name,
            plan.seed,
            plan.seconds,
            verdict.faults,
            verdict.reads,
            verdict.changes,
            verdict.loads,
            verdict.failed,
            verdict.unexplained,
            ms(verdict.oldest),
            ms(verdict.longest_call),
            ms(verdict.longest_load),
            ms(verdict.slowest_heal),
            verdict.heals,
            ms(verdict.stalled),
        );
        println!("{row}");
        self.runs += &row;
        self.runs.push('\n');
        self.detail(outcome);
        if verdict.idle > 0 {
            println!("{name}: {} processes never found anything", verdict.idle);
        }
        self.close(verdict.violations.is_empty() && verdict.idle == 0);
    }

    /// Notes a run in which something must be found.
    fn proof(&mut self, outcome: &Outcome, finds: Option<Rule>) {
        let Outcome {
            name,
            plan,
            verdict,
            ..
        } = outcome;
        let found = found(verdict);
        let row = format!(
            "| {name} | {} | {} | {} | {found} |",
            plan.engine.name, plan.seed, verdict.reads
        );
        println!("without {name}: {found}");
        self.proofs += &row;
        self.proofs.push('\n');
        self.detail(outcome);
        let right = match finds {
            Some(rule) => verdict.count(rule) > 0,
            None => verdict.violations.is_empty() && verdict.idle == 0,
        };
        if !right {
            println!("without {name} the checker finds {found}, which should be {finds:?}");
        }
        self.close(right);
    }

    /// Notes the data that a server held after it was killed.
    fn crashes(&mut self, plan: &Plan, crashes: &Result<Crashes, String>) {
        let (engine, seed) = (&plan.engine.name, plan.seed);
        let row = match crashes {
            Ok(crashes) => format!(
                "| {:?} | {:?} | {engine} | {seed} | {} | {} | {} |",
                crashes.durability, crashes.moment, crashes.kills, crashes.confirmed, crashes.lost
            ),
            Err(why) => format!("| {why} | | {engine} | {seed} | | | |"),
        };
        println!("{row}");
        self.crashes += &row;
        self.crashes.push('\n');
        self.close(crashes.is_ok());
    }

    fn close(&mut self, well: bool) {
        self.done += 1;
        self.failed += usize::from(!well);
        let text = format!(
            "# Torture\n\n{} runs, {} not as they should be.\n\n{}\n{}\n{}{}",
            self.done, self.failed, self.runs, self.crashes, self.proofs, self.details
        );
        std::fs::write(&self.file, text).expect("a file under target");
    }

    pub(crate) fn end(&self) -> ExitCode {
        println!(
            "{} runs, {} not as they should be: {}",
            self.done,
            self.failed,
            self.file.display()
        );
        if self.failed > 0 {
            print!("{}", self.details);
        }
        if self.failed == 0 && self.done > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
