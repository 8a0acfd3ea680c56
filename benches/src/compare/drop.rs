//! The cost of invalidating a tag, by the number of its entries, next to other entries that stay.

use std::io::Result;
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Server, call};

use super::chart::{Series, draw};
use super::{Contender, Counted, Entry, Options, Report, entry, short};
use crate::stall::while_pinging;
use crate::table::{Table, median, ms, thousands};
use crate::workload::{empty, settle};

const TAG: &str = "tag:dropped";

/// The cost of one way for one size.
struct Cost {
    trips: f64,
    counted: Counted,
    /// The part of the entries' memory that is still held when nothing changes any more; for few entries it would be
    /// lost among the buffers of connections.
    held: Option<f64>,
    times_s: Vec<f64>,
    /// The longest waits of a PING for the server, not for a processor.
    stalls_s: Vec<f64>,
}

fn tagged(number: usize) -> Entry {
    let mut entry = entry(number);
    entry.key = format!("own:{number:09}");
    entry.tags[1] = TAG.into();
    entry
}

pub(super) fn run(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    let mut curves: [Vec<Series>; 3] = Default::default();
    for &size in &options.sizes {
        empty(&mut server.raw());
        let mut contenders = Contender::all(server);
        let mut costs = Vec::new();
        for contender in &mut contenders {
            contender.fill(server, (0..options.entries).map(entry))?;
            costs.push(count(server, contender, size)?);
        }
        for round in 0..options.rounds {
            for step in 0..contenders.len() {
                let number = if round % 2 == 0 {
                    step
                } else {
                    contenders.len() - 1 - step
                };
                time(server, &mut contenders[number], size, &mut costs[number])?;
            }
        }
        let title = format!(
            "Invalidating a tag of {} entries beside {} others",
            thousands(size),
            thousands(options.entries)
        );
        report.table(&title, &table(&contenders, &costs));
        for (number, (contender, cost)) in contenders.iter().zip(&costs).enumerate() {
            let figures = [
                median(cost.times_s.iter().copied()) * 1e3,
                median(cost.stalls_s.iter().copied()) * 1e3,
                cost.counted.bytes,
            ];
            for (curve, figure) in curves.iter_mut().zip(figures) {
                if curve.len() <= number {
                    curve.push(Series::new(contender.way.name()));
                }
                curve[number].points.push((size as f64, figure));
            }
        }
    }
    empty(&mut server.raw());
    let engine = &options.engine.name;
    for (series, (name, title)) in curves.iter().zip([
        ("time", "Time until the invalidation is answered, ms"),
        ("stall", "Longest wait of another client meanwhile, ms"),
        ("bytes", "Bytes between client and server"),
    ]) {
        let svg = draw(&format!("{title} ({engine})"), series)?;
        Report::write(&format!("invalidate-{name}-{engine}.svg"), &svg)?;
    }
    Ok(())
}

/// The first invalidation, without other clients.
fn count(server: &Server, contender: &mut Contender, size: usize) -> Result<Cost> {
    let mut client = server.raw();
    let before = settle(&mut client);
    contender.fill(server, (0..size).map(tagged))?;
    let taken = settle(&mut client) - before;
    let trips = contender.link.trips;
    let begun = Counted::read(&mut client)?.0;
    let mut counted = Counted::of(&mut client, || {
        contender.way.invalidate(&mut contender.link, TAG);
    })?;
    let trips = (contender.link.trips - trips) as f64;
    wait_for_backlog(&mut client);
    counted.cpu_s = Counted::read(&mut client)?.0.cpu_s - begun.cpu_s;
    let held = ((settle(&mut client) - before) as f64 / taken as f64).max(0.0);
    Ok(Cost {
        trips,
        counted,
        held: (size >= 10_000).then_some(held),
        times_s: Vec::new(),
        stalls_s: Vec::new(),
    })
}

fn time(server: &Server, contender: &mut Contender, size: usize, cost: &mut Cost) -> Result<()> {
    contender.fill(server, (0..size).map(tagged))?;
    let mut client = server.raw();
    let (time, stall) = while_pinging(server, || {
        let start = Instant::now();
        contender.way.invalidate(&mut contender.link, TAG);
        let time = start.elapsed();
        wait_for_backlog(&mut client);
        time
    });
    assert_eq!(contender.way.get(&mut contender.link, &tagged(0)), None);
    cost.times_s.push(time.as_secs_f64());
    cost.stalls_s.push(stall.own.as_secs_f64());
    Ok(())
}

/// Reclaiming afterwards belongs to the invalidation.
fn wait_for_backlog(client: &mut RawClient) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while call!(client, "CACHE.STATS").field("reclaim_backlog").int() > 0 {
        assert!(Instant::now() < deadline, "the backlog does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn table(contenders: &[Contender], costs: &[Cost]) -> Table {
    let mut table = Table::new(&[
        "",
        "round trips",
        "bytes",
        "server CPU",
        "answered after",
        "time / tagcache's",
        "others wait at most",
        "memory still held",
    ]);
    for (contender, cost) in contenders.iter().zip(costs) {
        let time = |times: &[f64]| ms(Duration::from_secs_f64(median(times.iter().copied())));
        let ratios = cost
            .times_s
            .iter()
            .zip(&costs[0].times_s)
            .map(|(time, own)| time / own);
        table.row(vec![
            contender.way.name().into(),
            thousands(cost.trips as usize),
            thousands(cost.counted.bytes as usize),
            ms(Duration::from_secs_f64(cost.counted.cpu_s.max(0.0))),
            time(&cost.times_s),
            short(median(ratios)),
            time(&cost.stalls_s),
            cost.held
                .map_or("-".into(), |part| format!("{:.0} %", part * 100.0)),
        ]);
    }
    table
}
