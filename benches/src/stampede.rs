//! Five hundred callers request one missing value: by CACHE.FETCH, and by a lock that is polled.
//!
//! One thread acts for all of them, so that the figures show the server's part, and not how five hundred threads share
//! a machine: it sends the commands of each caller, and reads the replies to each.

use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Reply, Server, call};

use crate::options::Options;
use crate::table::{Table, median, ms, thousands};
use crate::targets::{Bound, Targets};
use crate::workload::empty;

const CALLERS: usize = 500;
/// The time that the database takes.
const LOAD: Duration = Duration::from_millis(50);
/// How long a caller that found the lock taken sleeps before it tries again.
const POLL: Duration = Duration::from_millis(10);
const VALUE: &str = "the value that takes so long to load";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `CACHE.FETCH … LEASE … WAIT`, `CACHE.SET … LEASE`
    Lease,
    /// `GET`; `SET lock NX PX`; the caller that has the lock loads, the others repeat `GET`
    Lock,
}

struct Measured {
    loads: f64,
    commands: f64,
    /// From the start to the last caller's reply.
    all_replied: Duration,
    /// From the end of the load until the last caller has the value.
    after_load: Duration,
}

pub(crate) fn run(options: &Options, server: &Server, targets: &mut Targets) {
    let rounds = options.rounds.min(5);
    println!(
        "{CALLERS} callers of one missing key, loaded in {}, a lock polled every {}, {rounds} rounds",
        ms(LOAD),
        ms(POLL)
    );
    let mut table = Table::new(&[
        "",
        "loads",
        "commands",
        "last answer after",
        "after the load",
        "worst round",
    ]);
    let mut callers: Vec<RawClient> = (0..CALLERS).map(|_| server.raw()).collect();
    for (way, name) in [
        (Way::Lease, "CACHE.FETCH LEASE WAIT"),
        (Way::Lock, "SET NX lock and polling"),
    ] {
        let measured: Vec<_> = (0..rounds)
            .map(|_| {
                empty(&mut server.raw());
                match way {
                    Way::Lease => by_lease(&mut callers),
                    Way::Lock => by_lock(&mut callers),
                }
            })
            .collect();
        let middle = |of: fn(&Measured) -> f64| median(measured.iter().map(of));
        let time = |of: fn(&Measured) -> f64| ms(Duration::from_secs_f64(middle(of)));
        let worst = measured.iter().map(|m| m.after_load).max();
        table.row(vec![
            name.into(),
            format!("{:.0}", middle(|m| m.loads)),
            thousands(middle(|m| m.commands) as usize),
            time(|m| m.all_replied.as_secs_f64()),
            time(|m| m.after_load.as_secs_f64()),
            ms(worst.unwrap_or_default()),
        ]);
        if way == Way::Lease {
            let most = measured.iter().map(|m| m.loads).fold(0.0, f64::max);
            targets.add("stampede: loads", Bound::AtMost(1.0), most, "");
        }
    }
    table.print();
    empty(&mut server.raw());
}

fn by_lease(callers: &mut [RawClient]) -> Measured {
    const FETCH: [&str; 6] = ["CACHE.FETCH", "key", "LEASE", "10000", "WAIT", "10000"];
    let start = Instant::now();
    let (first, others) = callers.split_first_mut().expect("hundreds of callers");
    first.send(&FETCH);
    for caller in others.iter_mut() {
        caller.send(&FETCH);
    }
    let token = first.read().items()[3].int();
    assert!(token > 0, "the first caller loads");
    std::thread::sleep(LOAD);
    let loaded = Instant::now();
    let set = call!(first, "CACHE.SET", "key", VALUE, "LEASE", token);
    assert_eq!(set, Reply::ok());
    let mut loads = 1;
    for caller in others.iter_mut() {
        let answer = caller.read();
        let [_, value, _, token, _] = answer.items() else {
            panic!("CACHE.FETCH: {answer:?}")
        };
        loads += usize::from(token.int() > 0);
        assert_eq!(*value, Reply::bulk(VALUE));
    }
    Measured {
        loads: loads as f64,
        commands: callers.len() as f64 + 1.0,
        all_replied: start.elapsed(),
        after_load: loaded.elapsed(),
    }
}

/// All callers poll at the same moments: on average each waits half the pause longer than necessary, as with
/// independent clocks, and the last one all of it.
fn by_lock(callers: &mut [RawClient]) -> Measured {
    let start = Instant::now();
    let mut commands = 0;
    // The caller that loads, and the end of its load.
    let mut loading: Option<(usize, Instant)> = None;
    let mut loaded = start;
    let mut loads = 0;
    let mut waiting: Vec<usize> = (0..callers.len()).collect();
    loop {
        let asking = || waiting.iter().copied();
        let found = ask(callers, asking(), &["GET", "key"]);
        commands += found.len();
        waiting = asking()
            .zip(found)
            .filter_map(|(caller, value)| value.is_null().then_some(caller))
            .collect();
        let locking = ask(
            callers,
            waiting.iter().copied(),
            &["SET", "lock", "1", "NX", "PX", "10000"],
        );
        commands += locking.len();
        for (caller, lock) in waiting.iter().zip(locking) {
            if lock == Reply::ok() {
                loads += 1;
                loading = Some((*caller, Instant::now() + LOAD));
            }
        }
        let next = Instant::now() + POLL;
        if let Some((caller, until)) = loading.filter(|(_, until)| *until <= next) {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            loaded = Instant::now();
            commands += 2;
            assert_eq!(call!(callers[caller], "SET", "key", VALUE), Reply::ok());
            call!(callers[caller], "DEL", "lock");
            waiting.retain(|other| *other != caller);
            loading = None;
        }
        if waiting.is_empty() {
            break;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Measured {
        loads: f64::from(loads),
        commands: commands as f64,
        all_replied: start.elapsed(),
        after_load: loaded.elapsed(),
    }
}

/// Sends a command for each of these callers, then reads the reply to each.
fn ask(
    callers: &mut [RawClient],
    numbers: impl Iterator<Item = usize> + Clone,
    command: &[&str],
) -> Vec<Reply> {
    for caller in numbers.clone() {
        callers[caller].send(command);
    }
    numbers.map(|caller| callers[caller].read()).collect()
}
