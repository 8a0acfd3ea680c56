//! The client's spans and metrics reach a collector of the test's own, on loopback.
#![forbid(unsafe_code)]
// A helper may panic: that fails its test, as a panic in the test itself does.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Uri, header};
use serde_json::Value;
use tagcache::{Cache, Entry};
use tagcache_opentelemetry::Telemetry;
use tagcache_tests::{DEADLINE, Server};
use tracing::Instrument as _;

type Received = Arc<Mutex<Vec<(String, Value)>>>;

async fn collector() -> (String, Received) {
    let received = Received::default();
    let receive = async |State(received): State<Received>, uri: Uri, body: String| {
        let body = serde_json::from_str(&body).unwrap();
        received.lock().unwrap().push((uri.path().to_owned(), body));
        ([(header::CONTENT_TYPE, "application/json")], "{}")
    };
    let router = Router::new()
        .fallback(receive)
        .with_state(Arc::clone(&received));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, received)
}

/// All objects at this path, at any depth of nested lists.
fn at<'a>(values: Vec<&'a Value>, path: &[&str]) -> Vec<&'a Value> {
    path.iter().fold(values, |values, name| {
        let lists = values
            .into_iter()
            .filter_map(|value| value[*name].as_array());
        lists.flatten().collect()
    })
}

fn attribute<'a>(of: &'a Value, name: &str) -> &'a Value {
    let attributes = of["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|a| a["key"] == name);
    found.map_or(&Value::Null, |a| &a["value"]["stringValue"])
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_metrics_of_the_client_reach_a_collector() {
    let (address, received) = collector().await;
    let telemetry = Telemetry::start(env!("CARGO_CRATE_NAME"), &address).unwrap();
    let server = Server::start();
    let url = format!("redis://127.0.0.1:{}/", server.port());
    let cache = Cache::builder(url.as_str()).build().await.unwrap();
    cache.ready(DEADLINE).await.unwrap();
    let entry = Entry::ttl(Duration::from_secs(60)).tags(["tenant:7"]);
    let load = async || Ok::<_, std::io::Error>(7);
    let value: i32 = cache
        .get_or_load("user:7", entry, load)
        .instrument(tracing::info_span!("page"))
        .await
        .unwrap();
    assert_eq!(value, 7);
    // The caller has its value before the load's task ends, and with it the spans.
    assert!(cache.finish_pending(DEADLINE).await);
    tokio::task::spawn_blocking(|| telemetry.stop().map_err(|e| e.to_string()))
        .await
        .unwrap()
        .unwrap();

    let received = received.lock().unwrap();
    let bodies = |path: &str| -> Vec<&Value> {
        let of_path = received.iter().filter(|(to, _)| to == path);
        of_path.map(|(_, body)| body).collect()
    };
    let spans = at(
        bodies("/v1/traces"),
        &["resourceSpans", "scopeSpans", "spans"],
    );
    let named = |name: &str| -> Vec<&Value> {
        spans
            .iter()
            .copied()
            .filter(|span| span["name"] == name)
            .collect()
    };
    let page = named("page")[0];
    // The load and its commands are below the application's span.
    let load = named("load")[0];
    assert_eq!(load["traceId"], page["traceId"]);
    assert_eq!(attribute(load, "key"), "user:7");
    let commands: Vec<_> = named("command")
        .into_iter()
        .filter(|span| span["traceId"] == page["traceId"])
        .map(|span| attribute(span, "name").as_str().unwrap())
        .collect();
    for command in ["CACHE.FETCH", "CACHE.SET"] {
        assert!(commands.contains(&command), "{command} in {commands:?}");
    }

    let resource = &bodies("/v1/metrics")[0]["resourceMetrics"][0]["resource"];
    assert_eq!(
        attribute(resource, "service.name"),
        env!("CARGO_CRATE_NAME")
    );
    let path = ["resourceMetrics", "scopeMetrics", "metrics"];
    let metrics = at(bodies("/v1/metrics"), &path);
    let metric = |name: &str| {
        let found = metrics.iter().find(|metric| metric["name"] == name);
        *found.unwrap_or_else(|| panic!("no {name} in {metrics:#?}"))
    };
    let loads = &metric("tagcache_client_load_seconds")["histogram"]["dataPoints"];
    assert_eq!(loads[0]["count"], 1, "{loads}");
    assert_eq!(loads[0]["explicitBounds"][0], 0.0001, "{loads}");
    assert_eq!(attribute(&loads[0], "outcome"), "loaded");
    let connected = &metric("tagcache_client_server_connected")["gauge"]["dataPoints"];
    assert_eq!(connected[0]["asDouble"], 1.0, "{connected}");
    metric("tagcache_client_command_seconds");
}
