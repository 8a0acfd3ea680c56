//! The command line.

use std::time::Duration;

use tagcache_tests::{Engine, engines};

pub(crate) const USAGE: &str = "\
usage: make bench ARGS='[--quick] [--only PART]... [--engine NAME] [--keys N] [--seed N] [--rounds N]'
  --quick        few short rounds, no INVALIDATE of a million: to see that it works, not for figures
  --only PART    get, set, fetch, stampede, invalidate, tagtop, where, native, memory, refill, fork, load or
                 clients; may be given several times; huge (10 M entries, 4 GiB) only runs when it is given
  --engine NAME  a server of TAGCACHE_ENGINES (NAME=COMMAND, separated by ';'); default: its first
  --keys N       how many keys GET and SET choose from, default 100000
  --seed N       of the random choice of keys, default 1
  --rounds N     how often each figure is taken, default 11; what takes long at most 5";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Get,
    Set,
    Fetch,
    Stampede,
    Invalidate,
    TagTop,
    Where,
    Native,
    Memory,
    Refill,
    Fork,
    Load,
    Clients,
    /// Takes gigabytes and minutes: only on request.
    Huge,
}

const ALL_PARTS: [Part; 14] = [
    Part::Get,
    Part::Set,
    Part::Fetch,
    Part::Stampede,
    Part::Invalidate,
    Part::TagTop,
    Part::Where,
    Part::Native,
    Part::Memory,
    Part::Refill,
    Part::Fork,
    Part::Load,
    Part::Clients,
    Part::Huge,
];

pub(crate) struct Options {
    pub(crate) parts: Vec<Part>,
    pub(crate) engine: Engine,
    pub(crate) keys: usize,
    pub(crate) seed: u64,
    pub(crate) rounds: usize,
    /// The duration of one throughput sample.
    pub(crate) sample: Duration,
    /// The number of entries that a sample of new keys inserts.
    pub(crate) inserts: usize,
    /// The numbers of entries of the invalidated tag.
    pub(crate) invalidated: Vec<usize>,
    /// The number of tags and entries for the commands that look at all of them.
    pub(crate) swept: usize,
    /// The bytes of the values for the memory figures.
    pub(crate) values: Vec<usize>,
    /// The number of keys in the RDB file that is loaded.
    pub(crate) loaded: usize,
}

impl Options {
    /// `None` requests the usage text.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self {
            parts: Vec::new(),
            engine: Engine::default_engine(),
            keys: 100_000,
            seed: 1,
            rounds: 11,
            sample: Duration::from_millis(300),
            inserts: 200_000,
            invalidated: vec![1_000, 100_000, 1_000_000],
            swept: 1_000_000,
            values: vec![20, 100, 200, 500, 1_000, 4_000, 16_000],
            loaded: 500_000,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => options.make_quick(),
                "--only" => options.parts.push(part(&value()?)?),
                "--engine" => options.engine = engine(&value()?)?,
                "--keys" => options.keys = number(&value()?)?.clamp(1_000, 10_000_000),
                "--seed" => options.seed = number(&value()?)? as u64,
                "--rounds" => options.rounds = number(&value()?)?.max(1),
                _ => return Err(format!("unknown argument {arg}")),
            }
        }
        if options.parts.is_empty() {
            options.parts = ALL_PARTS
                .into_iter()
                .filter(|part| *part != Part::Huge)
                .collect();
        }
        Ok(Some(options))
    }

    fn make_quick(&mut self) {
        self.rounds = 2;
        self.sample = Duration::from_millis(150);
        self.inserts = 50_000;
        self.invalidated = vec![1_000, 100_000];
        self.swept = 100_000;
        self.values = vec![100, 1_000];
        self.loaded = 100_000;
    }
}

/// The arguments of the guard: the engine, and whether its figures become the baseline. `None` requests the usage text.
pub(crate) fn parse_guard(
    mut args: impl Iterator<Item = String>,
) -> Result<Option<(Engine, bool)>, String> {
    let (mut of, mut update) = (Engine::default_engine(), false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--engine" => of = engine(&args.next().ok_or("--engine needs a value")?)?,
            "--update" => update = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown argument {arg}")),
        }
    }
    Ok(Some((of, update)))
}

fn part(name: &str) -> Result<Part, String> {
    let part = ALL_PARTS
        .iter()
        .find(|part| format!("{part:?}").eq_ignore_ascii_case(name));
    let names = ALL_PARTS.map(|part| format!("{part:?}").to_lowercase());
    part.copied()
        .ok_or(format!("--only {name}: {} are known", names.join(", ")))
}

pub(crate) fn engine(name: &str) -> Result<Engine, String> {
    let known = engines();
    let names: Vec<&str> = known.iter().map(|engine| engine.name.as_str()).collect();
    let unknown = format!("--engine {name}: TAGCACHE_ENGINES has {}", names.join(", "));
    known
        .iter()
        .find(|engine| engine.name == name)
        .cloned()
        .ok_or(unknown)
}

pub(crate) fn number(text: &str) -> Result<usize, String> {
    text.replace('_', "")
        .parse()
        .map_err(|_| format!("{text}: not a number"))
}
