//! How long another client waits for its answers while something happens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tagcache_tests::{RawClient, Server};

/// How long the PING loop runs before anything happens, to see what the machine itself does to it.
const QUIET: Duration = Duration::from_millis(500);

/// The longest a PING took.
#[derive(Clone, Copy)]
pub(crate) struct Stall {
    /// While it happened.
    pub(crate) during: Duration,
    /// Before: what the machine itself does to it.
    pub(crate) quiet: Duration,
}

/// Runs `body` while another client sends one PING after the other.
pub(crate) fn while_pinging<R>(server: &Server, body: impl FnOnce() -> R) -> (R, Stall) {
    let longest_ns = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    let mut pinger = server.raw();
    std::thread::scope(|scope| {
        scope.spawn(|| ping_until(&ended, &mut pinger, &longest_ns));
        std::thread::sleep(QUIET);
        let quiet = Duration::from_nanos(longest_ns.swap(0, Ordering::Relaxed));
        let result = body();
        let during = Duration::from_nanos(longest_ns.load(Ordering::Relaxed));
        ended.store(true, Ordering::Relaxed);
        (result, Stall { during, quiet })
    })
}

/// Another client of the server, that wants its answers at once.
fn ping_until(ended: &AtomicBool, client: &mut RawClient, longest_ns: &AtomicU64) {
    while !ended.load(Ordering::Relaxed) {
        let start = Instant::now();
        let reply = client.call(&["PING"]);
        longest_ns.fetch_max(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        assert!(!reply.is_error(), "PING: {reply:?}");
    }
}
