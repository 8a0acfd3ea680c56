//! How long another client waits for its answers while something happens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tagcache_tests::Server;

/// How long the PING loop runs before anything happens, to see what the machine itself does to it.
const QUIET: Duration = Duration::from_millis(500);

/// The longest a PING took.
#[derive(Clone, Copy)]
pub(crate) struct Stall {
    /// While it happened.
    pub(crate) during: Duration,
    /// The same without the time in which the server or the client was ready to run and other processes had the
    /// processor: what the server itself makes others wait.
    pub(crate) own: Duration,
    /// Before: what the machine itself does to it.
    pub(crate) quiet: Duration,
}

/// Runs `body` while another client sends one PING after the other.
pub(crate) fn while_pinging<R>(server: &Server, body: impl FnOnce() -> R) -> (R, Stall) {
    let [longest_ns, longest_own_ns] = [AtomicU64::new(0), AtomicU64::new(0)];
    let ended = AtomicBool::new(false);
    let mut pinger = server.raw();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let waited_ns = || ready_ns(&server.pid().to_string()) + ready_ns("thread-self");
                let (start, before) = (Instant::now(), waited_ns());
                let reply = pinger.call(&["PING"]);
                let took_ns = start.elapsed().as_nanos() as u64;
                let own_ns = took_ns.saturating_sub(waited_ns() - before);
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
        let (during, own) = (take(&longest_ns), take(&longest_own_ns));
        ended.store(true, Ordering::Relaxed);
        (result, Stall { during, own, quiet })
    })
}

/// How long a process's main thread, or this thread, has been ready to run without a processor, as Linux counts it
/// (`/proc/PID/schedstat`, second field); 0 elsewhere.
fn ready_ns(process: &str) -> u64 {
    let counts = std::fs::read_to_string(format!("/proc/{process}/schedstat"));
    let ready = counts
        .ok()
        .and_then(|counts| counts.split(' ').nth(1)?.parse().ok());
    ready.unwrap_or(0)
}
