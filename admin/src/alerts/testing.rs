//! Snapshots for tests of rules.

use std::sync::Arc;
use std::time::Duration;

use crate::memory::{Sample, Snapshot};

/// A process that uses this percentage of its heap; its cache is unknown.
pub(crate) fn heap(percent: f64) -> Snapshot {
    let mut snapshot = unknown();
    let sample = Arc::make_mut(&mut snapshot.latest);
    sample.memory.heap_used = Some((percent * 1000.0).round() as u64);
    sample.memory.limit = Some(100_000);
    snapshot
}

/// A process without any known figure.
pub(crate) fn unknown() -> Snapshot {
    let mut sample = Sample::default();
    sample.at += Duration::from_secs(1_763_721_000);
    let mut snapshot = Snapshot::default();
    snapshot.latest = Arc::new(sample);
    snapshot.uptime = Duration::from_secs(919);
    snapshot
}
