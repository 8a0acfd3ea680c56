//! Loads that race with an invalidation, and loads that race with each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tagcache_tests::{RawClient, Server, call};

use super::way::Turn;
use super::{Entry, Link, Options, Report, WAYS, Way};
use crate::table::{Table, thousands};
use crate::workload::empty;

const CALLERS: usize = 50;
const LOAD: Duration = Duration::from_millis(50);

fn raced(value: u64) -> Entry {
    Entry {
        key: "raced".into(),
        value: value.to_string(),
        tags: vec!["tenant:007".into(), "kind:07".into()],
        ttl_s: 3600,
    }
}

/// One process misses, reads the database and sets the value; another changes the database and invalidates. The order
/// of their round trips is random, the same in each run for the same seed.
pub(super) fn race(options: &Options, server: &Server, report: &mut Report) {
    let mut table = Table::new(&["", "old value served", "and not dropped by the next"]);
    for make in WAYS {
        let mut clients = [server.raw(), server.raw()];
        let mut link = Link::new(server.raw());
        let mut ways = [make(&mut link), make(&mut link)];
        let (mut stale, mut lost) = (0_usize, 0_usize);
        for seed in 0..options.runs {
            call!(clients[0], "FLUSHALL");
            // The tags are in use.
            let other = Entry {
                key: "other".into(),
                ..raced(0)
            };
            ways[1].set(&mut link, &other);
            clients = run(&mut ways, clients, seed);
            if ways[1]
                .get(&mut link, &raced(0))
                .is_some_and(|value| value == "1")
            {
                stale += 1;
                ways[1].invalidate(&mut link, "tenant:007");
                lost += usize::from(ways[1].get(&mut link, &raced(0)).is_some());
            }
        }
        table.row(vec![
            ways[0].name().into(),
            thousands(stale),
            thousands(lost),
        ]);
    }
    let title = format!(
        "Old values cached in {} races",
        thousands(options.runs as usize)
    );
    report.table(&title, &table);
    empty(&mut server.raw());
}

fn run(ways: &mut [Box<dyn Way>; 2], clients: [RawClient; 2], seed: u64) -> [RawClient; 2] {
    let database = AtomicU64::new(1);
    let turns = Turn::pair(seed);
    let [loader, changer] = ways;
    let [loading, changing] = clients;
    let [for_loader, for_changer] = turns;
    let database = &database;
    std::thread::scope(|scope| {
        let loads = scope.spawn(move || {
            let mut link = Link::in_turn(loading, for_loader.clone());
            loader.fetch(&mut link, &raced(0), &mut || {
                for_loader
                    .step(|| database.load(Ordering::SeqCst))
                    .to_string()
            });
            for_loader.end();
            link.into_client()
        });
        let mut link = Link::in_turn(changing, for_changer.clone());
        for_changer.step(|| database.store(2, Ordering::SeqCst));
        changer.invalidate(&mut link, "tenant:007");
        for_changer.end();
        let loading = loads.join().expect("the loader does not panic");
        [loading, link.into_client()]
    })
}

/// Fifty processes miss the same value at the same moment.
pub(super) fn stampede(options: &Options, server: &Server, report: &mut Report) {
    let mut table = Table::new(&["", "loads", "round trips"]);
    for make in WAYS {
        let mut name = "";
        let (mut loads, mut trips) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            call!(server.raw(), "FLUSHALL");
            let loaded = AtomicU64::new(0);
            let sent = AtomicU64::new(0);
            let start = Arc::new(Barrier::new(CALLERS));
            std::thread::scope(|scope| {
                for _ in 0..CALLERS {
                    let mut link = Link::new(server.raw());
                    let mut way = make(&mut link);
                    name = way.name();
                    let (start, loaded, sent) = (Arc::clone(&start), &loaded, &sent);
                    scope.spawn(move || {
                        start.wait();
                        let before = link.trips;
                        way.fetch(&mut link, &raced(0), &mut || {
                            loaded.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(LOAD);
                            "1".into()
                        });
                        sent.fetch_add(link.trips - before, Ordering::Relaxed);
                    });
                }
            });
            loads.push(loaded.into_inner() as f64);
            trips.push(sent.into_inner() as f64);
        }
        table.row(vec![
            name.into(),
            super::short(crate::table::median(loads)),
            super::short(crate::table::median(trips)),
        ]);
    }
    let title = format!(
        "{CALLERS} processes miss one value at once, loaded in {} ms, no lock beside the way itself",
        LOAD.as_millis()
    );
    report.table(&title, &table);
    empty(&mut server.raw());
}
