//! Fragmentation where values of changing sizes come and go: nine tenths are dropped by tag and replaced, ten times.
//! Also the effect of the server's active defragmentation, where the allocator supports it: it moves entries and their
//! values, but not the index.

use std::io::Result;
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Rng, Server, call};

use crate::options::Options;
use crate::table::{Table, thousands};
use crate::targets::{Bound, Targets};
use crate::wire::{Expect, Tape};
use crate::workload::{Driver, Until, Way, empty, key, push_cache_set, push_set_and_sadd, settle};

const ROUNDS: usize = 10;

/// The number of tags of a round's entries; one of these groups survives the round, for one more.
const GROUPS: usize = 10;

/// A tag, and the numbers of the keys that carry it.
type Group = (String, Vec<usize>);

/// The server's memory, as INFO reports it.
struct Memory {
    /// Bytes that were allocated.
    allocated: u64,
    /// Bytes of pages that contain such bytes.
    active: u64,
}

impl Memory {
    fn of(client: &mut RawClient) -> Self {
        settle(client);
        let info = call!(client, "INFO", "memory").text();
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|value| value.trim().parse().ok());
            value.unwrap_or_else(|| panic!("INFO memory says {name}"))
        };
        Self {
            allocated: field("allocator_allocated:"),
            active: field("allocator_active:"),
        }
    }

    fn fragmentation(&self) -> f64 {
        self.active as f64 / self.allocated as f64
    }
}

/// A filled server, the same after nine tenths were dropped, and after the rest was moved together.
struct Round {
    full: Memory,
    dropped: Memory,
    moved: Option<Memory>,
    index: i64,
}

pub(crate) fn run(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    let entries = options.keys;
    println!(
        "{} values of 20 to 2,000 bytes, other sizes each round; nine tenths dropped by tag, then replaced; each entry \
         has a tag of its own and one that it shares",
        thousands(entries)
    );
    let module = rounds(options, server, true)?;
    let strings = rounds(options, server, false)?;
    let mut table = Table::new(&[
        "round",
        "allocated, full",
        "of it index",
        "fragmentation, full",
        "after the drop",
        "defragmented",
        "strings, full",
        "after the drop",
        "defragmented",
    ]);
    let moved = |round: &Round| match &round.moved {
        Some(memory) => format!("{:.3}", memory.fragmentation()),
        None => "-".to_owned(),
    };
    for (number, (module, string)) in module.iter().zip(&strings).enumerate() {
        table.row(vec![
            (number + 1).to_string(),
            format!("{:.1} MB", module.full.allocated as f64 / 1e6),
            format!("{:.1} MB", module.index as f64 / 1e6),
            format!("{:.3}", module.full.fragmentation()),
            format!("{:.3}", module.dropped.fragmentation()),
            moved(module),
            format!("{:.3}", string.full.fragmentation()),
            format!("{:.3}", string.dropped.fragmentation()),
            moved(string),
        ]);
    }
    table.print();
    if module.iter().all(|round| round.moved.is_some()) {
        let full = module.iter().map(|round| round.full.fragmentation());
        let what = "fragmentation when refilled, defragmented in between";
        targets.add(what, Bound::AtMost(1.1), full.fold(0.0, f64::max), "");
    }
    empty(&mut server.raw());
    Ok(())
}

/// Runs the rounds with entries of the module, or with strings that are deleted key by key.
fn rounds(options: &Options, server: &Server, module: bool) -> Result<Vec<Round>> {
    let mut client = server.raw();
    let mut driver = Driver::connect(server, Way::Native)?;
    empty(&mut client);
    let mut rng = Rng::new(options.seed);
    let mut next = 0;
    // The surviving group, by the tag that drops it: that of the last round, and that of the round before, which this
    // round drops.
    let (mut survivors, mut old): (Option<Group>, Option<Group>) = (None, None);
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let group = |number: usize| format!("group:{round}:{}", number % GROUPS);
        let longest = [400, 2_000, 800, 1_600, 1_200][round % 5];
        let mut filled = Vec::new();
        let kept: usize = [&survivors, &old]
            .into_iter()
            .flatten()
            .map(|(_, numbers)| numbers.len())
            .sum();
        while kept + filled.len() < options.keys {
            let mut tape = Tape::default();
            for number in next..next + 1_000 {
                let key = key(number);
                let value = vec![b'v'; 20 + rng.below(longest - 20)];
                if module {
                    let (own, shared) = (format!("row:{number:09}"), group(number));
                    let tags = [own.as_bytes(), shared.as_bytes()];
                    push_cache_set(&mut tape, key.as_bytes(), &value, &tags);
                } else {
                    push_set_and_sadd(&mut tape, key.as_bytes(), &value, &[]);
                }
                filled.push(number);
            }
            next += 1_000;
            driver.run(&tape, 16, Until::EndOfTape, Expect::NoError)?;
        }
        let full = Memory::of(&mut client);
        let index = if module {
            call!(client, "CACHE.STATS").field("index_bytes").int()
        } else {
            0
        };

        let stays = rng.below(GROUPS);
        let (stay, mut gone): (Vec<usize>, Vec<usize>) = filled
            .into_iter()
            .partition(|number| number % GROUPS == stays);
        let mut tags: Vec<String> = (0..GROUPS)
            .filter(|kind| *kind != stays)
            .map(group)
            .collect();
        if let Some((tag, numbers)) = old.replace((group(stays), stay)) {
            tags.push(tag);
            gone.extend(numbers);
        }
        std::mem::swap(&mut survivors, &mut old);
        let mut tape = Tape::default();
        if module {
            for tag in &tags {
                tape.push(&[b"CACHE.INVALIDATE", tag.as_bytes()]);
            }
        } else {
            for number in &gone {
                tape.push(&[b"UNLINK", key(*number).as_bytes()]);
            }
        }
        driver.run(&tape, 16, Until::EndOfTape, Expect::NoError)?;
        let dropped = Memory::of(&mut client);
        rounds.push(Round {
            full,
            dropped,
            moved: defragmented(&mut client),
            index,
        });
    }
    Ok(rounds)
}

/// Lets the server move data until that makes no difference any more. `None` if its allocator cannot.
fn defragmented(client: &mut RawClient) -> Option<Memory> {
    for (name, setting) in [
        ("active-defrag-ignore-bytes", "1"),
        ("active-defrag-threshold-lower", "1"),
        ("active-defrag-cycle-min", "50"),
        ("active-defrag-cycle-max", "75"),
        ("activedefrag", "yes"),
    ] {
        if call!(client, "CONFIG", "SET", name, setting).is_error() {
            return None;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut memory = Memory::of(client);
    let mut same = 0;
    while same < 5 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        let now = Memory::of(client);
        let moved = now.active.abs_diff(memory.active) > memory.active / 500;
        same = if moved { 0 } else { same + 1 };
        memory = now;
    }
    call!(client, "CONFIG", "SET", "activedefrag", "no");
    Some(memory)
}
