//! The last sample, and its evaluation by the ones before it.

use std::sync::Arc;
use std::time::Duration;

use super::figures::Sample;
use super::growth::Growth;
use super::process::HeapTotal;
use super::status::Status;

/// The state of a monitor at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The last sample.
    pub latest: Arc<Sample>,
    /// Derived from the heap.
    pub status: Status,
    /// Over the window; `None` until there are enough samples.
    pub growth: Option<Growth>,
    /// Whether the growth is steady and fast enough to be a leak.
    pub leak_suspected: bool,
    /// Over the window.
    pub rates: Rates,
    /// The total to which percentages refer.
    pub heap_total: HeapTotal,
    /// How long the monitor has run.
    pub uptime: Duration,
}

impl Snapshot {
    /// Heap used in percent of the heap total.
    pub fn heap_percent(&self) -> Option<f64> {
        self.latest.memory.heap_percent(self.heap_total)
    }

    /// The longest pause so far: cleanup of the local tier, or reclaim slice of the module.
    pub fn longest_pause(&self) -> Option<Duration> {
        let local = self.latest.local.and_then(|local| local.longest_cleanup_us);
        let server = self.latest.server.cache().map(|cache| cache.reclaim_max_us);
        local.max(server).map(Duration::from_micros)
    }
}

/// Rates between the first and the last sample of the window. `None`: nothing was read, or it cannot be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Rates {
    /// Reads of the local tier that found a value, in percent.
    pub local_hit_rate: Option<f64>,
    /// Reads of the server's cache that found a value (fresh or stale), in percent.
    pub server_hit_rate: Option<f64>,
    /// Reads that either tier served, in percent: of the local hits and all reads that reached the server.
    pub hit_rate: Option<f64>,
    /// Invalidations by tag, per minute.
    pub invalidations_per_minute: Option<f64>,
    /// Entries evicted because the server had no memory for them, per minute.
    pub evictions_per_minute: Option<f64>,
}

impl Rates {
    /// Between two samples, the older first. Counters that went back (a restart, CACHE.RESETSTATS) count from 0.
    pub(super) fn between(first: &Sample, last: &Sample) -> Self {
        let local = first
            .local
            .zip(last.local)
            .map(|(a, b)| (since(a.hits, b.hits), since(a.misses, b.misses)));
        let caches = first.server.cache().zip(last.server.cache());
        let server = caches.map(|(a, b)| {
            let hits = since(a.hits, b.hits) + since(a.stale_hits, b.stale_hits);
            (hits, since(a.misses, b.misses))
        });
        // The server's figures are the whole fleet's; only the process's own cache knows the outcome of its reads.
        let own = first.local.zip(last.local).map(|(a, b)| {
            let reads = since(a.hits, b.hits) + since(a.misses, b.misses);
            let server = a.server_hits.zip(b.server_hits);
            let server = server.map_or(0, |(a, b)| since(a, b));
            let hits = (since(a.hits, b.hits) + server).min(reads);
            (hits, reads - hits)
        });
        let minutes = last
            .since_start
            .saturating_sub(first.since_start)
            .as_secs_f64()
            / 60.0;
        let per_minute = |n: u64| (minutes > 0.0).then(|| n as f64 / minutes);
        Self {
            local_hit_rate: local.and_then(percent),
            server_hit_rate: server.and_then(percent),
            hit_rate: own.or(server).and_then(percent),
            invalidations_per_minute: caches
                .and_then(|(a, b)| per_minute(since(a.invalidations, b.invalidations))),
            evictions_per_minute: caches.and_then(|(a, b)| per_minute(since(a.evicted, b.evicted))),
        }
    }
}

fn since(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn percent((hits, misses): (u64, u64)) -> Option<f64> {
    let reads = hits + misses;
    (reads > 0).then(|| hits as f64 * 100.0 / reads as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{CacheFigures, LocalFigures, MemoryUsage, ServerReading, ServerUsage};
    use std::time::SystemTime;

    fn sample(secs: u64, local: (u64, u64), cache: CacheFigures) -> Sample {
        Sample {
            at: SystemTime::UNIX_EPOCH,
            since_start: Duration::from_secs(secs),
            memory: MemoryUsage::default(),
            local: Some(LocalFigures {
                hits: local.0,
                misses: local.1,
                server_hits: Some(secs / 20),
                ..LocalFigures::default()
            }),
            server: ServerReading::Up(Arc::new(ServerUsage {
                cache: Some(cache),
                ..ServerUsage::default()
            })),
        }
    }

    fn near(value: Option<f64>, expected: f64) {
        let value = value.unwrap();
        assert!((value - expected).abs() < 1e-9, "{value} for {expected}");
    }

    #[test]
    fn hit_rate_counts_each_read_once_over_both_tiers() {
        let first = sample(0, (10, 10), CacheFigures::default());
        let cache = CacheFigures {
            hits: 5,
            stale_hits: 1,
            misses: 4,
            invalidations: 6,
            evicted: 3,
            ..CacheFigures::default()
        };
        let last = sample(120, (100, 20), cache);
        let rates = Rates::between(&first, &last);
        near(rates.local_hit_rate, 90.0);
        near(rates.server_hit_rate, 60.0);
        // The server served 6 of this process's 10 misses: its own counters are the fleet's.
        near(rates.hit_rate, 96.0);
        near(rates.invalidations_per_minute, 3.0);
        near(rates.evictions_per_minute, 1.5);
    }

    #[test]
    fn reset_counters_are_counted_from_zero() {
        let counted = |hits, misses| CacheFigures {
            hits,
            misses,
            ..CacheFigures::default()
        };
        let rates = Rates::between(
            &sample(0, (0, 0), counted(100, 100)),
            &sample(1, (0, 0), counted(3, 1)),
        );
        near(rates.server_hit_rate, 75.0);
        assert_eq!(rates.local_hit_rate, None);
    }
}
