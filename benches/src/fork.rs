//! Memory that is copied because it is read while a background save runs.
//!
//! The save works on a copy of the server's memory that shares all pages until one of the two writes to them. A read
//! that counted itself in the value would have every page copied in the end.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Reply, Server, call};

use crate::options::Options;
use crate::table::{Table, median, thousands};
use crate::targets::{Bound, Targets};
use crate::wire::Expect;
use crate::workload::{Driver, Until, Way, empty, gets, sets, shuffled_keys};

/// The save is delayed briefly at about every fourth key, so that it lasts while everything is read.
const DELAY: i32 = -4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    None,
    By(Way),
}

pub(crate) fn run(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    println!(
        "Memory copied during a background save of {} keys while each is read once",
        thousands(options.inserts)
    );
    let mut table = Table::new(&["", "copied", "because of the reads"]);
    let mut extra = Vec::new();
    for way in [Way::Native, Way::Untagged, Way::TwoTags] {
        let copied = |reads| -> Result<f64> {
            let rounds: Result<Vec<f64>> = (0..options.rounds.min(3))
                .map(|_| copied(options, server, way, reads))
                .collect();
            Ok(median(rounds?))
        };
        let quiet = copied(Reads::None)?;
        let reading = copied(Reads::By(way))?;
        let because = (reading - quiet).max(0.0);
        extra.push(because);
        table.row(vec![
            way.get_name().into(),
            format!("{reading:.1} MB"),
            format!("{because:.1} MB"),
        ]);
    }
    table.print();
    // Connections and statistics cause about a megabyte.
    let ours = extra[1].max(extra[2]);
    targets.add(
        "copied for CACHE.GET, beyond what GET copies",
        Bound::AtMost(1.0),
        ours - extra[0],
        " MB",
    );
    empty(&mut server.raw());
    Ok(())
}

/// Megabytes copied in one save.
fn copied(options: &Options, server: &Server, way: Way, reads: Reads) -> Result<f64> {
    let mut client = server.raw();
    empty(&mut client);
    let keys = shuffled_keys(options.inserts, options.seed);
    let mut driver = Driver::connect(server, way)?;
    let fill = sets(way, &[], keys.iter().copied());
    driver.run(&fill, 16, Until::EndOfTape, Expect::NoError)?;
    let tape = gets(way, keys.into_iter());
    // Buffers grow before the fork, not during it.
    driver.run(&tape, 16, Until::EndOfTape, Expect::Value)?;
    let delay = call!(client, "CONFIG", "SET", "rdb-key-save-delay", DELAY);
    if delay != Reply::ok() {
        return Err(Error::other(format!("rdb-key-save-delay: {delay:?}")));
    }
    // Memory that the allocator returns to the system during the save counts as copied, and is not caused by readers.
    call!(client, "MEMORY", "PURGE");
    call!(client, "BGSAVE");
    if let Reads::By(_) = reads {
        driver.run(&tape, 16, Until::EndOfTape, Expect::Value)?;
        if info(&mut client, "rdb_bgsave_in_progress") == 0 {
            return Err(Error::other("the save was over before all was read"));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while info(&mut client, "rdb_bgsave_in_progress") == 1 {
        if Instant::now() > deadline {
            return Err(Error::other("the save does not end"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    call!(client, "CONFIG", "SET", "rdb-key-save-delay", 0);
    Ok(info(&mut client, "rdb_last_cow_size") as f64 / 1e6)
}

fn info(client: &mut RawClient, name: &str) -> i64 {
    let text = call!(client, "INFO", "persistence").text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or_else(|| panic!("INFO persistence says no {name}"))
}
