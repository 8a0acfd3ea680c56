//! Commands that look at very many tags or entries: their duration, and the waits of other clients meanwhile.

use std::io::Result;
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Reply, Server, call};

use crate::invalidate::RECLAIM_BUDGET;
use crate::options::Options;
use crate::stall::{Stall, while_pinging};
use crate::table::{Table, median, ms, thousands};
use crate::targets::{Bound, Targets};
use crate::wire::{Expect, Tape};
use crate::workload::{Driver, Until, Way, empty, key, push_cache_set, settle, value};

struct Measured {
    command: Duration,
    stall: Stall,
    /// Processor time of the longest slice of reclaiming.
    slice: Duration,
}

/// TAGTOP where each entry has its own tag and one of a hundred shared tags.
pub(crate) fn tagtop(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    let mut client = server.raw();
    println!("TAGTOP over {} tags", thousands(options.swept));
    let mut tape = Tape::default();
    for number in 0..options.swept {
        let (own, shared) = (
            format!("row:{number:09}"),
            format!("kind:{:02}", number % 100),
        );
        let (key, value) = (key(number), value(number));
        let tags = [own.as_bytes(), shared.as_bytes()];
        push_cache_set(&mut tape, key.as_bytes(), value.as_bytes(), &tags);
    }
    fill(server, &tape)?;
    let mut rows = Vec::new();
    for order in ["ENTRIES", "BYTES"] {
        let command = ["CACHE.TAGTOP", "BY", order, "LIMIT", "100"];
        let expected = 100.min(options.swept);
        let measured = repeat(options, || {
            measure(server, &mut client, &command, |reply| {
                reply.items().len() == expected
            })
        });
        rows.push((command.join(" "), measured));
    }
    print(&rows);
    add_targets(options, targets, &rows, "TAGTOP with 1 M tags");
    empty(&mut client);
    Ok(())
}

/// INVALIDATEWHERE over entries with two tags each, most of which are dropped.
pub(crate) fn invalidatewhere(
    options: &Options,
    server: &Server,
    targets: &mut Targets,
) -> Result<()> {
    let mut client = server.raw();
    println!("INVALIDATEWHERE over {} entries", thousands(options.swept));
    let mut tape = Tape::default();
    for number in 0..options.swept {
        let kind = format!("kind:{}", number % 10);
        let (key, value) = (key(number), value(number));
        let tags = [&b"tenant:7"[..], kind.as_bytes()];
        push_cache_set(&mut tape, key.as_bytes(), value.as_bytes(), &tags);
    }
    let mut rows = Vec::new();
    for (command, meets) in [
        ("ALL 2 tenant:7 kind:3 DRYRUN", options.swept / 10),
        ("ALL 2 tenant:7 kind:3", options.swept / 10),
        (
            "ALL 1 tenant:7 NONE 1 kind:3",
            options.swept - options.swept / 10,
        ),
        ("NONE 1 kind:3", options.swept - options.swept / 10),
        ("ANY 2 kind:1 kind:2 SOFT", options.swept / 5),
    ] {
        let command = format!("CACHE.INVALIDATEWHERE {command}");
        let words: Vec<&str> = command.split(' ').collect();
        let measured = repeat(options, || {
            empty(&mut client);
            fill(server, &tape).map(|()| {
                measure(server, &mut client, &words, |reply| {
                    *reply == Reply::Int(meets as i64)
                })
            })
        });
        let measured = measured.into_iter().collect::<Result<Vec<_>>>()?;
        rows.push((command, measured));
    }
    print(&rows);
    add_targets(options, targets, &rows, "INVALIDATEWHERE of 1 M");
    empty(&mut client);
    Ok(())
}

