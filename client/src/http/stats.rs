//! The body of `GET /api/admin/memory-stats`.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::admin::Admin;
use super::tiers;
use crate::memory::{LocalEntry, LocalFigures, ServerState, Snapshot, Status};

/// Entries of the local tier that are listed, the most read first.
const ENTRIES: usize = 50;

/// The guide's shape and order: figures as texts with their units. `raw` holds the same and more as numbers. What
/// cannot be known is null.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MemoryStats {
    status: Status,
    memory: Memory,
    cache: Cache,
    uptime: String,
    timestamp: String,
    raw: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    heap_used: Option<String>,
    heap_total: Option<String>,
    heap_percent: Option<String>,
    external: Option<String>,
    rss: Option<String>,
}

#[derive(Serialize)]
struct Cache {
    local: Local,
    redis: Redis,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Local {
    total_entries: u64,
    entries: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Redis {
    connected: bool,
    key_count: Option<u64>,
}

pub(super) fn memory_stats(admin: &Admin, snapshot: &Snapshot) -> MemoryStats {
    let memory = &snapshot.latest.memory;
    let figures = snapshot.latest.server.figures();
    let entries = admin.local().map(|local| local.entries(ENTRIES));
    MemoryStats {
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
        cache: Cache {
            local: Local {
                total_entries: local_figures(admin, snapshot).map_or(0, |local| local.entries),
                entries: entries.iter().flatten().map(entry).collect(),
            },
            redis: Redis {
                connected: figures.is_some(),
                key_count: figures.map(|figures| figures.key_count),
            },
        },
        uptime: format!("{:.2} minutes", snapshot.uptime.as_secs_f64() / 60.0),
        timestamp: humantime::format_rfc3339_millis(snapshot.latest.at).to_string(),
        raw: raw(admin, snapshot),
    }
}

/// As sampled; where the monitor was not given the tier that the endpoint was, as they are now.
fn local_figures(admin: &Admin, snapshot: &Snapshot) -> Option<LocalFigures> {
    let now = || admin.local().map(|local| local.figures());
    snapshot.latest.local.or_else(now)
}

fn raw(admin: &Admin, snapshot: &Snapshot) -> Value {
    let memory = &snapshot.latest.memory;
    let server = match &snapshot.latest.server {
        ServerState::None => json!({"state": "none"}),
        ServerState::Unreachable(error) => json!({"state": "unreachable", "error": **error}),
        ServerState::Up(figures) => json!({"state": "up", "figures": **figures}),
    };
    let mut raw = json!({
        "instance": admin.instance(),
        "uptimeSeconds": snapshot.uptime.as_secs_f64(),
        "intervalSeconds": admin.monitor().interval().as_secs_f64(),
        "memory": memory,
        "heapTotal": memory.heap_total(snapshot.heap_total),
        "heapPercent": snapshot.heap_percent(),
        "growth": snapshot.growth,
        "leakSuspected": snapshot.leak_suspected,
        "longestPauseMs": snapshot.longest_pause().map(milliseconds),
        "rates": snapshot.rates,
        "local": local_figures(admin, snapshot),
        "client": admin.tiers().map(|tiers| tiers::figures(&tiers.stats())),
        "server": server,
        "alerts": [],
        "channels": {},
    });
    admin.add_alerts(&mut raw);
    raw
}

fn entry(entry: &LocalEntry) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({
        "key": text(&entry.key),
        "hits": entry.hits,
        "bytes": entry.bytes,
        "ttlMs": entry.ttl.map(milliseconds),
        "tags": entry.tags.as_ref().map(|tags| tags.iter().map(|tag| text(tag)).collect::<Vec<_>>()),
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1_048_576.0)
}
