//! All metrics in one table, from which alert conditions, the Prometheus text and the exported rules are made.

use tagcache::memory::{CacheFigures, LocalFigures, ServerReading, ServerUsage, Snapshot};

/// Unit of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// 0 to 100 and, for the heap, above; exported to Prometheus as a ratio.
    Percent,
    /// Milliseconds; exported in seconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// MB per minute; exported in bytes per second.
    MbPerMinute,
    /// A count.
    Count,
    /// A count that only grows.
    Total,
    /// 0 or 1; for the status 0 to 2.
    State,
}

impl Unit {
    /// The value in Prometheus's base unit. 70 % becomes exactly the 0.7 of a rule's text, so that a rule in Prometheus
    /// has the same threshold as one of this crate.
    pub fn to_base(self, value: f64) -> f64 {
        match self {
            Self::Percent => value / 100.0,
            Self::Milliseconds => value / 1000.0,
            Self::MbPerMinute => value * 1_048_576.0 / 60.0,
            Self::Bytes | Self::Seconds | Self::Count | Self::Total | Self::State => value,
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name in alert conditions, such as `memory.heapPercent`.
    pub name: &'static str,
    /// Its name in Prometheus.
    pub prometheus: &'static str,
    /// Description, a sentence without its full stop.
    pub help: &'static str,
    /// Unit of its values.
    pub unit: Unit,
    read: fn(&Snapshot) -> Option<f64>,
}

impl Metric {
    /// The value; `None` if it is unknown.
    pub fn read(&self, snapshot: &Snapshot) -> Option<f64> {
        (self.read)(snapshot)
    }
}

/// The metric of this name.
pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

fn bytes(value: Option<u64>) -> Option<f64> {
    value.map(|n| n as f64)
}

fn server(s: &Snapshot, read: impl FnOnce(&ServerUsage) -> Option<u64>) -> Option<f64> {
    s.latest.server.figures().and_then(read).map(|n| n as f64)
}

fn cache(s: &Snapshot, read: impl FnOnce(&CacheFigures) -> u64) -> Option<f64> {
    s.latest.server.cache().map(|c| read(c) as f64)
}

fn local(s: &Snapshot, read: impl FnOnce(&LocalFigures) -> u64) -> Option<f64> {
    s.latest.local.as_ref().map(|l| read(l) as f64)
}

macro_rules! metrics {
    ($($name:literal $prometheus:literal $unit:ident $help:literal $read:expr;)*) => {
        /// All metrics.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, prometheus: $prometheus, help: $help, unit: Unit::$unit, read: $read },)*
        ];
    };
}

metrics! {
    "memory.heapUsed" "tagcache_memory_heap_used_bytes" Bytes "Heap in use" |s| bytes(s.latest.memory.heap_used);
    "memory.heapTotal" "tagcache_memory_heap_total_bytes" Bytes "What the heap is measured against" |s| bytes(s.latest.memory.heap_total(s.heap_total));
    "memory.heapPercent" "tagcache_memory_heap_ratio" Percent "Heap in use, of the heap total" |s| s.heap_percent();
    "memory.heapCommitted" "tagcache_memory_heap_committed_bytes" Bytes "What the allocator holds" |s| bytes(s.latest.memory.heap_committed);
    "memory.external" "tagcache_memory_external_bytes" Bytes "Resident pages of mapped files and shared memory" |s| bytes(s.latest.memory.external);
    "memory.rss" "tagcache_memory_resident_bytes" Bytes "Resident memory" |s| bytes(s.latest.memory.rss);
    "memory.peakRss" "tagcache_memory_resident_peak_bytes" Bytes "The most memory that was resident" |s| bytes(s.latest.memory.peak_rss);
    "memory.limit" "tagcache_memory_limit_bytes" Bytes "What the process may use at most" |s| bytes(s.latest.memory.limit);
    "memory.growth" "tagcache_memory_growth_bytes_per_second" MbPerMinute "Slope of the heap over the window" |s| s.growth.map(|g| g.mb_per_minute);
    "memory.status" "tagcache_memory_status" State "0 healthy, 1 warning, 2 critical" |s| Some(f64::from(s.status as u8));
    "memory.leakSuspected" "tagcache_memory_leak_suspected" State "1 while growth looks like a leak" |s| Some(f64::from(u8::from(s.leak_suspected)));
    "gc.pauseMs" "tagcache_longest_pause_seconds" Milliseconds "Longest cleanup of the local tier or reclaim slice of the module" |s| s.longest_pause().map(|d| d.as_secs_f64() * 1000.0);
    "uptime.seconds" "tagcache_uptime_seconds" Seconds "Since the monitor started" |s| Some(s.uptime.as_secs_f64());
    "cache.hitRate" "tagcache_hit_ratio" Percent "Reads that either tier answered, over the window" |s| s.rates.hit_rate;
    "cache.local.hitRate" "tagcache_local_hit_ratio" Percent "Reads that the local tier answered, over the window" |s| s.rates.local_hit_rate;
    "cache.local.totalEntries" "tagcache_local_entries" Count "Entries of the local tier" |s| local(s, |l| l.entries);
    "cache.local.bytes" "tagcache_local_bytes" Bytes "Bytes that the local tier's entries are accounted with" |s| s.latest.local.and_then(|l| bytes(l.bytes));
    "cache.local.hits" "tagcache_local_hits_total" Total "Reads that the local tier answered" |s| local(s, |l| l.hits);
    "cache.local.misses" "tagcache_local_misses_total" Total "Reads that the local tier did not answer" |s| local(s, |l| l.misses);
    "cache.local.evictions" "tagcache_local_evictions_total" Total "Entries that the local tier evicted" |s| local(s, |l| l.evictions);
    "cache.redis.connected" "tagcache_server_up" State "1 while the server answers" |s| match s.latest.server {
        ServerReading::None => None,
        ServerReading::Unreachable(_) => Some(0.0),
        ServerReading::Up(_) => Some(1.0),
    };
    "cache.redis.hitRate" "tagcache_server_hit_ratio" Percent "Reads that the server's cache answered, over the window" |s| s.rates.server_hit_rate;
    "cache.redis.keyCount" "tagcache_server_keys" Count "Keys of the server's database, of any type" |s| server(s, |r| r.key_count);
    "cache.redis.usedMemory" "tagcache_server_used_memory_bytes" Bytes "The server's used_memory" |s| server(s, |r| r.used_memory);
    "cache.redis.rss" "tagcache_server_resident_bytes" Bytes "The server's resident memory" |s| server(s, |r| r.rss);
    "cache.redis.uptimeSeconds" "tagcache_server_uptime_seconds" Seconds "Since the server started" |s| server(s, |r| r.uptime_seconds);
    "cache.redis.memoryLimit" "tagcache_server_memory_limit_bytes" Bytes "The server's maxmemory, or its machine's memory" |s| server(s, |r| r.memory_limit);
    "cache.redis.memoryPercent" "tagcache_server_memory_ratio" Percent "The server's used_memory, of its limit" |s| {
        let figures = s.latest.server.figures()?;
        let limit = figures.memory_limit.filter(|&limit| limit > 0)?;
        Some(figures.used_memory? as f64 * 100.0 / limit as f64)
    };
    "cache.redis.clients" "tagcache_server_clients" Count "Clients connected to the server" |s| server(s, |r| r.clients);
    "cache.redis.entries" "tagcache_entries" Count "Visible entries" |s| cache(s, |c| c.entries);
    "cache.redis.tags" "tagcache_tags" Count "Tags that an entry carries" |s| cache(s, |c| c.tags);
    "cache.redis.bytes" "tagcache_entries_bytes" Bytes "Memory of the visible entries" |s| cache(s, |c| c.bytes);
    "cache.redis.indexBytes" "tagcache_index_bytes" Bytes "Memory of the tag index" |s| cache(s, |c| c.index_bytes);
    "cache.redis.hits" "tagcache_hits_total" Total "Reads that found a fresh value" |s| cache(s, |c| c.hits);
    "cache.redis.misses" "tagcache_misses_total" Total "Reads that found nothing" |s| cache(s, |c| c.misses);
    "cache.redis.staleHits" "tagcache_stale_hits_total" Total "Reads that found a stale value" |s| cache(s, |c| c.stale_hits);
    "cache.redis.sets" "tagcache_sets_total" Total "Entries written" |s| cache(s, |c| c.sets);
    "cache.redis.deletes" "tagcache_deletes_total" Total "Entries deleted by key" |s| cache(s, |c| c.deletes);
    "cache.redis.expired" "tagcache_expired_total" Total "Entries that expired" |s| cache(s, |c| c.expired);
    "cache.redis.evicted" "tagcache_evicted_total" Total "Entries that the server evicted for want of memory" |s| cache(s, |c| c.evicted);
    "cache.redis.evictionsPerMinute" "tagcache_evictions_per_minute" Count "Entries that the server evicted, a minute over the window" |s| s.rates.evictions_per_minute;
    "cache.redis.invalidations" "tagcache_invalidations_total" Total "Invalidations by tag" |s| cache(s, |c| c.invalidations);
    "cache.redis.invalidationsPerMinute" "tagcache_invalidations_per_minute" Count "Invalidations by tag, a minute over the window" |s| s.rates.invalidations_per_minute;
    "cache.redis.invalidated" "tagcache_invalidated_total" Total "Entries that invalidations dropped" |s| cache(s, |c| c.invalidated);
    "cache.redis.reclaimBacklog" "tagcache_reclaim_backlog" Count "Gone entries whose memory is still to be given back" |s| cache(s, |c| c.reclaim_backlog);
    "cache.redis.reclaimed" "tagcache_reclaimed_total" Total "Gone entries whose memory was given back" |s| cache(s, |c| c.reclaimed);
    "cache.redis.leases" "tagcache_leases" Count "Leases held" |s| cache(s, |c| c.leases);
    "cache.redis.leasesRefused" "tagcache_leases_refused_total" Total "Writes under a lease that came too late" |s| cache(s, |c| c.leases_refused);
    "cache.redis.leaseWaiters" "tagcache_lease_waiters" Count "Callers that wait for a lease" |s| cache(s, |c| c.lease_waiters);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_prometheus_names_end_with_the_unit() {
        let names: HashSet<_> = METRICS.iter().map(|m| m.name).collect();
        let prometheus: HashSet<_> = METRICS.iter().map(|m| m.prometheus).collect();
        assert_eq!(
            (names.len(), prometheus.len()),
            (METRICS.len(), METRICS.len())
        );
        for metric in METRICS {
            let ending = match metric.unit {
                Unit::Bytes => "_bytes",
                Unit::Percent => "_ratio",
                Unit::Milliseconds | Unit::Seconds => "_seconds",
                Unit::MbPerMinute => "_per_second",
                Unit::Total => "_total",
                Unit::Count | Unit::State => "",
            };
            assert!(metric.prometheus.ends_with(ending), "{}", metric.prometheus);
            assert!(!metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
