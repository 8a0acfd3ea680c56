//! Commands per second: GET, and SET of existing keys and of new ones.

use std::io::Result;

use tagcache_tests::{RawClient, Reply, Server, args, call};

use crate::options::Options;
use crate::table::{Table, median, thousands};
use crate::targets::{Bound, Targets};
use crate::wire::{Expect, Tape};
use crate::workload::{
    Driver, Sample, Until, Way, empty, gets, load_script, random_keys, sets, shuffled_keys, value,
};

/// Commands per round trip.
const DEPTHS: [usize; 2] = [1, 16];

/// The number of random choices before they repeat.
const TAPE_LEN: usize = 200_000;

/// The depth that the targets refer to.
const TARGET_DEPTH: usize = 16;

/// One way, ready to run.
struct Lane {
    way: Way,
    driver: Driver,
    tape: Tape,
    samples: Vec<Sample>,
}

impl Lane {
    fn new(server: &Server, way: Way, tape: Tape) -> Result<Self> {
        Ok(Self {
            way,
            driver: Driver::connect(server, way)?,
            tape,
            samples: Vec::new(),
        })
    }
}

pub(crate) fn get(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    let mut client = server.raw();
    empty(&mut client);
    let mut lanes = Vec::new();
    for way in [Way::Native, Way::Untagged, Way::TwoTags] {
        let mut lane = Lane::new(
            server,
            way,
            gets(way, random_keys(options.keys, TAPE_LEN, options.seed)),
        )?;
        fill(&mut lane, options, &[])?;
        lanes.push(lane);
    }
    for depth in DEPTHS {
        sample_all(&mut lanes, options.rounds, |lane| {
            lane.driver.run(
                &lane.tape,
                depth,
                Until::Elapsed(options.sample),
                Expect::Value,
            )
        })?;
        println!("GET, {depth} commands a round trip");
        print(&lanes, Way::get_name);
        if depth == TARGET_DEPTH {
            for lane in &lanes[1..] {
                let what = format!("{} / GET", lane.way.get_name());
                targets.add(what, Bound::AtLeast(0.97), ratio(lane, &lanes[0]), "");
            }
        }
    }
    Ok(())
}

/// Reads that find their value, each way compared with GET.
pub(crate) fn fetch(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    let mut client = server.raw();
    empty(&mut client);
    let ways = [
        Way::Native,
        Way::Untagged,
        Way::Fetch,
        Way::FetchTwoTags,
        Way::TwoTags,
        Way::Marked,
    ];
    let mut lanes = Vec::new();
    for way in ways {
        let keys = random_keys(options.keys, TAPE_LEN, options.seed);
        let mut lane = Lane::new(server, way, gets(way, keys))?;
        fill(&mut lane, options, &[])?;
        lanes.push(lane);
    }
    make_stale(&mut client, options.keys / 4);
    for depth in DEPTHS {
        sample_all(&mut lanes, options.rounds, |lane| {
            lane.driver.run(
                &lane.tape,
                depth,
                Until::Elapsed(options.sample),
                Expect::Value,
            )
        })?;
        println!("Reads that find their value, {depth} commands a round trip");
        print(&lanes, Way::get_name);
        if depth == TARGET_DEPTH {
            let [native, _, fetch, fetch_tags, two_tags, marked] = &lanes[..] else {
                return Ok(());
            };
            let mut add = |what: &str, lane, to, limit| {
                targets.add(what, Bound::AtLeast(limit), ratio(lane, to), "");
            };
            add("CACHE.FETCH hit / GET", fetch, native, 0.85);
            add(
                "CACHE.FETCH hit, entries with 2 tags / GET",
                fetch_tags,
                native,
                0.85,
            );
            // No entry that is read is stale: the cost measured is that of stale entries elsewhere.
            add(
                "CACHE.GET with soft marks / without",
                marked,
                two_tags,
                0.97,
            );
        }
    }
    empty(&mut client);
    Ok(())
}

/// Adds stale entries to the database of [`Way::Marked`], by 32 soft invalidations one after the other.
fn make_stale(client: &mut RawClient, count: usize) {
    const MARKS: usize = 32;
    assert_eq!(call!(client, "SELECT", Way::Marked.db()), Reply::ok());
    for mark in 0..MARKS {
        let tag = format!("soft:{mark}");
        let set = |n: usize| {
            args![
                "CACHE.SET",
                format!("stale:{mark}:{n}"),
                value(n),
                "GRACE",
                3_600_000,
                "TAGS",
                1,
                tag
            ]
        };
        let sets: Vec<_> = (0..count / MARKS).map(set).collect();
        for reply in client.pipeline(&sets) {
            assert!(!reply.is_error(), "CACHE.SET: {reply:?}");
        }
        let softened = call!(client, "CACHE.REVALIDATE", tag);
        assert_eq!(softened, Reply::Int((count / MARKS) as i64));
    }
    assert_eq!(call!(client, "SELECT", 0), Reply::ok());
}

