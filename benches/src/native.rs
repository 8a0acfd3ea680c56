//! The cost of native commands with the module: absent, idle, with entries, during a backlog.

use std::io::{Error, Result};
use std::ops::Range;

use tagcache_tests::{RawClient, Server, args, call};

use crate::options::Options;
use crate::table::{Table, median};
use crate::targets::{Bound, Targets};
use crate::wire::{Expect, Tape, Wire};
use crate::workload::cpu_seconds;

const KEYS: usize = 30_000;
const ENTRIES: usize = 100_000;
const DEPTH: usize = 16;
const COMMANDS: [&str; 5] = ["GET", "SET PX", "EXPIRE", "MGET of 10", "DEL"];

/// The state of the module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Module {
    Absent,
    Idle,
    Entries,
    /// While gone entries are reclaimed, with this `reclaim-budget-us`.
    Backlog(u32),
}

const MODULES: [Module; 5] = [
    Module::Absent,
    Module::Idle,
    Module::Entries,
    Module::Backlog(50),
    Module::Backlog(1000),
];

impl Module {
    fn name(self) -> String {
        match self {
            Self::Absent => "absent".to_owned(),
            Self::Idle => "idle".to_owned(),
            Self::Entries => format!("{ENTRIES} entries"),
            Self::Backlog(us) => format!("backlog, budget {us}"),
        }
    }
}

/// A server, and its processor time for each command in each round.
struct Lane {
    module: Module,
    server: Server,
    wires: [Wire; 2],
    cpu_us: Vec<Vec<f64>>,
}

impl Lane {
    fn start(options: &Options, module: Module) -> Result<Self> {
        let builder = Server::builder()
            .engine(&options.engine)
            .arg("--loglevel", "warning");
        let server = match module {
            Module::Absent => builder.without_module().start(),
            _ => builder.start(),
        };
        let connect = || Wire::connect(server.port(), 0);
        let wires = [connect()?, connect()?];
        let mut client = server.raw();
        match module {
            Module::Entries => fill(&mut client, "entry"),
            Module::Backlog(us) => {
                call!(client, "CONFIG", "SET", "tagcache.reclaim-budget-us", us);
            }
            _ => {}
        }
        let strings: Vec<_> = (0..KEYS).map(|n| args!["SET", key(n), value()]).collect();
        client.pipeline(&strings);
        Ok(Self {
            module,
            server,
            wires,
            cpu_us: vec![Vec::new(); COMMANDS.len()],
        })
    }

    /// Runs a tape and notes the processor time of a command. During a backlog, only commands before the end of the
    /// backlog are counted: the time until then depends on the machine.
    fn sample(&mut self, command: usize, tape: &Tape) -> Result<()> {
        const CHUNK: usize = 1_500;
        let mut client = self.server.raw();
        let backlog = matches!(self.module, Module::Backlog(_));
        if backlog {
            fill(&mut client, "gone");
            call!(client, "CACHE.INVALIDATE", "bench");
        }
        let left =
            |client: &mut RawClient| call!(client, "CACHE.STATS").field("reclaim_backlog").int();
        let mut ran = 0;
        let mut cpu = 0.0;
        while ran < tape.len() {
            let end = (ran + CHUNK).min(tape.len());
            let before = cpu_seconds(&mut client);
            self.run(tape, ran..end)?;
            let took = cpu_seconds(&mut client) - before;
            if backlog && left(&mut client) == 0 {
                break;
            }
            cpu += took;
            ran = end;
        }
        if ran == 0 {
            return Err(Error::other(
                "the backlog was gone before anything was measured",
            ));
        }
        if let Module::Backlog(us) = self.module {
            let set_budget = |client: &mut RawClient, us: u32| {
                call!(client, "CONFIG", "SET", "tagcache.reclaim-budget-us", us);
            };
            set_budget(&mut client, 100_000);
            while left(&mut client) > 0 {
                std::thread::yield_now();
            }
            set_budget(&mut client, us);
        }
        self.cpu_us[command].push(cpu * 1e6 / ran as f64);
        Ok(())
    }

