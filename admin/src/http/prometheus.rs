//! `GET /metrics`: Prometheus's text format, version 0.0.4.
//!
//! Why no exporter's crate writes it: what is exported is a snapshot of figures that are kept elsewhere, so of such a
//! crate only the format would be used, and that is [`head`] and [`label`]. `prometheus` 0.14 has the format and takes
//! 3 crates and 8,400 lines for it, beside code of ours that fills its structs and is longer than these two functions.
//! `metrics-exporter-prometheus` 0.18 takes 18 crates, and `prometheus-client` 0.26 writes another format, in which
//! counters have other names in `TYPE` lines.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::admin::Admin;
use crate::memory::{METRICS, Unit};
use tagcache::CacheStats;
use tagcache::ServerStatus;

pub(super) async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let text = text(&admin);
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
}

fn text(admin: &Admin) -> String {
    let snapshot = admin.monitor().snapshot();
    let mut text = String::with_capacity(8 * 1024);
    for metric in METRICS {
        // A figure that cannot be known is left out: 0 would be a lie, NaN a nuisance.
        let Some(value) = metric.read(&snapshot) else {
            continue;
        };
        let kind = if metric.unit == Unit::Total {
            "counter"
        } else {
            "gauge"
        };
        let name = metric.prometheus;
        let value = metric.unit.to_base(value);
        head(&mut text, name, kind, &format!("{}.", metric.help));
        let _ = writeln!(text, "{name} {value}");
    }
    if let Some(tiers) = admin.tiers() {
        client(&mut text, &tiers.stats());
    }
    admin.write_alert_metrics(&mut text);
    text
}

/// What the application's cache has done, and its servers as it sees them.
fn client(text: &mut String, stats: &CacheStats) {
    let mut total = |name: &str, help: &str, count: u64| {
        head(text, name, "counter", help);
        let _ = writeln!(text, "{name} {count}");
    };
    for (name, help, count) in stats.counts() {
        total(&format!("tagcache_client_{name}_total"), help, count);
    }
    let local = &stats.local;
    for (name, help, count) in [
        (
            "insertions",
            "Values that the local tier stored.",
            local.insertions,
        ),
        (
            "expirations",
            "Entries that left the local tier after their TTL.",
            local.expirations,
        ),
        (
            "invalidated",
            "Entries that left the local tier because something was invalidated.",
            local.invalidated,
        ),
        (
            "rejected",
            "Values too heavy for the local tier.",
            local.rejected,
        ),
    ] {
        total(&format!("tagcache_local_{name}_total"), help, count);
    }

    let mut by_server = |name, kind, help, read: fn(&ServerStatus) -> u64| {
        if stats.servers.is_empty() {
            return;
        }
        head(text, name, kind, help);
        for server in &stats.servers {
            let address = label(&server.address);
            let _ = writeln!(text, "{name}{{server=\"{address}\"}} {}", read(server));
        }
    };
    by_server(
        "tagcache_client_server_connected",
        "gauge",
        "1 while the client is connected to the server.",
        |server| u64::from(server.is_connected()),
    );
    by_server(
        "tagcache_client_server_connects_total",
        "counter",
        "Connections that were set up to the server.",
        |server| server.connects,
    );
    by_server(
        "tagcache_client_server_missed_invalidations",
        "gauge",
        "Tags whose invalidation the server has yet to be told.",
        |server| server.missed_invalidations as u64,
    );
}

/// What stands before a metric's values.
pub(super) fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// A label's value, with what the format escapes.
pub(super) fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
