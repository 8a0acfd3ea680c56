//! Guarantees of the local tier beyond single calls: bounds, time, loads, counts, misbehaving values, cleanup.

mod bounds;
mod cleanup;
mod counts;
mod loads;
mod order;
mod time;
mod values;

use std::{
    thread,
    time::{Duration, Instant},
};

const MINUTE: Duration = Duration::from_secs(60);

/// Waits until `holds`, and fails if it never does.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "after 30 s, not yet: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
