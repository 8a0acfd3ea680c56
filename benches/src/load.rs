//! Processor time to load an RDB file: entries with two shared tags compared with strings that have a set per tag.

use std::io::{Error, Result};

use tagcache_tests::{Reply, Server, call};

use crate::options::Options;
use crate::table::{Table, median, thousands};
use crate::targets::{Bound, Targets};
use crate::wire::{Expect, Tape};
use crate::workload::{
    Driver, Until, Way, cpu_seconds, empty, key, push_cache_set, push_set_and_sadd, shared_tags,
    value,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Natively,
    ByModule,
}

pub(crate) fn run(options: &Options, targets: &mut Targets) -> Result<()> {
    println!(
        "Loading an RDB of {} keys with 2 shared tags each",
        thousands(options.loaded)
    );
    // The native file is loaded by a server without the module, which would receive an event per key.
    let builder = Server::builder().engine(&options.engine);
    let native = builder.clone().without_module().start();
    let module = builder.start();
    save(options, &native, Kept::Natively)?;
    save(options, &module, Kept::ByModule)?;
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..options.rounds.min(5) {
        let (native, module) = (load(&native)?, load(&module)?);
        for (figures, figure) in rounds.iter_mut().zip([native, module, module / native]) {
            figures.push(figure);
        }
    }
    let [native, module, ratio] = rounds.map(median);
    let mut table = Table::new(&["", "native", "module", "ratio"]);
    table.row(vec![
        "strings + 2 sets / entries, processor time".into(),
        format!("{:.0} ms", native * 1e3),
        format!("{:.0} ms", module * 1e3),
        format!("{ratio:.2}"),
    ]);
    table.print();
    let what = "loading entries with 2 shared tags / string + 2 SADD";
    targets.add(what, Bound::AtMost(1.0), ratio, "");
    Ok(())
}

/// Fills the server and saves its data.
fn save(options: &Options, server: &Server, kept: Kept) -> Result<()> {
    let mut tape = Tape::default();
    for number in 0..options.loaded {
        let (key, value) = (key(number), value(number));
        let (tenant, kind) = shared_tags(number);
        let tags = [tenant.as_bytes(), kind.as_bytes()];
        match kept {
            Kept::Natively => push_set_and_sadd(&mut tape, key.as_bytes(), value.as_bytes(), &tags),
            Kept::ByModule => push_cache_set(&mut tape, key.as_bytes(), value.as_bytes(), &tags),
        }
    }
    let mut driver = Driver::connect(server, Way::Native)?;
    driver.run(&tape, 16, Until::EndOfTape, Expect::NoError)?;
    done(&call!(server.raw(), "SAVE"))
}

/// Processor time to load the saved file.
fn load(server: &Server) -> Result<f64> {
    let mut client = server.raw();
    empty(&mut client);
    let before = cpu_seconds(&mut client);
    done(&call!(client, "DEBUG", "RELOAD", "NOSAVE"))?;
    Ok(cpu_seconds(&mut client) - before)
}

fn done(reply: &Reply) -> Result<()> {
    if *reply == Reply::ok() {
        return Ok(());
    }
    Err(Error::other(format!("{reply:?}")))
}
