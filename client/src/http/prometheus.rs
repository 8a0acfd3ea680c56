//! `GET /metrics`: Prometheus's text format, version 0.0.4.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::admin::Admin;
use crate::memory::{METRICS, Unit};

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
        let value = value * metric.unit.to_base();
        let _ = write!(
            text,
            "# HELP {name} {}.\n# TYPE {name} {kind}\n{name} {value}\n",
            metric.help
        );
    }
    admin.write_alert_metrics(&mut text);
    text
}

/// A label's value, with what the format escapes.
#[cfg(feature = "alerts")]
pub(super) fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