    /// While one connection's commands run, the next ones wait on the other connection: the server is never idle.
    fn run(&mut self, tape: &Tape, commands: Range<usize>) -> Result<()> {
        let mut waiting = [0; 2];
        let mut next = commands.start;
        while next < commands.end {
            for (wire, waiting) in self.wires.iter_mut().zip(&mut waiting) {
                wire.receive(*waiting, Expect::NoError)?;
                let last = (next + DEPTH).min(commands.end);
                if last > next {
                    wire.send(tape.commands(next, last))?;
                }
                *waiting = last - next;
                next = last;
            }
        }
        for (wire, waiting) in self.wires.iter_mut().zip(waiting) {
            wire.receive(waiting, Expect::NoError)?;
        }
        Ok(())
    }
}

fn key(n: usize) -> String {
    format!("string:{n:06}")
}

fn value() -> Vec<u8> {
    vec![b'v'; 100]
}

fn fill(client: &mut RawClient, prefix: &str) {
    let numbers: Vec<usize> = (0..ENTRIES).collect();
    for numbers in numbers.chunks(10_000) {
        let set = |n: &usize| {
            args![
                "CACHE.SET",
                format!("{prefix}{n}"),
                value(),
                "EX",
                100_000,
                "TAGS",
                1,
                "bench"
            ]
        };
        client.pipeline(&numbers.iter().map(set).collect::<Vec<_>>());
    }
}

/// The commands of one kind. Those of DEL come last, and first store the keys that they need.
fn tape(command: usize) -> Tape {
    let mut tape = Tape::default();
    // Every 7th key after the last one, so that neighbours in memory are not neighbours in time.
    for n in (0..KEYS).map(|n| n * 7 % KEYS) {
        let name = key(n);
        let name = name.as_bytes();
        match command {
            0 => tape.push(&[b"GET", name]),
            1 => tape.push(&[b"SET", name, &value(), b"PX", b"100000000"]),
            2 => tape.push(&[b"EXPIRE", name, b"100000"]),
            3 if n < KEYS / 5 => {
                let names: Vec<String> = (0..10).map(|at| key((n + at * 1_001) % KEYS)).collect();
                let mut words = vec![&b"MGET"[..]];
                words.extend(names.iter().map(String::as_bytes));
                tape.push(&words);
            }
            3 => {}
            _ => tape.push(&[b"DEL", name]),
        }
    }
    tape
}

pub(crate) fn run(options: &Options, targets: &mut Targets) -> Result<()> {
    let mut lanes = Vec::new();
    for module in MODULES {
        lanes.push(Lane::start(options, module)?);
    }
    let tapes: Vec<Tape> = (0..COMMANDS.len()).map(tape).collect();
    for round in 0..=options.rounds {
        for (command, tape) in tapes.iter().enumerate() {
            for lane in &mut lanes {
                lane.sample(command, tape)?;
                if round == 0 {
                    lane.cpu_us[command].clear(); // The first round warms up.
                }
            }
        }
        for lane in &mut lanes {
            let strings: Vec<_> = (0..KEYS).map(|n| args!["SET", key(n), value()]).collect();
            lane.server.raw().pipeline(&strings);
        }
    }
    println!("Native commands, {DEPTH} a round trip: processor time with the module / without it");
    let mut table = Table::new(&[&["module"][..], &COMMANDS].concat());
    for lane in &lanes[1..] {
        let mut cells = vec![lane.module.name()];
        for (command, name) in COMMANDS.iter().enumerate() {
            let (with, without) = (&lane.cpu_us[command], &lanes[0].cpu_us[command]);
            let ratio = median(
                with.iter()
                    .zip(without)
                    .map(|(with, without)| with / without),
            );
            cells.push(format!("{ratio:.3}"));
            if matches!(lane.module, Module::Backlog(_)) {
                let what = format!("{name} during a {}", lane.module.name());
                targets.add(what, Bound::AtMost(1.15), ratio, "");
            }
        }
        table.row(cells);
    }
    table.print();
    Ok(())
}
