//! The cost of one set and one get of an entry with two tags.

use std::io::Result;
use std::time::Instant;

use tagcache_tests::Server;

use super::{Contender, Counted, Options, Report, entry, short};
use crate::table::{Table, median};
use crate::workload::{empty, random_keys};

#[derive(Clone, Copy)]
enum Call {
    Set,
    Get,
}

struct Sample {
    time_s: f64,
    trips: f64,
    counted: Counted,
}

pub(super) fn run(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    empty(&mut server.raw());
    let mut contenders = Contender::all(server);
    for contender in &mut contenders {
        contender.fill(server, (0..options.entries).map(entry))?;
    }
    for (call, name) in [(Call::Set, "SET"), (Call::Get, "GET")] {
        let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..options.rounds {
            let mut order: Vec<usize> = (0..contenders.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for number in order {
                let taken = sample(options, server, &mut contenders[number], call, round)?;
                samples[number].push(taken);
            }
        }
        let mut table = Table::new(&[
            "",
            "round trips",
            "bytes",
            "server CPU",
            "time / tagcache's",
            "lowest",
            "highest",
        ]);
        for (contender, taken) in contenders.iter().zip(&samples) {
            let middle =
                |of: fn(&Sample) -> f64| median(taken.iter().map(of)) / options.calls as f64;
            let ratios = || {
                taken
                    .iter()
                    .zip(&samples[0])
                    .map(|(s, own)| s.time_s / own.time_s)
            };
            table.row(vec![
                contender.way.name().into(),
                short(middle(|s| s.trips)),
                short(middle(|s| s.counted.bytes)),
                format!("{:.1} us", middle(|s| s.counted.cpu_s) * 1e6),
                format!("{:.2}", median(ratios())),
                format!("{:.2}", ratios().fold(f64::MAX, f64::min)),
                format!("{:.2}", ratios().fold(0.0, f64::max)),
            ]);
        }
        let title = format!("{name} of an entry with 2 tags, one call after the other");
        report.table(&title, &table);
    }
    empty(&mut server.raw());
    Ok(())
}

fn sample(
    options: &Options,
    server: &Server,
    contender: &mut Contender,
    call: Call,
    round: usize,
) -> Result<Sample> {
    let numbers: Vec<_> = random_keys(options.entries, options.calls, round as u64 + 1).collect();
    let trips = contender.link.trips;
    let mut time_s = 0.0;
    let counted = Counted::of(&mut server.raw(), || {
        let start = Instant::now();
        for number in numbers {
            let entry = entry(number);
            match call {
                Call::Set => contender.way.set(&mut contender.link, &entry),
                Call::Get => {
                    let value = contender.way.get(&mut contender.link, &entry);
                    assert_eq!(value.as_ref(), Some(&entry.value));
                }
            }
        }
        time_s = start.elapsed().as_secs_f64();
    })?;
    Ok(Sample {
        time_s,
        trips: (contender.link.trips - trips) as f64,
        counted,
    })
}
