//! Waiting for a condition, never for a time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Long enough for the slowest condition on a busy machine; no test passes by waiting for all of it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A deadline, or a time that a few calls must fit in, multiplied by `TAGCACHE_SLOWDOWN`: how many times slower than
/// normal the servers run.
///
/// # Panics
/// Panics if that is not a whole number.
#[must_use]
pub fn slowed(deadline: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| {
        let text = std::env::var("TAGCACHE_SLOWDOWN");
        text.map_or(1, |text| text.parse().expect("a whole number"))
    });
    deadline * *factor
}

/// Polls `cond` until it holds.
///
/// # Panics
/// Panics if `cond` does not hold within `deadline`, or a multiple of it (`TAGCACHE_SLOWDOWN`); the message contains
/// `what`.
pub fn wait_until(what: &str, deadline: Duration, cond: impl FnMut() -> bool) {
    assert!(
        holds(deadline, cond),
        "waited {deadline:?} in vain for: {what}"
    );
}

/// Polls `cond` until it holds; returns whether it did within `deadline`.
pub(crate) fn holds(deadline: Duration, mut cond: impl FnMut() -> bool) -> bool {
    let (start, deadline) = (Instant::now(), slowed(deadline));
    let mut pause = Duration::from_millis(1);
    while !cond() {
        if start.elapsed() > deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    true
}
