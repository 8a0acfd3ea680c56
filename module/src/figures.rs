//! The figures of CACHE.STATS and `INFO tagcache`, in one list so that both always show the same.

use crate::engine::{Counters, Database};
use crate::entry::Handle;

/// Entries, or tags, that are checked in one step to count the tags: some microseconds.
pub(crate) const LOOK_STEP: u64 = 16;

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Figure {
    Count(u64),
    /// 0 to 1.
    Rate(f64),
}

/// The figures of one database, or the sums over several, in the order of the contract. `monotonic_ms` is the time by
/// the clock of the leases.
pub(crate) fn figures<'d>(
    databases: impl Iterator<Item = &'d Database<Handle>>,
    monotonic_ms: u64,
) -> Vec<(&'static str, Figure)> {
    let mut counters = Counters::default();
    let (mut entries, mut tags, mut bytes, mut index_bytes) = (0, 0, 0, 0);
    let (mut leases, mut lease_waiters, mut reclaim_backlog, mut clock) = (0, 0, 0, 0);
    for database in databases {
        entries += database.index.visible();
        tags += database.index.populated_tags() as u64;
        bytes += database.index.visible_bytes();
        index_bytes += (database.index.heap_bytes()
            + database.history.heap_bytes()
            + database.leases.heap_bytes()) as u64;
        leases += database.leases.held(monotonic_ms) as u64;
        lease_waiters += database.leases.waiting() as u64;
        reclaim_backlog += database.index.backlog();
        clock += database.clock;
        counters.add(&database.counters);
    }
    let count = Figure::Count;
    vec![
        ("entries", count(entries)),
        ("tags", count(tags)),
        ("bytes", count(bytes)),
        ("index_bytes", count(index_bytes)),
        ("hits", count(counters.hits)),
        ("misses", count(counters.misses)),
        ("stale_hits", count(counters.stale_hits)),
        ("hit_rate", Figure::Rate(counters.hit_rate())),
        ("sets", count(counters.sets)),
        ("deletes", count(counters.deletes)),
        ("expired", count(counters.expired)),
        ("evicted", count(counters.evicted)),
        ("invalidations", count(counters.invalidations)),
        ("invalidated", count(counters.invalidated)),
        ("reclaim_backlog", count(reclaim_backlog)),
        ("reclaimed", count(counters.reclaimed)),
        ("reclaim_max_us", count(counters.reclaim_max_us)),
        ("leases", count(leases)),
        ("lease_waiters", count(lease_waiters)),
        ("leases_refused", count(counters.leases_refused)),
        ("clock", count(clock)),
    ]
}
