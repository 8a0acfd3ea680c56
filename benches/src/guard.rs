//! Instructions per command of the server's main thread, compared with native commands, with the least that a data type
//! can do (`floor.c`), and with the baseline that is checked in. The same on every run, whatever the machine's load.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

use tagcache_tests::{Engine, Server, call};

use crate::table::Table;
use crate::wire::{Expect, Tape, Wire};

pub(crate) const USAGE: &str = "\
usage: make bench-guard ARGS='[--engine NAME] [--update]'
  --engine NAME  a server of TAGCACHE_ENGINES (NAME=COMMAND, separated by ';'); default: its first
  --update       write the figures down as the new baseline";

/// The permitted increase of a command over its baseline.
const TOLERANCE: f64 = 0.02;
/// The same for a native MGET, which varies by up to 4.3 % from one server process to another.
const MGET_TOLERANCE: f64 = 0.05;
const COMMANDS: usize = 2_000;
/// The cheapest of this many rounds counts: the server has other work at times.
const ROUNDS: usize = 5;
/// Keys that a server holds while a row is measured, in addition to new ones. Hash tables grow at powers of two in
/// Redis, at 0.77 of seven times a power of two in Valkey: none of these lies between this number and 2,000 more, so
/// that no table is rehashed in the middle of a row.
const PRESENT: usize = 17_500;
/// Reads after which every table is fully rehashed: each read moves a bucket.
const READS: usize = 20_000;
/// The byte that seeds consist of. With this byte, no measured command comes after another one in a bucket of Redis
/// 7.0's table of commands.
const SEED: u8 = 3;
/// Allocators return pages to the system by the clock. Here they keep them.
const ALLOCATOR: &str = "dirty_decay_ms:-1,muzzy_decay_ms:-1";
const DEPTH: usize = 16;
/// Functions that the server runs at its own times: the longer the machine takes for the rest, the more of them is
/// counted. They include slices of reclaiming, which run from timers.
const OWN_WORK: [&str; 2] = ["serverCron", "moduleTimerHandler"];
/// Gone entries: more than are reclaimed during a measurement, and with [`PRESENT`] again between two sizes of tables.
const GONE: usize = 40_000;
/// Entries of a small tag, which are dropped and reclaimed inside the command.
const SMALL_TAG: usize = 10;
const TAGS: &[&str] = &["TAGS", "2", "tenant:007", "kind:page"];

/// A measurement: the tape, and the rows that it is compared with.
struct Row {
    name: &'static str,
    native: &'static str,
    floor: &'static str,
    /// The floor's command with as many words and a reply of the same shape.
    alike: &'static str,
    tape: Tape,
    /// Commands that are sent before each round, uncounted, so that each round finds the same state.
    before: Tape,
}

impl Row {
    fn new(name: &'static str, native: &'static str, floor: &'static str, tape: Tape) -> Self {
        Self {
            name,
            native,
            floor,
            alike: floor,
            tape,
            before: Tape::default(),
        }
    }

    fn after(self, before: Tape) -> Self {
        Self { before, ..self }
    }

    fn alike(self, alike: &'static str) -> Self {
        Self { alike, ..self }
    }
}

/// `command key [more ...]` for each key of that prefix.
fn tape(command: &str, prefix: &str, more: &[&str]) -> Tape {
    tape_of(COMMANDS, command, prefix, more)
}

fn tape_of(count: usize, command: &str, prefix: &str, more: &[&str]) -> Tape {
    let mut tape = Tape::default();
    for n in 0..count {
        let key = key(prefix, n);
        let mut words = vec![command.as_bytes(), key.as_bytes()];
        words.extend(more.iter().map(|word| word.as_bytes()));
        tape.push(&words);
    }
    tape
}

/// 13 bytes.
fn key(prefix: &str, n: usize) -> String {
    format!("{prefix}:{n:08}")
}

fn sets(command: &str, prefix: &str, more: &[&str]) -> Tape {
    sets_of(COMMANDS, command, prefix, more)
}

fn sets_of(count: usize, command: &str, prefix: &str, more: &[&str]) -> Tape {
    let value = "v".repeat(100);
    let words = [&[value.as_str(), "PX", "100000000"], more].concat();
    tape_of(count, command, prefix, &words)
}

