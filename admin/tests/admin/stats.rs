use std::sync::Arc;

use jsonschema::Validator;
use serde_json::{Value, json};
use tagcache_admin::alerts::{Alerts, Config};
use tagcache_admin::memory::{
    HeapTotal, ProcessSource, Sample, Server as Watched, ServerMemory, Source as _, Subject,
};
use tagcache_tests::{DEADLINE, Server, for_all_engines, wait_until};

use crate::endpoint::{Endpoint, Guide, Local, Unknown, builder};

fn schema() -> Validator {
    let text = include_str!("../../schema/memory-stats.schema.json");
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).unwrap()
}

pub(crate) fn check(stats: &Value) {
    let errors: Vec<_> = schema()
        .iter_errors(stats)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{stats:#}");
}

#[test]
fn memory_stats_have_the_format_of_the_guide() {
    let endpoint = Endpoint::start(builder(Guide).local(Arc::new(Local)).build());
    let answer = endpoint.get("/api/admin/memory-stats");
    assert_eq!(
        (answer.status, answer.kind.as_str()),
        (200, "application/json")
    );
    assert_eq!(answer.headers["cache-control"], "no-store");
    let stats = answer.json();
    check(&stats);
    assert_eq!(stats["status"], "healthy");
    assert_eq!(
        stats["memory"],
        json!({"heapUsed": "145.23 MB", "heapTotal": "200.00 MB", "heapPercent": "72.61%", "external": "5.42 MB", "rss": "185.67 MB"})
    );
    assert_eq!(
        stats["cache"],
        json!({
            "local": {"totalEntries": 15, "entries": [{"key": "page:/ü", "hits": 3, "bytes": 100, "ttlMs": 1500.0, "tags": ["tenant:7"]}]},
            "redis": {"connected": false, "keyCount": null},
        })
    );
    // In the guide's order, so that a reader of the JSON finds the fields in the expected order.
    let order = [
        "status",
        "memory",
        "heapUsed",
        "heapTotal",
        "heapPercent",
        "external",
        "rss",
        "cache",
        "local",
        "totalEntries",
        "entries",
        "redis",
        "connected",
        "keyCount",
        "uptime",
        "timestamp",
        "raw",
    ];
    let places = order.map(|name| answer.text.find(&format!("\"{name}\":")));
    assert!(places.is_sorted() && places[0].is_some(), "{}", answer.text);
    assert_eq!(stats["raw"]["longestPauseMs"], 1.5);
    assert_eq!(stats["raw"]["local"]["hits"], 3);
    assert_eq!(stats["raw"]["memory"]["limit"], 200 * 1024 * 1024);
}

#[test]
fn schema_refuses_missing_unknown_and_invalid_fields() {
    let endpoint = Endpoint::start(builder(Guide).local(Arc::new(Local)).build());
    let right = endpoint.get("/api/admin/memory-stats").json();
    let schema = schema();
    assert!(schema.is_valid(&right));
    // Each field of the guide and each of `raw` is required, and each object accepts known fields only.
    let mut objects = vec![
        "",
        "/memory",
        "/cache",
        "/cache/local",
        "/cache/redis",
        "/raw",
    ];
    objects.extend(["/raw/memory", "/raw/rates", "/raw/local", "/raw/server"]);
    for at in objects {
        let names: Vec<String> = right
            .pointer(at)
            .unwrap()
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        for name in names {
            let mut wrong = right.clone();
            wrong
                .pointer_mut(at)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .remove(&name);
            assert!(!schema.is_valid(&wrong), "without {at}/{name}");
        }
        let mut wrong = right.clone();
        wrong.pointer_mut(at).unwrap()["surprise"] = json!("text");
        assert!(!schema.is_valid(&wrong), "with {at}/surprise");
    }
    for (at, value) in [
        ("/status", json!("fine")),
        ("/status", json!(null)),
        ("/memory/heapUsed", json!("145.2 MB")),
        ("/memory/heapUsed", json!("145.23MB")),
        ("/memory/heapUsed", json!(152_284_692)),
        ("/memory/rss", json!("-1.00 MB")),
        ("/memory/heapPercent", json!("72.6%")),
        ("/memory/heapPercent", json!("72.61")),
        ("/cache/local/totalEntries", json!("15")),
        ("/cache/local/totalEntries", json!(-1)),
        ("/cache/local/entries/0/tags", json!([1])),
        ("/cache/redis/connected", json!(null)),
        ("/cache/redis/keyCount", json!(1.5)),
        ("/uptime", json!("15 minutes")),
        ("/timestamp", json!("2025-11-21T10:30:00Z")),
        ("/timestamp", json!(1_763_720_000)),
        ("/raw/server/state", json!("up")),
        ("/raw/server/state", json!("unreachable")),
        ("/raw/server/state", json!("away")),
        ("/raw/rates/hitRate", json!("90%")),
        ("/raw/alerts", json!([{"name": "a"}])),
        ("/raw/client", json!({})),
    ] {
        let mut wrong = right.clone();
        *wrong.pointer_mut(at).unwrap() = value.clone();
        assert!(!schema.is_valid(&wrong), "{at} = {value}");
    }
}

#[test]
fn local_tier_known_only_to_the_endpoint_is_counted() {
    let endpoint = Endpoint::start(builder(Unknown).local(Arc::new(Local)).build());
    let stats = endpoint.get("/api/admin/memory-stats").json();
    check(&stats);
    assert_eq!(stats["cache"]["local"]["totalEntries"], 15);
    assert_eq!(stats["raw"]["local"]["hits"], 3);
}

#[test]
fn unknown_figures_are_null() {
    let endpoint = Endpoint::start(builder(Unknown).build());
    let stats = endpoint.get("/api/admin/memory-stats").json();
    check(&stats);
    let memory = stats["memory"].as_object().unwrap();
    assert!(memory.values().all(Value::is_null), "{memory:?}");
    assert_eq!(stats["raw"]["growth"], Value::Null);
    assert_eq!(stats["raw"]["local"], Value::Null);
}

#[test]
fn stats_and_alerts_follow_the_state_of_the_server() {
    let mut server = Server::start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let source = ProcessSource::default().server(watched.reader());
    let rules = "alerts: [{name: Away, condition: cache.redis.connected == false, severity: critical, channels: [log]}]";
    let alerts = Arc::new(
        Alerts::builder(Config::from_yaml(rules).unwrap())
            .start()
            .unwrap(),
    );
    let admin = builder(source)
        .server(watched)
        .alerts(Arc::clone(&alerts))
        .build();
    let endpoint = Endpoint::start(admin);
    let mut connection = server.connection();
    let set = |connection: &mut redis::Connection, key: &str| {
        redis::cmd("CACHE.SET")
            .arg(key)
            .arg("v")
            .arg("TAGS")
            .arg(1)
            .arg("t")
            .exec(connection)
            .unwrap();
    };
    set(&mut connection, "a");
    redis::cmd("SET")
        .arg("other")
        .arg("1")
        .exec(&mut connection)
        .unwrap();

    let stats = || {
        let stats = endpoint.get("/api/admin/memory-stats").json();
        check(&stats);
        stats
    };
    wait_until("the entry shows", DEADLINE, || {
        stats()["raw"]["server"]["figures"]["cache"]["entries"] == 1
    });
    let up = stats();
    assert_eq!(
        up["cache"]["redis"],
        json!({"connected": true, "keyCount": 2})
    );
    assert!(
        up["raw"]["server"]["figures"]["usedMemory"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert_eq!(up["raw"]["alerts"][0]["state"], "quiet");

    server.stop();
    wait_until("it is gone", DEADLINE, || {
        stats()["cache"]["redis"]["connected"] == false
    });
    assert_eq!(stats()["raw"]["server"]["state"], "unreachable");
    server.restart();
    wait_until("it is back", DEADLINE, || {
        stats()["cache"]["redis"]["connected"] == true
    });
}

#[test]
fn server_without_the_module_is_connected_without_a_cache() {
    let server = Server::builder().without_module().start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let endpoint =
        Endpoint::start(builder(ProcessSource::default().server(watched.reader())).build());
    let stats = endpoint.get("/api/admin/memory-stats").json();
    check(&stats);
    assert_eq!(stats["cache"]["redis"]["connected"], true);
    assert_eq!(stats["raw"]["server"]["figures"]["cache"], Value::Null);
}

#[test]
fn every_engine_reports_its_figures() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
        let figures = watched.figures().unwrap();
        let kind = if engine.is_valkey() {
            "valkey "
        } else {
            "redis "
        };
        assert!(figures.name.starts_with(kind), "{figures:?}");
        let known = [
            figures.used_memory,
            figures.rss,
            figures.peak_memory,
            figures.memory_limit,
            figures.clients,
            figures.uptime_seconds,
        ];
        assert!(known.iter().all(Option::is_some), "{figures:?}");
        assert_eq!(
            figures.cache.map(|cache| cache.entries),
            Some(0),
            "{figures:?}"
        );
        let mut sample = Sample::default();
        ServerMemory::new(watched, Subject::Server).read(&mut sample);
        let memory = sample.memory;
        assert!(
            memory.heap_percent(HeapTotal::Limit).unwrap() > 0.0,
            "{memory:?}"
        );
    });
}

#[test]
fn charts_are_drawn_from_the_stored_samples() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let chart = || endpoint.get("/api/admin/charts/memory?width=300&height=100");
    wait_until("there are samples", DEADLINE, || chart().status == 200);
    let drawn = chart();
    assert_eq!(drawn.kind, "image/svg+xml");
    assert!(
        drawn.text.contains("width=\"300\" height=\"100\""),
        "{}",
        drawn.text
    );
    assert_eq!(endpoint.get("/api/admin/charts/backlog").status, 204);
    assert_eq!(endpoint.get("/api/admin/charts/nothing").status, 404);
}