/// The commands that concern many entries at once, over ten times as many entries as tags.
pub(crate) fn huge(options: &Options, server: &Server) -> Result<()> {
    /// Entries whose commands are kept in memory together.
    const CHUNK: usize = 100_000;
    let mut client = server.raw();
    let entries = options.swept * 10;
    let tenth = (entries / 10) as i64;
    println!(
        "{} entries, {} tags of 10 entries and 10 of {}; once each, reclaiming included in the stalls",
        thousands(entries),
        thousands(options.swept),
        thousands(entries / 10)
    );
    empty(&mut client);
    for first in (0..entries).step_by(CHUNK) {
        let mut tape = Tape::default();
        for number in first..first + CHUNK {
            let group = format!("group:{}", number / 10);
            let part = format!("part:{}", number % 10);
            let (key, value) = (key(number), value(number));
            let tags = [group.as_bytes(), part.as_bytes()];
            push_cache_set(&mut tape, key.as_bytes(), value.as_bytes(), &tags);
        }
        Driver::connect(server, Way::Native)?.run(&tape, 16, Until::EndOfTape, Expect::NoError)?;
    }
    let held = settle(&mut client) as f64 / f64::from(1 << 30);
    println!("used_memory: {held:.2} GiB");
    let mut rows = Vec::new();
    for (command, expected) in [
        ("CACHE.TAGTOP BY ENTRIES LIMIT 100", None),
        ("CACHE.TAGTOP BY BYTES LIMIT 100", None),
        ("CACHE.INVALIDATE group:1", Some(10)),
        ("CACHE.INVALIDATE part:0", Some(tenth - 1)),
        ("CACHE.REVALIDATE part:1", Some(tenth - 1)),
        (
            "CACHE.INVALIDATEWHERE NONE 1 part:2 DRYRUN",
            Some(7 * tenth - 7),
        ),
        (
            "CACHE.INVALIDATEWHERE ANY 2 part:3 part:4",
            Some(2 * tenth - 2),
        ),
        ("CACHE.FLUSH", Some(6 * tenth - 6)),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let measured = measure(server, &mut client, &words, |reply| match expected {
            None => reply.items().len() == 100,
            Some(count) => *reply == Reply::Int(count),
        });
        rows.push((command.to_owned(), vec![measured]));
    }
    print(&rows);
    Ok(())
}

fn repeat<R>(options: &Options, mut round: impl FnMut() -> R) -> Vec<R> {
    (0..options.rounds.min(3)).map(|_| round()).collect()
}

fn fill(server: &Server, tape: &Tape) -> Result<()> {
    Driver::connect(server, Way::Native)?.run(tape, 16, Until::EndOfTape, Expect::NoError)?;
    settle(&mut server.raw());
    Ok(())
}

/// Waits until gone entries are reclaimed. CACHE.STATS counts tags, which takes long while entries are gone and tags
/// many: it is called only when the number of keys has stayed the same for a second.
fn wait_for_reclaim(client: &mut RawClient) {
    let deadline = Instant::now() + Duration::from_secs(600);
    let (mut last, mut same) = (Reply::Null, 0);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        let keys = client.call(&["DBSIZE"]);
        same = if keys == last { same + 1 } else { 0 };
        last = keys;
        if same >= 20 && client.call(&["CACHE.STATS"]).field("reclaim_backlog").int() == 0 {
            return;
        }
    }
}

/// One command, and the time after it in which the dropped entries are reclaimed.
fn measure(
    server: &Server,
    client: &mut RawClient,
    command: &[&str],
    is_right: impl Fn(&Reply) -> bool,
) -> Measured {
    let mut watch = server.raw();
    call!(watch, "CACHE.RESETSTATS");
    let (command, stall) = while_pinging(server, || {
        let start = Instant::now();
        let reply = client.call(command);
        let time = start.elapsed();
        assert!(is_right(&reply), "{command:?}: {reply:?}");
        wait_for_reclaim(&mut watch);
        time
    });
    let slice_us = call!(watch, "CACHE.STATS").field("reclaim_max_us").int();
    Measured {
        command,
        stall,
        slice: Duration::from_micros(slice_us as u64),
    }
}

fn print(rows: &[(String, Vec<Measured>)]) {
    let mut table = Table::new(&[
        "",
        "answered after",
        "longest stall of a PING",
        "the server's own part",
        "worst round",
        "before",
        "longest slice",
    ]);
    for (command, rounds) in rows {
        let middle = |of: fn(&Measured) -> Duration| {
            let times = rounds.iter().map(|m| of(m).as_secs_f64());
            ms(Duration::from_secs_f64(median(times)))
        };
        let worst = rounds.iter().map(|m| m.stall.during).max();
        table.row(vec![
            command.clone(),
            middle(|m| m.command),
            middle(|m| m.stall.during),
            middle(|m| m.stall.own),
            ms(worst.unwrap_or_default()),
            middle(|m| m.stall.quiet),
            middle(|m| m.slice),
        ]);
    }
    table.print();
}

/// The targets refer to a million.
fn add_targets(
    options: &Options,
    targets: &mut Targets,
    rows: &[(String, Vec<Measured>)],
    what: &str,
) {
    if options.swept < 1_000_000 {
        return;
    }
    let stalls = rows
        .iter()
        .map(|(_, rounds)| median(rounds.iter().map(|m| m.stall.during.as_secs_f64() * 1000.0)));
    let longest = stalls.fold(0.0, f64::max);
    let limit = 3.0 * RECLAIM_BUDGET.as_secs_f64() * 1000.0;
    targets.add(
        format!("{what}: longest stall"),
        Bound::AtMost(limit),
        longest,
        " ms",
    );
}
