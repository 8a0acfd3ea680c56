//! `GET /metrics`: Prometheus's text format, version 0.0.4.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::admin::Admin;
use crate::memory::{METRICS, Unit};
use tagcache::CacheStats;
use tagcache::ServerStatus;

pub(super) async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let text = TextEncoder::new().encode_to_string(&families(&admin).0);
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text.expect("each family has a name and values"),
    )
}

/// Metrics, each with its values.
struct Families(Vec<MetricFamily>);

impl Families {
    /// A metric without a value is left out.
    fn add<const LABELS: usize>(
        &mut self,
        name: &str,
        kind: MetricType,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, String); LABELS], f64)>,
    ) {
        let metric = |(labels, value): ([(&str, String); LABELS], f64)| {
            let label = |(name, value): (&str, String)| {
                let mut label = LabelPair::default();
                label.set_name(name.to_owned());
                label.set_value(value);
                label
            };
            let mut metric = Metric::from_label(labels.map(label).into());
            if kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        let metrics: Vec<Metric> = values.into_iter().map(metric).collect();
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn families(admin: &Admin) -> Families {
    let mut families = Families(Vec::new());
    let snapshot = admin.monitor().snapshot();
    for metric in METRICS {
        let kind = if metric.unit == Unit::Total {
            MetricType::COUNTER
        } else {
            MetricType::GAUGE
        };
        // An unknown figure is left out: 0 would be wrong, and NaN breaks queries.
        let value = metric.read(&snapshot);
        let value = value.map(|value| ([], metric.unit.to_base(value)));
        families.add(metric.prometheus, kind, &format!("{}.", metric.help), value);
    }
    if let Some(tiers) = admin.tiers() {
        client(&mut families, &tiers.stats());
    }
    let rules = admin.rules().into_iter().map(|rule| {
        let labels = [
            ("alert", rule.name),
            ("severity", rule.severity.to_string()),
        ];
        (labels, f64::from(u8::from(rule.state == "firing")))
    });
    let help = "1 while the rule fires.";
    families.add("tagcache_alert_firing", MetricType::GAUGE, help, rules);
    families
}

/// The counts of the application's cache, and the state of its servers.
fn client(families: &mut Families, stats: &CacheStats) {
    let mut total = |name: String, help: &str, count: u64| {
        families.add(&name, MetricType::COUNTER, help, [([], count as f64)]);
    };
    for (name, help, count) in stats.counts() {
        total(format!("tagcache_client_{name}_total"), help, count);
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
        total(format!("tagcache_local_{name}_total"), help, count);
    }

    let mut by_server = |name, kind, help, read: fn(&ServerStatus) -> u64| {
        let of_server =
            |server: &ServerStatus| ([("server", server.address.clone())], read(server) as f64);
        families.add(name, kind, help, stats.servers.iter().map(of_server));
    };
    by_server(
        "tagcache_client_server_connected",
        MetricType::GAUGE,
        "1 while the client is connected to the server.",
        |server| u64::from(server.is_connected()),
    );
    by_server(
        "tagcache_client_server_connects_total",
        MetricType::COUNTER,
        "Connections that were set up to the server.",
        |server| server.connects,
    );
    by_server(
        "tagcache_client_server_missed_invalidations",
        MetricType::GAUGE,
        "Tags whose invalidation the server has yet to be told.",
        |server| server.missed_invalidations as u64,
    );
}
