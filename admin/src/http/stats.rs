//! The body of `GET /api/admin/memory-stats`.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tagcache::memory::{LocalFigures, ServerReading, Snapshot};

use super::admin::Admin;
use super::tiers;

/// Fields in the guide's shape and order; `raw` holds the same figures and more as numbers. A figure that this system
/// does not provide is null.
#[derive(Serialize)]
pub(super) struct MemoryStats {
    #[serde(flatten)]
    guide: tagcache::memory::MemoryStats,
    raw: Value,
}

pub(super) fn memory_stats(admin: &Admin, snapshot: &Snapshot) -> MemoryStats {
    MemoryStats {
        guide: tagcache::memory::MemoryStats::new(snapshot, admin.local().map(|local| &**local)),
        raw: raw(admin, snapshot),
    }
}

/// The figures of the latest sample. If the monitor does not sample the local tier, its current figures.
fn local_figures(admin: &Admin, snapshot: &Snapshot) -> Option<LocalFigures> {
    let now = || admin.local().map(|local| local.figures());
    snapshot.latest.local.or_else(now)
}

fn raw(admin: &Admin, snapshot: &Snapshot) -> Value {
    let memory = &snapshot.latest.memory;
    let server = match &snapshot.latest.server {
        ServerReading::None => json!({"state": "none"}),
        ServerReading::Unreachable(error) => json!({"state": "unreachable", "error": **error}),
        ServerReading::Up(figures) => json!({"state": "up", "figures": **figures}),
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

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