/// Entries with small tags; ten entries share each tag.
fn small_tags() -> Tape {
    let mut tape = Tape::default();
    for n in 0..COMMANDS {
        let (key, tag) = (key("smal", n), format!("small:{}", n / SMALL_TAG));
        let words = ["CACHE.SET", &key, "v", "PX", "100000000", "TAGS", "1", &tag];
        tape.push(&words.map(str::as_bytes));
    }
    tape
}

fn mgets(command: &str, prefix: &str) -> Tape {
    let mut tape = Tape::default();
    for n in 0..COMMANDS / 10 {
        let keys: Vec<String> = (0..10).map(|at| key(prefix, 10 * n + at)).collect();
        let words = std::iter::once(command).chain(keys.iter().map(String::as_str));
        tape.push(&words.map(str::as_bytes).collect::<Vec<_>>());
    }
    tape
}

/// Native commands, in a server with or without the module.
fn native() -> Vec<Row> {
    let row = |name, tape| Row::new(name, name, "", tape);
    vec![
        row("GET", tape("GET", "plai", &[])),
        row("MGET of 10", mgets("MGET", "plai")),
        row("SET PX, overwriting", sets("SET", "plai", &[])),
        row("SET PX, new keys", sets("SET", "newp", &[])).after(tape("DEL", "newp", &[])),
        row("EXPIRE", tape("EXPIRE", "plai", &["100000"])),
        row("DEL", tape("DEL", "newp", &[])).after(sets("SET", "newp", &[])),
    ]
}

fn floor() -> Vec<Row> {
    let row = |name, native, tape| Row::new(name, native, name, tape);
    vec![
        row("FLOOR.GET", "GET", tape("FLOOR.GET", "base", &[])),
        row(
            "FLOOR.SET PX, overwriting",
            "SET PX, overwriting",
            sets("FLOOR.SET", "base", &[]),
        ),
        row(
            "FLOOR.SET PX, new keys",
            "SET PX, new keys",
            sets("FLOOR.SET", "newb", &[]),
        )
        .after(tape("DEL", "newb", &[])),
        row("FLOOR.FETCH", "GET", tape("FLOOR.FETCH", "base", &[])),
        row(
            "FLOOR.SET PX, 4 more words, overwriting",
            "SET PX, overwriting",
            sets("FLOOR.SET", "base", TAGS),
        ),
        row(
            "FLOOR.SET PX, 4 more words, new keys",
            "SET PX, new keys",
            sets("FLOOR.SET", "newb", TAGS),
        )
        .after(tape("DEL", "newb", &[])),
    ]
}

fn ours() -> Vec<Row> {
    let read = |name, tape| Row::new(name, "GET", "FLOOR.GET", tape);
    let over = |name, tape| {
        Row::new(
            name,
            "SET PX, overwriting",
            "FLOOR.SET PX, overwriting",
            tape,
        )
    };
    let new = |name, tape| Row::new(name, "SET PX, new keys", "FLOOR.SET PX, new keys", tape);
    let mut invalidations = Tape::default();
    for n in 0..COMMANDS / SMALL_TAG {
        invalidations.push(&[b"CACHE.INVALIDATE", format!("small:{n}").as_bytes()]);
    }
    vec![
        read("CACHE.GET", tape("CACHE.GET", "zero", &[])),
        read("CACHE.GET, 2 tags", tape("CACHE.GET", "twot", &[])),
        read("CACHE.FETCH, 2 tags", tape("CACHE.FETCH", "twot", &[])).alike("FLOOR.FETCH"),
        Row::new(
            "CACHE.MGET of 10",
            "MGET of 10",
            "",
            mgets("CACHE.MGET", "zero"),
        ),
        over("CACHE.SET PX, overwriting", sets("CACHE.SET", "zero", &[])),
        over(
            "CACHE.SET PX, 2 tags, overwriting",
            sets("CACHE.SET", "twot", TAGS),
        )
        .alike("FLOOR.SET PX, 4 more words, overwriting"),
        new("CACHE.SET PX, new keys", sets("CACHE.SET", "newz", &[])).after(tape(
            "DEL",
            "newz",
            &[],
        )),
        new(
            "CACHE.SET PX, 2 tags, new keys",
            sets("CACHE.SET", "newt", TAGS),
        )
        .alike("FLOOR.SET PX, 4 more words, new keys")
        .after(tape("DEL", "newt", &[])),
        Row::new("CACHE.INVALIDATE of 10 entries", "", "", invalidations).after(small_tags()),
    ]
}

