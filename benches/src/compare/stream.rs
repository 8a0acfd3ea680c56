//! The bytes that an invalidation adds to the replication stream and to the append-only file.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Server, call};

use super::{Contender, Options, Report, WAYS, entry, info_field};
use crate::table::{Table, thousands};
use crate::workload::empty;

const TAG: &str = "tag:dropped";

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let size = options.sizes.iter().copied().max().unwrap_or(10);
    let builder = Server::builder().engine(&options.engine);
    let server = builder
        .clone()
        .arg("--appendonly", "yes")
        .arg("--appendfsync", "no")
        .arg("--auto-aof-rewrite-percentage", "0")
        .start();
    // Once a replica has connected, the server keeps a stream, even after the replica has gone.
    let replica = builder.replica_of(&server).start();
    wait_for_replica(&mut server.raw())?;
    std::mem::drop(replica);
    let mut table = Table::new(&["", "replication", "AOF"]);
    for number in 0..WAYS.len() {
        let mut client = server.raw();
        empty(&mut client);
        let mut contender = Contender::new(&server, number);
        let entries = (0..size).map(|n| {
            let mut entry = entry(n);
            entry.tags[1] = TAG.into();
            entry
        });
        contender.fill(&server, entries)?;
        let before = settled(&mut client)?;
        contender.way.invalidate(&mut contender.link, TAG);
        let after = settled(&mut client)?;
        table.row(vec![
            contender.way.name().into(),
            format!("{} B", thousands((after[0] - before[0]) as usize)),
            format!("{} B", thousands((after[1] - before[1]) as usize)),
        ]);
    }
    let title = format!("Bytes written for invalidating {} entries", thousands(size));
    report.table(&title, &table);
    Ok(())
}

fn wait_for_replica(primary: &mut RawClient) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !call!(primary, "INFO", "replication")
        .text()
        .contains("state=online")
    {
        if Instant::now() > deadline {
            return Err(Error::other("the replica does not come"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Offset of the stream and size of the file, once neither changes any more.
fn settled(client: &mut RawClient) -> Result<[i64; 2]> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = [0; 2];
    let mut same = 0;
    while same < 10 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        let info = call!(client, "INFO", "replication", "persistence").text();
        let now = [
            info_field(&info, "master_repl_offset")? as i64,
            info_field(&info, "aof_current_size")? as i64,
        ];
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}
