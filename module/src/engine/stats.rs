//! Counters of what happened, since the start or the last CACHE.RESETSTATS.

/// One database's counters. Each is a plain total; nothing is sampled.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counters {
    /// Reads that were answered with a fresh value.
    pub(crate) hits: u64,
    /// Reads that found nothing visible.
    pub(crate) misses: u64,
    /// Reads that were answered with a stale value.
    pub(crate) stale_hits: u64,
    /// Entries written by CACHE.SET.
    pub(crate) sets: u64,
    /// Entries removed by CACHE.DEL.
    pub(crate) deletes: u64,
    /// Entries that the server removed because their time was over.
    pub(crate) expired: u64,
    /// Entries that the server evicted under memory pressure.
    pub(crate) evicted: u64,
    /// Commands that invalidated: CACHE.INVALIDATE and CACHE.FLUSH.
    pub(crate) invalidations: u64,
    /// What those commands dropped, as counted by their replies.
    pub(crate) invalidated: u64,
    /// Gone entries whose memory was given back.
    pub(crate) reclaimed: u64,
    /// Processor time of the longest single background slice.
    pub(crate) reclaim_max_us: u64,
    /// Conditional writes that came too late: their lease was lost.
    pub(crate) leases_refused: u64,
}

impl Counters {
    /// Adds another database's counters to these, for a view over all databases.
    pub(crate) fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.stale_hits += other.stale_hits;
        self.sets += other.sets;
        self.deletes += other.deletes;
        self.expired += other.expired;
        self.evicted += other.evicted;
        self.invalidations += other.invalidations;
        self.invalidated += other.invalidated;
        self.reclaimed += other.reclaimed;
        self.reclaim_max_us = self.reclaim_max_us.max(other.reclaim_max_us);
        self.leases_refused += other.leases_refused;
    }

    /// Hits, stale ones included, as a part of all reads: 0 to 1, and 0 while nothing was read.
    pub(crate) fn hit_rate(&self) -> f64 {
        let hits = self.hits + self.stale_hits;
        let reads = hits + self.misses;
        if reads == 0 {
            0.0
        } else {
            hits as f64 / reads as f64
        }
    }
}
