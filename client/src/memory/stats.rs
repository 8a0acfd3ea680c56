//! The memory optimization guide's memory statistics, as any web framework can return them.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::figures::LocalTier;
use super::snapshot::Snapshot;
use super::status::Status;
use crate::local::EntryInfo;

/// Entries of the local tier that are listed, the most read first.
const ENTRIES: usize = 50;
const MB: f64 = 1_048_576.0;

/// The body of the guide's `GET /api/admin/memory-stats`: its names, its order, figures as texts with their units. A
/// figure that this system does not report is null.
///
/// ```
/// # use tagcache::{LocalCache, memory::{MemoryMonitor, MemoryStats, ProcessSource}};
/// let cache: LocalCache<String> = LocalCache::new(1000);
/// let monitor = MemoryMonitor::builder(ProcessSource::default()).start()?;
/// let body = serde_json::to_string(&MemoryStats::new(&monitor.snapshot(), Some(&cache)))?;
/// assert!(body.starts_with(r#"{"status":"#));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStats {
    status: Status,
    memory: Memory,
    cache: Tiers,
    uptime: String,
    timestamp: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    heap_used: Option<String>,
    heap_total: Option<String>,
    heap_percent: Option<String>,
    external: Option<String>,
    rss: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Tiers {
    local: Local,
    redis: Redis,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Local {
    total_entries: u64,
    entries: Vec<Value>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Redis {
    connected: bool,
    key_count: Option<u64>,
}

impl MemoryStats {
    /// From a monitor's snapshot and the local tier whose entries are listed. The server's figures are those that the
    /// monitor's source reads; [`Cache::memory_stats`](crate::Cache::memory_stats) asks the servers.
    pub fn new(snapshot: &Snapshot, local: Option<&dyn LocalTier>) -> Self {
        let memory = &snapshot.latest.memory;
        let server = snapshot.latest.server.figures();
        // As sampled; if the source has no tier, as it is now.
        let sampled = snapshot.latest.local;
        let figures = sampled.or_else(|| local.map(LocalTier::figures));
        let entries = local.map(|local| local.entries(ENTRIES));
        let megabytes = |bytes: u64| format!("{:.2} MB", bytes as f64 / MB);
        Self {
            status: snapshot.status,
            memory: Memory {
                heap_used: memory.heap_used.map(megabytes),
                heap_total: memory.heap_total(snapshot.heap_total).map(megabytes),
                heap_percent: snapshot
                    .heap_percent()
                    .map(|percent| format!("{percent:.2}%")),
                external: memory.external.map(megabytes),
                rss: memory.rss.map(megabytes),
            },
            cache: Tiers {
                local: Local {
                    total_entries: figures.map_or(0, |local| local.entries),
                    entries: entries.iter().flatten().map(entry).collect(),
                },
                redis: Redis {
                    connected: server.is_some(),
                    key_count: server.and_then(|server| server.key_count),
                },
            },
            uptime: format!("{:.2} minutes", snapshot.uptime.as_secs_f64() / 60.0),
            timestamp: humantime::format_rfc3339_millis(snapshot.latest.at).to_string(),
        }
    }

    /// The same with server figures from elsewhere.
    #[cfg(feature = "remote")]
    pub(crate) fn servers(mut self, connected: bool, key_count: Option<u64>) -> Self {
        self.cache.redis = Redis {
            connected,
            key_count,
        };
        self
    }
}

fn entry(entry: &EntryInfo) -> Value {
    let expires = entry.left != Duration::MAX;
    json!({
        "key": entry.key,
        "hits": entry.hits,
        "bytes": entry.bytes,
        "ttlMs": expires.then_some(entry.left.as_secs_f64() * 1000.0),
        "tags": entry.tags,
    })
}