/// The module that a server has loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    Floor,
    /// The floor's module, which receives the same events as ours, and does nothing.
    Listener,
    /// The same, with a command filter that does nothing.
    Filter,
    Idle,
    /// Our module, while gone entries are reclaimed.
    Backlog,
}

impl Module {
    /// The suffix of a native command's name with this module.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Floor => "",
            Self::Listener => ", with a listener",
            Self::Filter => ", with a filter",
            Self::Idle => ", module idle",
            Self::Backlog => ", during a backlog",
        }
    }

    /// The least cost for native commands of a module that is called at the same places.
    const fn floor(self) -> Self {
        match self {
            Self::Idle => Self::Listener,
            Self::Backlog => Self::Filter,
            other => other,
        }
    }
}

/// The data that must exist before anything is measured.
fn fill(wire: &mut Wire, module: Module) -> Result<()> {
    let mut tapes = vec![sets("SET", "plai", &[])];
    match module {
        Module::Floor | Module::Listener | Module::Filter => {
            tapes.push(sets("FLOOR.SET", "base", &[]));
        }
        Module::Idle => tapes.extend([
            sets("CACHE.SET", "zero", &[]),
            sets("CACHE.SET", "twot", TAGS),
            small_tags(),
        ]),
        Module::Backlog => {
            let mut tape = Tape::default();
            tape.push(&[b"CONFIG", b"SET", b"tagcache.reclaim-budget-us", b"50"]);
            tapes.push(tape);
        }
    }
    let others = PRESENT - (tapes.len() * COMMANDS).min(PRESENT);
    tapes.push(sets_of(others, "SET", "fill", &[]));
    if module == Module::Backlog {
        let words = ["v", "TAGS", "1", "gone"];
        tapes.push(tape_of(GONE, "CACHE.SET", "gone", &words));
    }
    tapes.push(tape_of(READS, "GET", "fill", &[]));
    if module == Module::Backlog {
        let mut tape = Tape::default();
        tape.push(&[b"CACHE.INVALIDATE", b"gone"]);
        tapes.push(tape);
    }
    tapes.iter().try_for_each(|tape| send(wire, tape))
}

fn send(wire: &mut Wire, tape: &Tape) -> Result<()> {
    for first in (0..tape.len()).step_by(DEPTH) {
        let last = (first + DEPTH).min(tape.len());
        wire.send(tape.commands(first, last))?;
        wire.receive(last - first, Expect::NoError)?;
    }
    Ok(())
}

/// A server under callgrind.
struct Counted {
    server: Server,
    wire: Wire,
    files: PathBuf,
    dumps: usize,
}

impl Counted {
    fn start(engine: &Engine, module: Module, dir: &Path) -> Result<Self> {
        let files = dir.join(format!("{module:?}"));
        let command = format!(
            "env LD_PRELOAD={} SEED={SEED} MALLOC_CONF={ALLOCATOR} JE_MALLOC_CONF={ALLOCATOR} valgrind -q --trace-children=yes --tool=callgrind --instr-atstart=no --separate-threads=yes --callgrind-out-file={} {}",
            dir.join("seed.so").display(),
            files.display(),
            engine.command
        );
        let engine = Engine {
            name: engine.name.clone(),
            command,
        };
        // The server's own work between commands would be counted as theirs, so it is kept as small as possible.
        let builder = Server::builder()
            .engine(&engine)
            .arg("--hz", "1")
            .arg("--dynamic-hz", "no")
            .arg("--activerehashing", "no")
            .arg("--slowlog-log-slower-than", "-1")
            .arg("--latency-tracking", "no")
            .arg("--io-threads", "1");
        let builder = match module {
            Module::Idle | Module::Backlog => builder,
            Module::Floor => builder.module(dir.join("floor.so")),
            Module::Listener => builder
                .module(dir.join("floor.so"))
                .module_args(&["events"]),
            Module::Filter => builder
                .module(dir.join("floor.so"))
                .module_args(&["filter"]),
        };
        let server = builder.start();
        call!(server.raw(), "DEBUG", "SET-ACTIVE-EXPIRE", 0);
        let wire = Wire::connect(server.port(), 0)?;
        Ok(Self {
            server,
            wire,
            files,
            dumps: 0,
        })
    }

