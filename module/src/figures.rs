//! The figures of CACHE.STATS and `INFO tagcache`, in one list so that both always show the same.

use std::ffi::CStr;

use crate::engine::{Counters, Database};
use crate::entry::Handle;

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Figure {
    Count(u64),
    /// 0 to 1.
    Rate(f64),
}

/// Figures of one database, or the sums over several.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    entries: u64,
    tags: u64,
    bytes: u64,
    index_bytes: u64,
    reclaim_backlog: u64,
    clock: u64,
    leases: u64,
    lease_waiters: u64,
    counters: Counters,
}

impl Figures {
    /// `monotonic_ms`: the time that leases go by.
    pub(crate) fn of<'d>(
        databases: impl Iterator<Item = &'d mut Database<Handle>>,
        monotonic_ms: u64,
    ) -> Self {
        let mut sums = Self::default();
        for database in databases {
            sums.entries += database.index.visible();
            sums.tags += database.index.populated_tags() as u64;
            sums.bytes += database.index.visible_bytes();
            sums.index_bytes += (database.index.heap_bytes()
                + database.history.heap_bytes()
                + database.leases.heap_bytes()) as u64;
            sums.leases += database.leases.held(monotonic_ms) as u64;
            sums.lease_waiters += database.leases.waiting() as u64;
            sums.reclaim_backlog += database.index.backlog();
            sums.clock += database.clock.reading();
            sums.counters.add(&database.counters);
        }
        sums
    }

    /// Names and figures, in the order of the contract.
    pub(crate) fn list(&self) -> [(&'static CStr, Figure); 21] {
        let counters = &self.counters;
        let rate = Figure::Rate(counters.hit_rate());
        [
            (c"entries", Figure::Count(self.entries)),
            (c"tags", Figure::Count(self.tags)),
            (c"bytes", Figure::Count(self.bytes)),
            (c"index_bytes", Figure::Count(self.index_bytes)),
            (c"hits", Figure::Count(counters.hits)),
            (c"misses", Figure::Count(counters.misses)),
            (c"stale_hits", Figure::Count(counters.stale_hits)),
            (c"hit_rate", rate),
            (c"sets", Figure::Count(counters.sets)),
            (c"deletes", Figure::Count(counters.deletes)),
            (c"expired", Figure::Count(counters.expired)),
            (c"evicted", Figure::Count(counters.evicted)),
            (c"invalidations", Figure::Count(counters.invalidations)),
            (c"invalidated", Figure::Count(counters.invalidated)),
            (c"reclaim_backlog", Figure::Count(self.reclaim_backlog)),
            (c"reclaimed", Figure::Count(counters.reclaimed)),
            (c"reclaim_max_us", Figure::Count(counters.reclaim_max_us)),
            (c"leases", Figure::Count(self.leases)),
            (c"lease_waiters", Figure::Count(self.lease_waiters)),
            (c"leases_refused", Figure::Count(counters.leases_refused)),
            (c"clock", Figure::Count(self.clock)),
        ]
    }
}
