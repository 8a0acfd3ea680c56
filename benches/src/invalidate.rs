//! Dropping a tag: the duration of the command, the waits of other clients meanwhile, and the time until the memory is
//! reclaimed.

use std::io::Result;
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Reply, Server, call};

use crate::options::Options;
use crate::stall::{Stall, while_pinging};
use crate::table::{Table, median, ms, thousands};
use crate::targets::{Bound, Targets};
use crate::wire::{Expect, Tape};
use crate::workload::{
    Driver, Until, Way, empty, key, push_cache_set, push_set_and_sadd, settle, used_memory, value,
};

/// A value that stays, in bytes: memory counts as reclaimed within 1 % of the server's memory, and 1 % of an empty
/// server would be less than a connection's buffer. It is one key, so that the keyspace's own tables must shrink as
/// well.
const BYSTANDER: usize = 20_000_000;
const TAG: &str = "tenant:7";
/// The longest wait for memory to be reclaimed.
const DEADLINE: Duration = Duration::from_secs(20);
/// The module's default of `tagcache.reclaim-budget-us`.
pub(crate) const RECLAIM_BUDGET: Duration = Duration::from_millis(1);
/// The size that the targets refer to.
const TARGET_ENTRIES: usize = 1_000_000;

/// Drops all keys of a tag set at once, in calls of 5000 keys because a Lua stack is limited.
pub(crate) const LUA_DROP: &str = "local keys = redis.call('SMEMBERS', KEYS[1])
for first = 1, #keys, 5000 do
  redis.call('UNLINK', unpack(keys, first, math.min(first + 4999, #keys)))
end
redis.call('UNLINK', KEYS[1])
return #keys";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drop {
    /// `CACHE.INVALIDATE`
    Module,
    /// `CACHE.INVALIDATE` where each entry has a second tag, one of a thousand
    ModuleTwoTags,
    /// `EVAL`: `SMEMBERS`, `UNLINK`
    Lua,
    /// `SMEMBERS`, then `UNLINK` by the thousand, from the client
    Client,
}

impl Drop {
    const ALL: [Self; 4] = [Self::Module, Self::ModuleTwoTags, Self::Lua, Self::Client];

    fn name(self) -> &'static str {
        match self {
            Self::Module => "CACHE.INVALIDATE",
            Self::ModuleTwoTags => "CACHE.INVALIDATE, entries with a 2nd tag",
            Self::Lua => "Lua: SMEMBERS, UNLINK",
            Self::Client => "client: SMEMBERS, UNLINK by 1000",
        }
    }

    fn tape(self, entries: usize) -> Tape {
        let mut tape = Tape::default();
        for number in 0..entries {
            let (key, value) = (key(number), value(number));
            let (key, value) = (key.as_bytes(), value.as_bytes());
            let second = format!("user:{:03}", number % 1000);
            let (tag, second) = (TAG.as_bytes(), second.as_bytes());
            match self {
                Self::Module => push_cache_set(&mut tape, key, value, &[tag]),
                Self::ModuleTwoTags => push_cache_set(&mut tape, key, value, &[tag, second]),
                Self::Lua | Self::Client => push_set_and_sadd(&mut tape, key, value, &[tag]),
            }
        }
        tape
    }

    /// Drops the tag, and returns the number of gone entries.
    fn run(self, client: &mut RawClient) -> usize {
        let count = |reply: &Reply| {
            assert!(!reply.is_error(), "{}: {reply:?}", self.name());
            reply.int() as usize
        };
        match self {
            Self::Module | Self::ModuleTwoTags => count(&call!(client, "CACHE.INVALIDATE", TAG)),
            Self::Lua => count(&call!(client, "EVAL", LUA_DROP, 1, TAG)),
            Self::Client => {
                let members = call!(client, "SMEMBERS", TAG);
                let mut gone = 0;
                for some in members.items().chunks(1000) {
                    let keys = some.iter().map(Reply::bytes);
                    let unlink: Vec<&[u8]> = std::iter::once(&b"UNLINK"[..]).chain(keys).collect();
                    gone += count(&client.call(&unlink));
                }
                count(&call!(client, "UNLINK", TAG));
                gone
            }
        }
    }
}

struct Measured {
    /// From sending the command, or the first of them, to the last reply.
    command: Duration,
    /// The stall of a PING, from then until the memory was reclaimed.
    stall: Stall,
    /// The longest slice of reclaiming, as the module measured it.
    slice: Duration,
    /// From sending the command until `used_memory` was within 1 % of its value before the entries came, and nothing
    /// was left to reclaim.
    memory_back: Option<Duration>,
}

pub(crate) fn run(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    let rounds = options.rounds.min(5);
    for &entries in &options.invalidated {
        println!(
            "Dropping a tag with {} entries, {rounds} rounds",
            thousands(entries)
        );
        let tapes = Drop::ALL.map(|drop| drop.tape(entries));
        let mut measured: [Vec<Measured>; 4] = Default::default();
        for round in 0..rounds {
            for step in 0..Drop::ALL.len() {
                let which = if round % 2 == 0 {
                    step
                } else {
                    Drop::ALL.len() - 1 - step
                };
                measured[which].push(measure(server, Drop::ALL[which], &tapes[which], entries)?);
            }
        }
        print(&measured);
        if entries == TARGET_ENTRIES {
            add_targets(targets, &measured);
        }
    }
    Ok(())
}

fn measure(server: &Server, drop: Drop, tape: &Tape, entries: usize) -> Result<Measured> {
    let mut client = server.raw();
    let mut watch = server.raw();
    empty(&mut client);
    let reply = call!(client, "SET", "other", vec![b'x'; BYSTANDER]);
    assert!(!reply.is_error(), "SET: {reply:?}");
    let before = settle(&mut watch);
    Driver::connect(server, Way::Native)?.run(tape, 16, Until::EndOfTape, Expect::NoError)?;
    settle(&mut watch);

    let reset = call!(client, "CACHE.RESETSTATS");
    assert!(!reset.is_error(), "CACHE.RESETSTATS: {reset:?}");

    let ((command, memory_back), stall) = while_pinging(server, || {
        let start = Instant::now();
        let gone = drop.run(&mut client);
        let command = start.elapsed();
        assert_eq!(gone, entries, "{}", drop.name());
        (command, wait_for_memory(&mut watch, before, start))
    });
    let slice_us = call!(client, "CACHE.STATS").field("reclaim_max_us").int();
    Ok(Measured {
        command,
        stall,
        slice: Duration::from_micros(slice_us as u64),
        memory_back,
    })
}

fn wait_for_memory(client: &mut RawClient, before: i64, start: Instant) -> Option<Duration> {
    while start.elapsed() < DEADLINE {
        if used_memory(client) <= before + before / 100
            && call!(client, "CACHE.STATS").field("reclaim_backlog").int() == 0
        {
            return Some(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

fn print(measured: &[Vec<Measured>; 4]) {
    let mut table = Table::new(&[
        "",
        "command",
        "module is faster",
        "longest stall of a PING",
        "the server's own part",
        "worst round",
        "before",
        "longest slice",
        "memory back after",
    ]);
    for (drop, rounds) in Drop::ALL.iter().zip(measured) {
        let times_slower = times_faster(&measured[0], rounds);
        let back = memory_back(rounds).map_or(format!("> {}", ms(DEADLINE)), ms);
        table.row(vec![
            drop.name().into(),
            ms(middle(rounds, |m| m.command)),
            match drop {
                Drop::Module | Drop::ModuleTwoTags => "-".into(),
                Drop::Lua | Drop::Client => {
                    format!("{} x", thousands(times_slower.round() as usize))
                }
            },
            ms(middle(rounds, |m| m.stall.during)),
            ms(middle(rounds, |m| m.stall.own)),
            ms(rounds
                .iter()
                .map(|m| m.stall.during)
                .max()
                .unwrap_or_default()),
            ms(middle(rounds, |m| m.stall.quiet)),
            match drop {
                Drop::Module | Drop::ModuleTwoTags => ms(middle(rounds, |m| m.slice)),
                Drop::Lua | Drop::Client => "-".into(),
            },
            back,
        ]);
    }
    table.print();
}

fn add_targets(targets: &mut Targets, measured: &[Vec<Measured>; 4]) {
    let [module, two_tags, lua, _] = measured;
    let budget = RECLAIM_BUDGET.as_secs_f64() * 1000.0;
    for (rounds, name) in [
        (module, "INVALIDATE of 1 M"),
        (two_tags, "the same with a 2nd tag"),
    ] {
        let stall = middle(rounds, |m| m.stall.during).as_secs_f64() * 1000.0;
        let back = memory_back(rounds).unwrap_or(DEADLINE).as_secs_f64();
        targets.add(
            format!("{name}: longest stall"),
            Bound::AtMost(3.0 * budget),
            stall,
            " ms",
        );
        targets.add(
            format!("{name}: faster than Lua"),
            Bound::AtLeast(1000.0),
            times_faster(rounds, lua),
            " x",
        );
        targets.add(
            format!("{name}: memory back"),
            Bound::AtMost(3.0),
            back,
            " s",
        );
    }
}

/// Round by round, the ratio of the second command's time to the first's.
fn times_faster(fast: &[Measured], slow: &[Measured]) -> f64 {
    median(
        fast.iter()
            .zip(slow)
            .map(|(f, s)| s.command.as_secs_f64() / f.command.as_secs_f64()),
    )
}

fn middle(rounds: &[Measured], of: fn(&Measured) -> Duration) -> Duration {
    Duration::from_secs_f64(median(rounds.iter().map(|m| of(m).as_secs_f64())))
}

/// The median; none if the memory was not reclaimed in time in any round.
fn memory_back(rounds: &[Measured]) -> Option<Duration> {
    let times: Option<Vec<f64>> = rounds
        .iter()
        .map(|m| m.memory_back.map(|t| t.as_secs_f64()))
        .collect();
    times.map(|times| Duration::from_secs_f64(median(times)))
}
