//! Memory: of entries and tags, and the rest when all entries have expired.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Server, call};

use super::{Contender, Entry, Options, Report, WAYS, entry};
use crate::table::{Table, thousands};
use crate::workload::{empty, settle, used_memory};

#[derive(Clone, Copy)]
enum Tags {
    None,
    TwoShared,
    /// One shared tag, and one that no other entry carries.
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
            let mut client = server.raw();
            empty(&mut client);
            let mut contender = Contender::new(server, number);
            let before = settle(&mut client);
            contender.fill(server, (0..options.entries).map(|n| tags.entry(n)))?;
            let bytes = settle(&mut client) - before;
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

pub(super) fn expired(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    // Long enough for all entries to exist at the same time.
    const TTL_S: u64 = 20;
    let entries = options.entries / 5;
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
        let mut contender = Contender::new(server, number);
        let empty_server = settle(&mut client);
        let start = Instant::now();
        let short_lived = |number| {
            let mut entry = Tags::Own.entry(number);
            entry.ttl_s = TTL_S;
            entry
        };
        contender.fill(server, (0..entries).map(short_lived))?;
        let bytes = used_memory(&mut client) - empty_server;
        if start.elapsed() > Duration::from_secs(TTL_S) {
            return Err(Error::other("filling takes longer than the entries live"));
        }
        wait_for_expiry(&mut client)?;
        let left = settle(&mut client) - empty_server;
        let keys = dbsize(&mut contender);
        let swept = if contender.way.sweep(&mut contender.link) {
            let left = (settle(&mut client) - empty_server).max(0);
            format!("{} B", thousands(left as usize))
        } else {
            "it has none".into()
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
        thousands(entries)
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
        let expiring = info.lines().filter(|line| line.contains("expires="));
        if expiring.clone().all(|line| line.contains("expires=0,")) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::other(format!("entries do not expire: {info}")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
