//! `used_memory` an entry, each kind alone on a freshly flushed server.

use std::io::Result;

use tagcache_tests::Server;

use crate::options::Options;
use crate::table::{Table, thousands};
use crate::targets::{Bound, Targets};
use crate::wire::{Expect, Tape};
use crate::workload::{
    Driver, Until, Way, empty, key, push_cache_set, push_set_and_sadd, settle, shared_tags, value,
};

/// Tags of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tags {
    None,
    TwoShared,
    SharedAndUnique,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// A native string, and its key in a set for each tag.
    Natively,
    ByModule,
}

pub(crate) fn run(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    println!(
        "used_memory an entry, {} entries",
        thousands(options.inserts)
    );
    let mut table = Table::new(&["tags", "native", "module", "ratio"]);
    let kinds = [
        (Tags::None, "none: string / entry"),
        (Tags::TwoShared, "2 shared: string + 2 SADD / entry"),
        (
            Tags::SharedAndUnique,
            "1 shared, 1 of its own: string + 2 SADD / entry",
        ),
    ];
    for (tags, name) in kinds {
        let native = bytes_an_entry(options.inserts, server, Kept::Natively, tags)?;
        let module = bytes_an_entry(options.inserts, server, Kept::ByModule, tags)?;
        let ratio = module / native;
        table.row(vec![
            name.into(),
            format!("{native:.0} B"),
            format!("{module:.0} B"),
            format!("{ratio:.2}"),
        ]);
        if tags == Tags::TwoShared {
            targets.add(
                "memory with 2 shared tags / string + 2 SADD",
                Bound::AtMost(0.82),
                ratio,
                "",
            );
        }
    }
    table.print();
    empty(&mut server.raw());
    Ok(())
}

fn bytes_an_entry(entries: usize, server: &Server, kept: Kept, tags: Tags) -> Result<f64> {
    let mut client = server.raw();
    let mut driver = Driver::connect(server, Way::Native)?;
    empty(&mut client);
    let before = settle(&mut client);
    let tape = tape(entries, kept, tags);
    driver.run(&tape, 16, Until::EndOfTape, Expect::NoError)?;
    let after = settle(&mut client);
    Ok((after - before) as f64 / entries as f64)
}

fn tape(entries: usize, kept: Kept, tags: Tags) -> Tape {
    let mut tape = Tape::default();
    for number in 0..entries {
        let (key, value) = (key(number), value(number));
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let (tenant, kind) = shared_tags(number);
        let own = format!("row:{number:09}");
        let tags: Vec<&[u8]> = match tags {
            Tags::None => vec![],
            Tags::TwoShared => vec![tenant.as_bytes(), kind.as_bytes()],
            Tags::SharedAndUnique => vec![tenant.as_bytes(), own.as_bytes()],
        };
        match kept {
            Kept::Natively => push_set_and_sadd(&mut tape, key, value, &tags),
            Kept::ByModule => push_cache_set(&mut tape, key, value, &tags),
        }
    }
    tape
}
