//! `make compare`: the module compared with every other published way to cache with tags, one table per question. The
//! same client, data and server for all; countable costs are counted, times are compared round by round.

mod chart;
mod drop;
mod module;
mod race;
mod scans;
mod sets;
mod space;
mod speed;
mod stamps;
mod stream;
mod way;

use std::io::{Error, Result};
use std::path::Path;

use tagcache_tests::{Engine, RawClient, Server, call};

use crate::options::{engine, number};
use crate::table::Table;
use crate::wire::{Expect, Tape, Wire};
use way::{Entry, Link, Way};

pub(crate) const USAGE: &str = "\
usage: make compare ARGS='[--quick] [--only QUESTION]... [--engine NAME] [--sizes N,N...] [--rounds N]'
  --quick          few rounds, small sizes: to see that it works, not for figures
  --only QUESTION  speed, invalidate, memory, expired, race, stampede or stream; may be given several times
  --engine NAME    a server of TAGCACHE_ENGINES (NAME=COMMAND, separated by ';'); default: its first
  --sizes N,N...   entries that are invalidated, default 10,100,1000,10000,100000,1000000
  --rounds N       how often each time is taken, default 5";

const QUESTIONS: [&str; 7] = [
    "speed",
    "invalidate",
    "memory",
    "expired",
    "race",
    "stampede",
    "stream",
];

type Make = fn(&mut Link) -> Box<dyn Way>;

/// Constructors of the ways; the others are compared with the first.
const WAYS: [Make; 9] = [
    |_| Box::new(module::Module),
    |link| Box::new(sets::LuaSets::new(link)),
    |_| Box::new(sets::MultiSets),
    |_| Box::new(sets::LaravelSortedSets),
    |_| Box::new(sets::SymfonySets),
    |_| Box::new(stamps::SymfonyVersions::new()),
    |_| Box::new(stamps::FusionTimes),
    |_| Box::new(scans::NextHash),
    |_| Box::new(scans::NameScan),
];

pub(crate) struct Options {
    questions: Vec<String>,
    pub(crate) engine: Engine,
    sizes: Vec<usize>,
    rounds: usize,
    /// Entries that are kept besides the invalidated ones, and whose memory is measured.
    entries: usize,
    /// Gets or sets of one sample.
    calls: usize,
    /// Runs of the race.
    runs: u64,
}

impl Options {
    /// `None` requests the usage text.
    pub(crate) fn parse(
        mut args: impl Iterator<Item = String>,
    ) -> std::result::Result<Option<Self>, String> {
        let mut options = Self {
            questions: Vec::new(),
            engine: Engine::default_engine(),
            sizes: vec![10, 100, 1_000, 10_000, 100_000, 1_000_000],
            rounds: 5,
            entries: 100_000,
            calls: 2_000,
            runs: 10_000,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => {
                    options.sizes = vec![10, 1_000];
                    (options.rounds, options.entries) = (2, 5_000);
                    (options.calls, options.runs) = (300, 200);
                }
                "--only" => {
                    let question = value()?;
                    if !QUESTIONS.contains(&question.as_str()) {
                        return Err(format!(
                            "--only {question}: {} are known",
                            QUESTIONS.join(", ")
                        ));
                    }
                    options.questions.push(question);
                }
                "--engine" => options.engine = engine(&value()?)?,
                "--sizes" => {
                    let sizes = value()?;
                    options.sizes = sizes
                        .split(',')
                        .map(number)
                        .collect::<std::result::Result<_, _>>()?;
                }
                "--rounds" => options.rounds = number(&value()?)?.max(1),
                _ => return Err(format!("unknown argument {arg}")),
            }
        }
        if options.questions.is_empty() {
            options.questions = QUESTIONS.map(str::to_owned).to_vec();
        }
        Ok(Some(options))
    }
}

/// Prints results, and keeps them as Markdown with their charts.
pub(crate) struct Report {
    text: String,
}

impl Report {
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench-report");

    fn table(&mut self, title: &str, table: &Table) {
        let text = format!("**{title}**\n\n{table}\n");
        print!("{text}");
        self.text += &text;
    }

    fn write(name: &str, text: &str) -> Result<()> {
        std::fs::create_dir_all(Self::FOLDER)?;
        std::fs::write(Path::new(Self::FOLDER).join(name), text)
    }
}

pub(crate) fn run(options: &Options, server: &Server) -> Result<()> {
    let conditions = crate::conditions(&mut server.raw());
    println!("{conditions}\n");
    let mut report = Report {
        text: format!("{conditions}\n\n"),
    };
    for question in &options.questions {
        match question.as_str() {
            "speed" => speed::run(options, server, &mut report)?,
            "invalidate" => drop::run(options, server, &mut report)?,
            "memory" => space::memory(options, server, &mut report)?,
            "expired" => space::expired(options, server, &mut report)?,
            "race" => race::race(options, server, &mut report),
            "stampede" => race::stampede(options, server, &mut report),
            _ => stream::run(options, &mut report)?,
        }
    }
    Report::write(&format!("compare-{}.md", options.engine.name), &report.text)
}

/// A way with its own database.
struct Contender {
    way: Box<dyn Way>,
    link: Link,
    db: u32,
}

impl Contender {
    fn all(server: &Server) -> Vec<Self> {
        (0..WAYS.len()).map(|db| Self::new(server, db)).collect()
    }

    /// The way with that number, which is also the number of its database.
    fn new(server: &Server, number: usize) -> Self {
        let mut client = server.raw();
        assert!(
            !call!(client, "SELECT", number).is_error(),
            "SELECT {number}"
        );
        let mut link = Link::new(client);
        Self {
            way: WAYS[number](&mut link),
            link,
            db: number as u32,
        }
    }

