//! A run: the processes, the servers with their faults, and the checker.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tagcache_tests::{DEADLINE, Engine, Rng, wait_until};

use crate::checker::{Limits, Verdict, check, history};
use crate::faults::{Kind, Stage, Strike};
use crate::log::{Record, Time, read};
use crate::worker::{COMMAND, LOAD, PROCESSES, STOP, Task, Without};

pub(crate) const LIMITS: Limits = Limits {
    // The time that a push may need on a machine where several processes share two cores; a connection that died
    // silently is noticed within 0.9 s.
    push: 1_500_000_000,
    call: COMMAND.as_nanos() as Time,
    // Waits for another load, then loads, with the commands in between.
    load: (2 * LOAD.as_nanos() + 3 * COMMAND.as_nanos()) as Time,
    // The longest pause between two attempts to connect is 3 s, a probe comes every 0.3 s.
    heal: 10_000_000_000,
};

/// The parameters of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) engine: Engine,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) without: Without,
    pub(crate) limits: Limits,
}

/// The result of a run.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) plan: Plan,
    pub(crate) verdict: Verdict,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// The output of the processes.
    pub(crate) output: String,
    /// The records around the first violation.
    pub(crate) history: Vec<Record>,
}

/// The child processes of a run, which end when this is dropped.
struct Fleet(Vec<Child>);

impl Fleet {
    fn start(tasks: &[Task]) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        // A build of this program with another client, for one of the processes.
        let old = std::env::var_os("TAGCACHE_TORTURE_OLD");
        let start = |task: &Task| {
            let other = old.as_ref().filter(|_| task.number == 2);
            let program = other.map_or_else(|| program.clone(), Into::into);
            let without =
                clap::ValueEnum::to_possible_value(&task.without).expect("a value with a name");
            let output = std::fs::File::create(task.dir.join(format!("said-{}", task.number)));
            Command::new(program)
                .args([
                    "worker",
                    "--servers",
                    &task.servers,
                    "--without",
                    without.get_name(),
                ])
                .args([
                    "--number",
                    &task.number.to_string(),
                    "--seed",
                    &task.seed.to_string(),
                ])
                .arg("--dir")
                .arg(&task.dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(output.expect("a file in a directory of ours"))
                .spawn()
                .expect("this program starts again")
        };
        Self(tasks.iter().map(start).collect())
    }

    fn is_running(&mut self) -> bool {
        self.0
            .iter_mut()
            .any(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn all_well(&mut self) -> bool {
        let mut ended = self.0.iter_mut().map(Child::wait);
        ended.all(|status| status.is_ok_and(|status| status.success()))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a fleet while faults of a kind happen. `None` where the kind is not possible.
pub(crate) fn run(kind: &Kind, plan: &Plan) -> Option<Outcome> {
    let site = (kind.site)(&plan.engine)?;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut rng = Rng::new(plan.seed);
    let tasks: Vec<Task> = (1..=PROCESSES)
        .map(|number| Task {
            servers: site.address(),
            number,
            seed: rng.next_u64(),
            without: plan.without,
            dir: dir.path().to_owned(),
        })
        .collect();
    let mut fleet = Fleet::start(&tasks);
    wait_until("the fleet is connected", DEADLINE, || {
        tasks.iter().all(|task| task.ready().exists())
    });
    let mut stage = Stage {
        site,
        rng,
        records: Vec::new(),
        counts: BTreeMap::new(),
        heal: plan.limits.heal,
    };
    strike(kind, &mut stage, Duration::from_secs(plan.seconds));
    wait_until("the fleet has done some work", DEADLINE * 4, || {
        // One process may be an older program, which does not report it.
        tasks.iter().filter(|task| task.worked().exists()).count() > 1
    });
    std::fs::write(dir.path().join(STOP), "").expect("a file in a directory of ours");
    wait_until("the fleet ends", DEADLINE * 4, || !fleet.is_running());
    let output: Vec<String> = (1..=PROCESSES)
        .map(|number| {
            std::fs::read_to_string(dir.path().join(format!("said-{number}"))).unwrap_or_default()
        })
        .collect();
    let output = output.concat();
    assert!(fleet.all_well(), "a process failed:\n{output}");
    let mut records = stage.records;
    for task in &tasks {
        records.extend(read(&task.records()));
    }
    let verdict = check(&records, plan.limits);
    let first = verdict.violations.first();
    Some(Outcome {
        name: kind.title(),
        plan: plan.clone(),
        history: first.map_or_else(Vec::new, |first| history(&records, first)),
        verdict,
        counts: stage.counts,
        output,
    })
}

/// Faults are mostly close together, and sometimes far enough apart for everything to heal, as at the end.
fn strike(kind: &Kind, stage: &mut Stage, time: Duration) {
    // After this time a push has arrived, or the checker may report that it has not.
    let quiet = Duration::from_nanos(LIMITS.push) + Duration::from_millis(500);
    let deadline = Instant::now() + time;
    let mut left: Vec<Strike> = Vec::new();
    std::thread::sleep(Duration::from_millis(500));
    while Instant::now() < deadline && !kind.strikes.is_empty() {
        if left.is_empty() {
            left.extend(kind.strikes);
        }
        let next = left.swap_remove(stage.rng.below(left.len()));
        next(stage);
        let pause = match stage.rng.below(20) {
            // Long enough that calls may no longer fail.
            0 if time > quiet * 10 => Duration::from_nanos(stage.heal) + quiet,
            1..6 => quiet,
            _ => Duration::from_millis(100 + stage.rng.below(400) as u64),
        };
        std::thread::sleep(pause);
    }
    std::thread::sleep(
        deadline
            .saturating_duration_since(Instant::now())
            .max(quiet),
    );
}
