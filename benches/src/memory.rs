//! `used_memory` per entry, each kind alone on a freshly flushed server.

use std::io::Result;

use tagcache_tests::Server;

use crate::options::Options;
use crate::table::{Table, thousands};
use crate::targets::{Bound, Targets};
use crate::wire::{Expect, Tape};
use crate::workload::{Driver, Until, Way, empty, key, push_cache_set, push_set_and_sadd, settle};

/// Tags of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tags {
    name: &'static str,
    shared: usize,
    /// Tags that no other entry carries.
    own: usize,
    /// Bytes of a tag.
    len: usize,
}

const KINDS: [Tags; 6] = [
    kind("no tags", 0, 0, 0),
    kind("2 shared tags", 2, 0, 10),
    kind("8 shared tags", 8, 0, 10),
    kind("1 shared, 1 of its own", 1, 1, 13),
    kind("1 of its own, 8 bytes", 0, 1, 8),
    kind("1 of its own, 40 bytes", 0, 1, 40),
];

const fn kind(name: &'static str, shared: usize, own: usize, len: usize) -> Tags {
    Tags {
        name,
        shared,
        own,
        len,
    }
}

impl Tags {
    /// Each shared tag is carried by 200 entries, or by a 64th of all.
    fn of(self, number: usize, entries: usize) -> Vec<String> {
        let name = |kind: usize, number: usize| {
            let digits = self.len - 2;
            format!("{}:{number:0digits$}", char::from(b'a' + kind as u8))
        };
        let shared = (0..self.shared).map(|kind| {
            let of = if kind % 2 == 0 { entries / 200 } else { 64 };
            name(kind, (number / (kind + 1)) % of)
        });
        let own = (0..self.own).map(|kind| name(25 - kind, number));
        shared.chain(own).collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    String,
    /// A native string, and its key in a set per tag.
    StringAndSets,
    ByModule,
}

pub(crate) fn run(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    // Hash tables are then about three quarters full, neither their best case nor their worst.
    let entries = |value: usize| if value < 4_000 { 50_000 } else { 12_500 };
    println!(
        "used_memory per entry, keys of 13 bytes, a time to live, {} entries ({} from 4,000 bytes on)",
        thousands(entries(0)),
        thousands(entries(4_000))
    );
    let mut table = Table::new(&[
        "tags, bytes of the value",
        "string",
        "and SADDs",
        "entry",
        "/ string",
        "/ string and SADDs",
    ]);
    for &value in &options.values {
        let measure = |kept, tags| bytes_per_entry(entries(value), server, kept, tags, value);
        let string = measure(Kept::String, KINDS[0])?;
        for tags in KINDS {
            let sets = measure(Kept::StringAndSets, tags)?;
            let entry = measure(Kept::ByModule, tags)?;
            table.row(vec![
                format!("{}, {}", tags.name, thousands(value)),
                format!("{string:.0} B"),
                format!("{sets:.0} B"),
                format!("{entry:.0} B"),
                format!("{:.2}", entry / string),
                format!("{:.2}", entry / sets),
            ]);
            let at_most = if value < 500 { 1.22 } else { 1.15 };
            if tags == KINDS[1] && value >= 100 && value != 200 {
                let name = format!(
                    "memory with 2 shared tags / string, {} bytes",
                    thousands(value)
                );
                targets.add(name, Bound::AtMost(at_most), entry / string, "");
            } else if tags == KINDS[3] && value == 100 {
                let name = "memory with a tag of its own / string + 2 SADD";
                targets.add(name, Bound::AtMost(1.0), entry / sets, "");
            }
        }
    }
    table.print();
    empty(&mut server.raw());
    Ok(())
}

fn bytes_per_entry(
    entries: usize,
    server: &Server,
    kept: Kept,
    tags: Tags,
    value: usize,
) -> Result<f64> {
    let mut client = server.raw();
    let mut driver = Driver::connect(server, Way::Native)?;
    empty(&mut client);
    let before = settle(&mut client);
    // One part at a time, since all of it would be large.
    for first in (0..entries).step_by(2_500) {
        let mut tape = Tape::default();
        for number in first..first + 2_500 {
            let (key, value) = (key(number), format!("{number:0value$}"));
            let (key, value) = (key.as_bytes(), value.as_bytes());
            let tags = tags.of(number, entries);
            let tags: Vec<&[u8]> = tags.iter().map(String::as_bytes).collect();
            match kept {
                Kept::String => push_set_and_sadd(&mut tape, key, value, &[]),
                Kept::StringAndSets => push_set_and_sadd(&mut tape, key, value, &tags),
                Kept::ByModule => push_cache_set(&mut tape, key, value, &tags),
            }
        }
        driver.run(&tape, 16, Until::EndOfTape, Expect::NoError)?;
    }
    let after = settle(&mut client);
    Ok((after - before) as f64 / entries as f64)
}
