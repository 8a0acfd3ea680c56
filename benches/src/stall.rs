//! How long another client waits for its replies during an operation.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tagcache_tests::Server;

/// How long the PING loop runs before the operation, to measure the effect of the machine itself.
const QUIET: Duration = Duration::from_millis(500);

/// The longest duration of a PING.
#[derive(Clone, Copy)]
pub(crate) struct Stall {
    /// During the operation.
    pub(crate) during: Duration,
    /// The part that the server caused and not the machine, at most: the time that its main thread ran until the reply
    /// was read, or the wait less the time in which it was ready to run without a processor, if that is less.
    pub(crate) own: Duration,
    /// Before the operation: the effect of the machine itself.
    pub(crate) quiet: Duration,
}

/// Runs `body` while another client sends PINGs one after the other.
pub(crate) fn while_pinging<R>(server: &Server, body: impl FnOnce() -> R) -> (R, Stall) {
    let [longest_ns, longest_own_ns] = [AtomicU64::new(0), AtomicU64::new(0)];
    let ended = AtomicBool::new(false);
    let mut pinger = server.raw();
    std::thread::scope(|scope| {
        let pinging = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let (start, before) = (Instant::now(), Thread::of(server.pid()));
                let reply = pinger.call(&["PING"]);
                let took_ns = start.elapsed().as_nanos() as u64;
                let after = Thread::of(server.pid());
                let own_ns = took_ns.saturating_sub(after.ready_ns - before.ready_ns);
                let own_ns = match after.ran_ns - before.ran_ns {
                    0 => own_ns, // The system does not report it.
                    ran_ns => own_ns.min(ran_ns),
                };
                longest_ns.fetch_max(took_ns, Ordering::Relaxed);
                longest_own_ns.fetch_max(own_ns, Ordering::Relaxed);
                assert!(!reply.is_error(), "PING: {reply:?}");
            }
        });
        std::thread::sleep(QUIET);
        let take = |ns: &AtomicU64| Duration::from_nanos(ns.swap(0, Ordering::Relaxed));
        let quiet = take(&longest_ns);
        take(&longest_own_ns);
        let result = body();
        ended.store(true, Ordering::Relaxed);
        // The PING in flight may be the one that waited longest.
        pinging.join().expect("a server of our own answers");
        let (during, own) = (take(&longest_ns), take(&longest_own_ns));
        (result, Stall { during, own, quiet })
    })
}

/// How long a process's main thread has run, and has been ready to run without a processor, as Linux counts it.
#[derive(Default)]
struct Thread {
    ran_ns: u64,
    ready_ns: u64,
}

impl Thread {
    /// All 0 if the system does not report it.
    fn of(pid: u32) -> Self {
        let counts = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        let mut counts = counts.split(' ').map_while(|count| count.parse().ok());
        Self {
            ran_ns: counts.next().unwrap_or(0),
            ready_ns: counts.next().unwrap_or(0),
        }
    }
}
