//! Memory: of entries and tags, and what is left when all entries have expired.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Server, call};

use super::{Contender, Entry, Options, Report, WAYS, entry};
use crate::table::{Table, thousands};
use crate::workload::{empty, settle};

#[derive(Clone, Copy)]
enum Tags {
    None,
    TwoShared,
    /// One shared, one of its own.
    Own,
}

impl Tags {
    fn entry(self, number: usize) -> Entry {
        let mut entry = entry(number);
        match self {
            Self::None => entry.tags.clear(),
            Self::TwoShared => {}
            Self::Own => entry.tags[1] = format!("row:{number:09}"),
        }
        entry
    }
}

pub(super) fn memory(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    let mut table = Table::new(&["", "no tags", "2 shared", "1 shared, 1 of its own"]);
    for number in 0..WAYS.len() {
        let mut row = vec![Contender::new(server, number).way.name().into()];
        for tags in [Tags::None, Tags::TwoShared, Tags::Own] {
            let bytes = fill(options, server, number, |n| tags.entry(n))?.1;
            row.push(format!("{:.0} B", bytes as f64 / options.entries as f64));
        }
        table.row(row);
    }
    let title = format!(
        "used_memory per entry, {} entries",
        thousands(options.entries)
    );
    report.table(&title, &table);
    empty(&mut server.raw());
    Ok(())
}

/// An empty server with these entries, and how many bytes they take.
fn fill(
    options: &Options,
    server: &Server,
    number: usize,
    entry: impl Fn(usize) -> Entry,
) -> Result<(Contender, i64)> {
    let mut client = server.raw();
    empty(&mut client);
    let mut contender = Contender::new(server, number);
    let before = settle(&mut client);
    contender.fill(server, (0..options.entries).map(entry))?;
    let bytes = settle(&mut client) - before;
    Ok((contender, bytes))
}

pub(super) fn expired(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    // Long enough that all entries are there at once.
    const TTL_S: u64 = 12;
    let mut table = Table::new(&[
        "",
        "left",
        "of what it was",
        "keys left",
        "after its own clean-up",
    ]);
    let mut client = server.raw();
    for number in 0..WAYS.len() {
        empty(&mut client);
        let empty_server = settle(&mut client);
        let start = Instant::now();
        let (mut contender, bytes) = fill(options, server, number, |n| {
            let mut entry = Tags::Own.entry(n);
            entry.ttl_s = TTL_S;
            entry
        })?;
        if start.elapsed() > Duration::from_secs(TTL_S) {
            return Err(Error::other("filling takes longer than the entries live"));
        }
        wait_for_expiry(&mut client)?;
        let left = settle(&mut client) - empty_server;
        let keys = dbsize(&mut contender);
        let swept = match contender.way.sweep(&mut contender.link) {
            false => "it has none".into(),
            true => format!(
                "{} B",
                thousands((settle(&mut client) - empty_server).max(0) as usize)
            ),
        };
        table.row(vec![
            contender.way.name().into(),
            format!("{} B", thousands(left.max(0) as usize)),
            format!("{:.0} %", (left as f64 / bytes as f64 * 100.0).max(0.0)),
            thousands(keys as usize),
            swept,
        ]);
    }
    let title = format!(
        "Memory left after {} entries, each with a shared tag and one of its own, have expired",
        thousands(options.entries)
    );
    report.table(&title, &table);
    empty(&mut client);
    Ok(())
}

fn dbsize(contender: &mut Contender) -> i64 {
    contender.link.call(vec![b"DBSIZE".to_vec()]).int()
}

/// Waits until no key has an expiry any more.
fn wait_for_expiry(client: &mut RawClient) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let info = call!(client, "INFO", "keyspace").text();
        if !info.contains("expires=")
            || info
                .lines()
                .all(|line| !line.contains("expires=") || line.contains("expires=0,"))
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::other(format!("entries do not expire: {info}")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