pub(crate) fn set(options: &Options, server: &Server, targets: &mut Targets) -> Result<()> {
    let script = load_script(server);
    let ways = [Way::Native, Way::Untagged, Way::TwoTags, Way::Lua];

    empty(&mut server.raw());
    let mut lanes = Vec::new();
    for way in ways {
        let tape = sets(
            way,
            &script,
            random_keys(options.keys, TAPE_LEN, options.seed),
        );
        let mut lane = Lane::new(server, way, tape)?;
        fill(&mut lane, options, &script)?;
        lanes.push(lane);
    }
    for depth in DEPTHS {
        sample_all(&mut lanes, options.rounds, |lane| {
            lane.driver.run(
                &lane.tape,
                depth,
                Until::Elapsed(options.sample),
                Expect::NoError,
            )
        })?;
        println!("SET of keys that are there, {depth} commands a round trip");
        print(&lanes, Way::set_name);
        add_targets(targets, &lanes, depth, "overwriting");
    }
    drop(lanes);

    let mut client = server.raw();
    let keys = shuffled_keys(options.inserts, options.seed);
    let mut lanes = Vec::new();
    for way in ways {
        lanes.push(Lane::new(
            server,
            way,
            sets(way, &script, keys.iter().copied()),
        )?);
    }
    for depth in DEPTHS {
        sample_all(&mut lanes, options.rounds, |lane| {
            empty(&mut client);
            lane.driver
                .run(&lane.tape, depth, Until::EndOfTape, Expect::NoError)
        })?;
        println!(
            "SET of {} new keys into an empty server, {depth} commands a round trip",
            thousands(options.inserts)
        );
        print(&lanes, Way::set_name);
        add_targets(targets, &lanes, depth, "new keys");
    }
    empty(&mut client);
    Ok(())
}

/// Sets every key once.
fn fill(lane: &mut Lane, options: &Options, script: &[u8]) -> Result<()> {
    let tape = sets(
        lane.way,
        script,
        shuffled_keys(options.keys, options.seed).into_iter(),
    );
    lane.driver
        .run(&tape, 16, Until::EndOfTape, Expect::NoError)?;
    Ok(())
}

/// Takes one sample of each lane per round, alternately forwards and backwards, so that no lane always comes after
/// another.
fn sample_all(
    lanes: &mut [Lane],
    rounds: usize,
    mut sample: impl FnMut(&mut Lane) -> Result<Sample>,
) -> Result<()> {
    for lane in lanes.iter_mut() {
        lane.samples.clear();
    }
    // The first round warms up.
    for round in 0..=rounds {
        let mut order: Vec<&mut Lane> = lanes.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for lane in order {
            let taken = sample(lane)?;
            if round > 0 {
                lane.samples.push(taken);
            }
        }
    }
    Ok(())
}

/// The median of the rounds' ratios of the two lanes' rates.
fn ratio(lane: &Lane, to: &Lane) -> f64 {
    median(
        lane.samples
            .iter()
            .zip(&to.samples)
            .map(|(a, b)| a.rate / b.rate),
    )
}

fn add_targets(targets: &mut Targets, lanes: &[Lane], depth: usize, keys: &str) {
    if depth != TARGET_DEPTH {
        return;
    }
    let [native, untagged, two_tags, lua] = lanes else {
        return;
    };
    let mut add = |what: &str, limit, measured| {
        targets.add(
            format!("{what}, {keys}"),
            Bound::AtLeast(limit),
            measured,
            "",
        );
    };
    add("CACHE.SET / SET PX", 0.95, ratio(untagged, native));
    add("CACHE.SET TAGS 2 / SET PX", 0.80, ratio(two_tags, native));
    add("CACHE.SET TAGS 2 / Lua", 3.0, ratio(two_tags, lua));
}

/// Ratios are to the first lane.
fn print(lanes: &[Lane], name: fn(Way) -> &'static str) {
    let mut table = Table::new(&[
        "",
        "commands/s",
        "ratio",
        "lowest",
        "highest",
        "server CPU each",
        "by CPU",
        "server busy",
    ]);
    for lane in lanes {
        let pairs = || lane.samples.iter().zip(&lanes[0].samples);
        let ratios = || pairs().map(|(a, b)| a.rate / b.rate);
        table.row(vec![
            name(lane.way).into(),
            thousands(median(lane.samples.iter().map(|s| s.rate)).round() as usize),
            format!("{:.2}", median(ratios())),
            format!("{:.2}", ratios().fold(f64::INFINITY, f64::min)),
            format!("{:.2}", ratios().fold(0.0, f64::max)),
            format!("{:.2} us", median(lane.samples.iter().map(|s| s.cpu_us))),
            format!("{:.2}", median(pairs().map(|(a, b)| b.cpu_us / a.cpu_us))),
            format!(
                "{:.0} %",
                100.0 * median(lane.samples.iter().map(|s| s.busy))
            ),
        ]);
    }
    table.print();
}
