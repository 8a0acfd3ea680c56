//! Alerts from a snapshot to the receiver, over real connections on the loopback.
#![forbid(unsafe_code)]
// A helper may panic: that fails its test, as a panic in the test itself does.
#![allow(clippy::unwrap_used)]

mod delivery;
mod email;
mod prometheus;
mod receiver;
mod smtp;

use std::sync::Arc;
use std::time::Duration;

use tagcache_admin::alerts::{Alerts, Config, Retries};
use tagcache_admin::memory::{Sample, Snapshot};

/// A process that uses this percentage of its heap.
fn heap(percent: u64) -> Snapshot {
    let mut sample = Sample::default();
    sample.at += Duration::from_secs(1_763_721_000);
    sample.memory.heap_used = Some(percent);
    sample.memory.limit = Some(100);
    let mut snapshot = Snapshot::default();
    snapshot.latest = Arc::new(sample);
    snapshot
}

/// The guide's rules and these channels, with an environment of the test's own.
fn alerts(yaml: &str, env: &'static [(&str, &str)]) -> Alerts {
    let lookup = move |name: &str| {
        let found = env.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Alerts::builder(Config::from_yaml(yaml).unwrap())
        .instance("web-1")
        .retries(Retries {
            attempts: 4,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
        })
        .env(lookup)
        .start()
        .unwrap()
}

/// One rule that reports to this channel at once, and again after each end without a pause.
fn one_rule(channel: &str) -> String {
    format!(
        "channels:\n  it: {channel}\nalerts:\n  - name: High Memory Usage\n    condition: memory.heapPercent > 85\n    severity: critical\n    channels: [it]\n    cooldown: 0s\n    hysteresis: 5\n"
    )
}