    /// Makes callgrind execute commands.
    fn control(&self, commands: &[&str]) -> Result<()> {
        // On a very busy machine it was seen to wait for ever.
        let mut vgdb = Command::new("timeout");
        vgdb.args(["300", "vgdb"]);
        vgdb.arg(format!("--pid={}", self.server.pid()));
        for command in commands {
            vgdb.arg("-c").args(command.split(' '));
        }
        let output = vgdb.output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::other(format!(
            "vgdb {commands:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )))
    }

    /// Instructions per command, in the cheapest round.
    fn measure(&mut self, row: &Row) -> Result<f64> {
        let mut least = u64::MAX;
        for _ in 0..ROUNDS {
            send(&mut self.wire, &row.before)?;
            self.control(&["zero", "instrumentation on"])?;
            send(&mut self.wire, &row.tape)?;
            self.control(&["instrumentation off", "dump"])?;
            least = least.min(self.dumped()?);
        }
        Ok(least as f64 / row.tape.len() as f64)
    }

    /// The instructions of the main thread between the last two dumps.
    fn dumped(&mut self) -> Result<u64> {
        self.dumps += 1;
        // One file per thread; the first one is the main thread.
        let path = format!("{}.{}-01", self.files.display(), self.dumps);
        let text = std::fs::read_to_string(&path)?;
        std::fs::remove_file(&path)?;
        let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let count = totals.and_then(|total| total.trim().parse::<u64>().ok());
        let count = count.ok_or_else(|| Error::other(format!("{path} has no totals")))?;
        let own: u64 = OWN_WORK.map(|name| inclusive(&text, name)).iter().sum();
        Ok(count - own)
    }

    fn measure_all(&mut self, rows: &[Row]) -> Result<Vec<f64>> {
        rows.iter().map(|row| self.measure(row)).collect()
    }
}

/// The cost of a function's calls, with all functions that it calls. 0 if the server's file does not name the function.
fn inclusive(profile: &str, function: &str) -> u64 {
    // A name is given once, as `fn=(7) name` or `cfn=(7) name`, and is `(7)` afterwards.
    let mut lines = profile.lines();
    let named = lines.find_map(|line| line.strip_suffix(function)?.strip_suffix(' '));
    let Some(id) = named
        .and_then(|named| named.split_once('='))
        .map(|(_, id)| id)
    else {
        return 0;
    };
    let is_call = |line: &str| {
        let called = line
            .strip_prefix("cfn=")
            .and_then(|call| call.strip_prefix(id));
        called.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    // `cfn=`, `calls=`, and a line whose last number is the cost.
    let lines: Vec<&str> = profile.lines().collect();
    let calls = lines.windows(3).filter(|lines| is_call(lines[0]));
    let costs = calls.filter_map(|lines| lines[2].split(' ').next_back()?.parse::<u64>().ok());
    costs.sum()
}

/// A directory of this process, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("tagcache-guard-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Builds a library of one of the C files.
fn build(dir: &Path, name: &str) -> Result<PathBuf> {
    let source = format!("{}/src/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let library = dir.join(name).with_extension("so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-o"]);
    let status = compiler.arg(&library).arg(&source).status()?;
    if status.success() {
        Ok(library)
    } else {
        Err(Error::other(format!("cc could not compile {source}")))
    }
}

/// A row's name, its count, and the rows that it is compared with.
type Measured = (String, f64, [String; 3]);

/// All rows of one server.
fn measure(engine: &Engine, module: Module, dir: &Path) -> Result<Vec<Measured>> {
    let more = match module {
        Module::Floor => floor(),
        Module::Idle => ours(),
        Module::Listener | Module::Filter | Module::Backlog => Vec::new(),
    };
    let mut server = Counted::start(engine, module, dir)?;
    fill(&mut server.wire, module)?;
    let mut rows = native();
    let natives = rows.len();
    rows.extend(more);
    let counts = server.measure_all(&rows)?;
    if module == Module::Backlog {
        let stats = call!(server.server.raw(), "CACHE.STATS");
        if stats.field("reclaim_backlog").int() == 0 {
            return Err(Error::other("the backlog was gone before all was measured"));
        }
    }
    let named = rows
        .iter()
        .zip(counts)
        .enumerate()
        .map(|(at, (row, count))| {
            let others = [row.native, row.floor, row.alike].map(str::to_owned);
            if at >= natives {
                return (row.name.to_owned(), count, others);
            }
            let beside = |module: Module| format!("{}{}", row.name, module.suffix());
            let [native, _, alike] = others;
            let floor = if module == Module::Floor {
                String::new()
            } else {
                beside(module.floor())
            };
            (beside(module), count, [native, floor, alike])
        });
    Ok(named.collect())
}

fn baseline_path(engine: &Engine) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline");
    dir.join(format!("{}.tsv", engine.name))
}

fn read_baseline(engine: &Engine) -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(baseline_path(engine)).unwrap_or_default();
    let rows = text.lines().filter_map(|line| {
        let (name, count) = line.split_once('\t')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    rows.collect()
}

/// Measures, prints, and returns the names of rows that became more expensive.
pub(crate) fn run(engine: &Engine, update: bool) -> Result<Vec<String>> {
    let scratch = Scratch::new()?;
    build(&scratch.0, "floor")?;
    build(&scratch.0, "seed")?;
    let modules = [
        Module::Floor,
        Module::Listener,
        Module::Filter,
        Module::Idle,
        Module::Backlog,
    ];
    let measured = std::thread::scope(|scope| {
        let dir = scratch.0.as_path();
        let started = modules.map(|module| scope.spawn(move || measure(engine, module, dir)));
        let ended = started.map(|thread| thread.join().expect("measuring does not panic"));
        ended.into_iter().collect::<Result<Vec<_>>>()
    })?
    .concat();
    let known: BTreeMap<&str, f64> = measured
        .iter()
        .map(|(name, count, ..)| (name.as_str(), *count))
        .collect();
    let baseline = read_baseline(engine);
    let mut table = Table::new(&[
        "instructions per command",
        "now",
        "/ native",
        "/ floor",
        "/ alike",
        "baseline",
        "change",
    ]);
    let mut dearer = Vec::new();
    // The cost of a server without the module is not ours.
    let theirs = 3 * native().len() + floor().len();
    for (at, (name, count, others)) in measured.iter().enumerate() {
        let ratios = others.each_ref().map(|to| {
            let to = known.get(to.as_str());
            to.map_or_else(String::new, |to| format!("{:.3}", count / to))
        });
        let before = baseline.get(name);
        let change = before.map_or(0.0, |before| count / before - 1.0);
        // For a native command with the module, only the module's additional cost counts: the server's own part may
        // differ by some percent from one run to the next.
        let [native, ..] = others;
        let drift = match (known.get(native.as_str()), baseline.get(native)) {
            (Some(now), Some(before)) if name.starts_with(native.as_str()) => now / before - 1.0,
            _ => 0.0,
        };
        let tolerance = if name.starts_with("MGET") {
            MGET_TOLERANCE
        } else {
            TOLERANCE
        };
        if at >= theirs && change - drift > tolerance {
            dearer.push(name.clone());
        }
        let mut cells = vec![name.clone(), format!("{count:.0}")];
        cells.extend(ratios);
        cells.extend([
            before.map_or_else(String::new, |before| format!("{before:.0}")),
            before.map_or_else(String::new, |_| format!("{:+.1} %", 100.0 * change)),
        ]);
        table.row(cells);
    }
    println!(
        "{}, {DEPTH} commands a round trip, keys of 13 bytes, values of 100",
        engine.name
    );
    table.print();
    if baseline.is_empty() {
        println!(
            "There is no baseline for {}: --update writes one.",
            engine.name
        );
    }
    if update {
        let rows = measured.iter();
        let rows: Vec<String> = rows
            .map(|(name, count, ..)| format!("{name}\t{count:.0}\n"))
            .collect();
        std::fs::write(baseline_path(engine), rows.concat())?;
        dearer.clear();
    }
    Ok(dearer)
}

#[cfg(test)]
mod tests {
    use super::inclusive;

    #[test]
    fn calls_of_a_function_are_summed() {
        let profile = "fn=(1) main\n5 100\ncfn=(2) serverCron\ncalls=1 7\n6 40\ncfn=(22) other\ncalls=1 9\n6 9\n\
            fn=(2)\n7 40\n\nfn=(3) timer\n5 1\ncfn=(2)\ncalls=2 7\n+1 60\n";
        assert_eq!(inclusive(profile, "serverCron"), 100);
        assert_eq!(inclusive(profile, "beforeSleep"), 0);
    }
}
