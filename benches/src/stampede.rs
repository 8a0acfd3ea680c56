//! Five hundred callers ask for one missing value: by CACHE.FETCH, and by a lock that is polled.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Reply, Server, call};

use crate::options::Options;
use crate::table::{Table, median, ms, thousands};
use crate::targets::{Bound, Targets};
use crate::workload::empty;

const CALLERS: usize = 500;
/// How long the database takes.
const LOAD: Duration = Duration::from_millis(50);
/// How long a caller that found the lock taken sleeps before it looks again.
const POLL: Duration = Duration::from_millis(10);
const VALUE: &str = "the value that takes so long to load";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `CACHE.FETCH … LEASE … WAIT`, `CACHE.SET … LEASE`
    Lease,
    /// `GET`; `SET lock NX PX`; whoever has the lock loads, the others `GET` again and again
    Lock,
}

#[derive(Default)]
struct Counters {
    loads: AtomicUsize,
    commands: AtomicUsize,
}

struct Measured {
    loads: f64,
    commands: f64,
    /// From the start to the last caller's answer.
    all_answered: Duration,
    /// From the moment the value is sent to the server until the last caller has it.
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
            .map(|_| measure(server, way, &mut callers))
            .collect();
        let middle = |of: fn(&Measured) -> f64| median(measured.iter().map(of));
        let time = |of: fn(&Measured) -> f64| ms(Duration::from_secs_f64(middle(of)));
        let worst = measured.iter().map(|m| m.after_load).max();
        table.row(vec![
            name.into(),
            format!("{:.0}", middle(|m| m.loads)),
            thousands(middle(|m| m.commands) as usize),
            time(|m| m.all_answered.as_secs_f64()),
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

fn measure(server: &Server, way: Way, callers: &mut [RawClient]) -> Measured {
    empty(&mut server.raw());
    let counters = Counters::default();
    let barrier = Barrier::new(callers.len() + 1);
    let (start, loaded, last) = std::thread::scope(|scope| {
        let (counters, barrier) = (&counters, &barrier);
        let threads: Vec<_> = callers
            .iter_mut()
            .map(|caller| {
                let body = move || {
                    barrier.wait();
                    let loaded = match way {
                        Way::Lease => by_lease(caller, counters),
                        Way::Lock => by_lock(caller, counters),
                    };
                    (loaded, Instant::now())
                };
                let thread = std::thread::Builder::new().stack_size(256 << 10);
                thread
                    .spawn_scoped(scope, body)
                    .expect("a thread for each caller")
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let answers = threads
            .into_iter()
            .map(|thread| thread.join().expect("a caller that gets its value"));
        answers.fold((start, start, start), |(start, loaded, last), answer| {
            let loads = answer.0.unwrap_or(loaded);
            (start, loads.max(loaded), answer.1.max(last))
        })
    });
    Measured {
        loads: counters.loads.load(Ordering::Relaxed) as f64,
        commands: counters.commands.load(Ordering::Relaxed) as f64,
        all_answered: last - start,
        after_load: last - loaded,
    }
}

/// What the application has to do; answers when it was done.
fn load(counters: &Counters) -> Instant {
    counters.loads.fetch_add(1, Ordering::Relaxed);
    std::thread::sleep(LOAD);
    Instant::now()
}

fn by_lease(caller: &mut RawClient, counters: &Counters) -> Option<Instant> {
    loop {
        counters.commands.fetch_add(1, Ordering::Relaxed);
        let answer = call!(
            caller,
            "CACHE.FETCH",
            "key",
            "LEASE",
            10_000,
            "WAIT",
            10_000
        );
        let [_, value, _, token, _] = answer.items() else {
            panic!("CACHE.FETCH: {answer:?}")
        };
        if !value.is_null() {
            return None;
        }
        if token.int() > 0 {
            let loaded = load(counters);
            counters.commands.fetch_add(1, Ordering::Relaxed);
            let set = call!(caller, "CACHE.SET", "key", VALUE, "LEASE", token.int());
            assert_eq!(set, Reply::ok());
            return Some(loaded);
        }
    }
}

fn by_lock(caller: &mut RawClient, counters: &Counters) -> Option<Instant> {
    loop {
        counters.commands.fetch_add(1, Ordering::Relaxed);
        if !call!(caller, "GET", "key").is_null() {
            return None;
        }
        counters.commands.fetch_add(1, Ordering::Relaxed);
        if call!(caller, "SET", "lock", "1", "NX", "PX", 10_000) == Reply::ok() {
            let loaded = load(counters);
            counters.commands.fetch_add(2, Ordering::Relaxed);
            assert_eq!(call!(caller, "SET", "key", VALUE), Reply::ok());
            call!(caller, "DEL", "lock");
            return Some(loaded);
        }
        std::thread::sleep(POLL);
    }
}
