//! Counters of events, since the start or the last CACHE.RESETSTATS.

/// Defines [`Counters`] and their sum: plain totals, nothing is sampled.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// One database's counters.
        #[derive(Debug, Default, Clone)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: u64,)+
            /// Processor time of the longest single background slice.
            pub(crate) reclaim_max_us: u64,
        }

        impl Counters {
            /// Adds another database's counters to these, for a view over all databases.
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
                self.reclaim_max_us = self.reclaim_max_us.max(other.reclaim_max_us);
            }
        }
    };
}

counters! {
    /// Reads that returned a fresh value.
    hits,
    /// Reads that found nothing visible.
    misses,
    /// Reads that returned a stale value.
    stale_hits,
    /// Entries written by CACHE.SET.
    sets,
    /// Entries removed by CACHE.DEL.
    deletes,
    /// Entries that the server removed because their TTL was over.
    expired,
    /// Entries that the server evicted under memory pressure.
    evicted,
    /// Commands that invalidated: CACHE.INVALIDATE and CACHE.FLUSH.
    invalidations,
    /// Entries that those commands dropped, as counted by their replies.
    invalidated,
    /// Gone entries whose memory was reclaimed.
    reclaimed,
    /// Conditional writes that came too late: their lease was lost.
    leases_refused,
}

impl Counters {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hit_rate_is_the_share_of_reads_with_a_value() {
        assert!(Counters::default().hit_rate().abs() < f64::EPSILON);
        let counters = Counters {
            hits: 5,
            stale_hits: 4,
            misses: 3,
            ..Counters::default()
        };
        assert!((counters.hit_rate() - 0.75).abs() < f64::EPSILON);
    }
}