    /// Sets entries at the highest possible rate.
    fn fill(&mut self, server: &Server, entries: impl Iterator<Item = Entry>) -> Result<()> {
        let mut wire = Wire::connect(server.port(), self.db)?;
        let mut known = std::collections::HashSet::new();
        let (mut tape, mut waiting) = (Tape::default(), 0);
        for entry in entries {
            // A client reads this about a tag when it sets the first entry.
            let mut is_new = false;
            for tag in &entry.tags {
                is_new |= known.insert(tag.clone());
            }
            if is_new {
                self.way.set(&mut self.link, &entry);
                continue;
            }
            for command in self.way.write(&entry).concat() {
                let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                tape.push(&args);
            }
            if tape.len() >= 500 {
                waiting = Self::send(&mut wire, &mut tape, waiting)?;
            }
        }
        waiting = Self::send(&mut wire, &mut tape, waiting)?;
        wire.receive(waiting, Expect::NoError)
    }

    /// Sends the next commands before it waits for the replies to the previous ones.
    fn send(wire: &mut Wire, tape: &mut Tape, waiting: usize) -> Result<usize> {
        let tape = std::mem::take(tape);
        if tape.len() > 0 {
            wire.send(tape.commands(0, tape.len()))?;
        }
        wire.receive(waiting, Expect::NoError)?;
        Ok(tape.len())
    }
}

/// The server's counts so far.
#[derive(Clone, Copy)]
struct Counted {
    /// Bytes from and to clients.
    bytes: f64,
    /// Processor time of all threads of the server.
    cpu_s: f64,
}

impl Counted {
    /// The increase caused by `body`.
    fn of(client: &mut RawClient, body: impl FnOnce()) -> Result<Self> {
        let (before, own) = Self::read(client)?;
        body();
        let (after, _) = Self::read(client)?;
        Ok(Self {
            bytes: after.bytes - before.bytes - own,
            cpu_s: after.cpu_s - before.cpu_s,
        })
    }

    /// Also returns the bytes that one reading adds to the next: its request and the previous reply.
    fn read(client: &mut RawClient) -> Result<(Self, f64)> {
        const REQUEST: &str = "*3\r\n$4\r\nINFO\r\n$5\r\nstats\r\n$3\r\ncpu\r\n";
        let info = call!(client, "INFO", "stats", "cpu").text();
        let sum = |names: [&str; 2]| -> Result<f64> {
            names.iter().map(|name| info_field(&info, name)).sum()
        };
        let reply = format!("${}\r\n\r\n", info.len()).len() + info.len();
        let counted = Self {
            bytes: sum(["total_net_input_bytes", "total_net_output_bytes"])?,
            cpu_s: sum(["used_cpu_sys", "used_cpu_user"])?,
        };
        Ok((counted, (reply + REQUEST.len()) as f64))
    }
}

fn info_field(info: &str, name: &str) -> Result<f64> {
    let mut lines = info.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.ok_or_else(|| Error::other(format!("INFO has no {name}")))
}

/// An entry with two shared tags: one of 1000 and one of 64.
fn entry(number: usize) -> Entry {
    let (tenant, kind) = crate::workload::shared_tags(number);
    Entry {
        key: crate::workload::key(number),
        value: crate::workload::value(number),
        tags: vec![tenant, kind],
        ttl_s: 3600,
    }
}

/// A number such as `1.5` or `12`.
fn short(number: f64) -> String {
    match number {
        _ if number < 9.95 => format!("{number:.1}"),
        _ => crate::table::thousands(number.round() as usize),
    }
}

#[cfg(test)]
mod tests {
    use tagcache_tests::Server;

    use super::{Contender, entry};

    /// The compared ways work: stored entries are read, invalidated ones are not, and no others are.
    #[test]
    fn each_way_serves_a_value_until_its_tag_is_invalidated() {
        let server = Server::start();
        for mut contender in Contender::all(&server) {
            let (way, link) = (&mut contender.way, &mut contender.link);
            let name = way.name();
            let entries: Vec<_> = (0..2500).map(entry).collect();
            for entry in &entries[..20] {
                assert_eq!(way.get(link, entry), None, "{name}");
                way.set(link, entry);
                assert_eq!(
                    way.get(link, entry).as_deref(),
                    Some(&*entry.value),
                    "{name}"
                );
            }
            contender
                .fill(&server, entries.iter().cloned())
                .expect("the server takes the entries");
            let (way, link) = (&mut contender.way, &mut contender.link);
            let mut dropped = vec!["tenant:007", "kind:02"];
            for tag in &dropped {
                way.invalidate(link, tag);
            }
            let is_dropped = |entry: &super::Entry, dropped: &[&str]| {
                entry.tags.iter().any(|tag| dropped.contains(&tag.as_str()))
            };
            for entry in &entries {
                let expected = (!is_dropped(entry, &dropped)).then_some(&*entry.value);
                assert_eq!(
                    way.get(link, entry).as_deref(),
                    expected,
                    "{name}: {}",
                    entry.key
                );
            }
            // A missing value is loaded once and then served, and can be dropped again.
            let mut loads = 0;
            for _ in 0..2 {
                way.fetch(link, &entries[7], &mut || {
                    loads += 1;
                    entries[7].value.clone()
                });
            }
            assert_eq!(loads, 1, "{name}");
            assert_eq!(
                way.get(link, &entries[7]).as_deref(),
                Some(&*entries[7].value),
                "{name}"
            );
            way.sweep(link);
            dropped.push("kind:07");
            way.invalidate(link, "kind:07");
            assert_eq!(way.get(link, &entries[7]), None, "{name}");
        }
    }
}
