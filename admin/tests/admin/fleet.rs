use std::sync::Arc;

use tagcache_admin::http::Fleet;
use tagcache_admin::memory::{Sample, Server as Watched, Source, Status};
use tagcache_tests::{DEADLINE, Server, wait_until};

use crate::endpoint::{Endpoint, Guide, builder, monitor};

/// A process that is nearly out of memory.
struct Full;

impl Source for Full {
    fn read(&mut self, sample: &mut Sample) {
        sample.memory.heap_used = Some(99);
        sample.memory.limit = Some(100);
    }
}

#[test]
fn overview_lists_all_instances_with_their_status() {
    let server = Server::start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let (well, full) = (monitor(Guide), monitor(Full));
    Fleet::join(&well, watched.clone(), "web-1");
    Fleet::join(&full, watched.clone(), "web-2");
    let instances = Fleet::instances(&watched).unwrap();
    let seen: Vec<_> = instances
        .iter()
        .map(|i| (i.instance.as_str(), i.status))
        .collect();
    assert_eq!(
        seen,
        [("web-1", Status::Healthy), ("web-2", Status::Critical)]
    );
    assert_eq!(instances[0].local_entries, Some(15));

    let endpoint = Endpoint::start(builder(Guide).server(watched.clone()).build());
    let overview = endpoint.get("/api/admin/overview").json();
    assert_eq!(overview["instances"][1]["status"], "critical");

    // As in redis-cli, and with a TTL, so that an instance that ended disappears.
    let ttl: i64 = redis::cmd("PTTL")
        .arg("tagcache:instance:web-2")
        .query(&mut server.connection())
        .unwrap();
    assert!((1..=15_000).contains(&ttl), "{ttl}");
}

#[test]
fn instance_publishes_again_after_a_server_restart() {
    let mut server = Server::start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let monitor = monitor(Guide);
    Fleet::join(&monitor, watched.clone(), "web-1");
    server.restart();
    assert!(Arc::strong_count(&monitor) >= 1);
    wait_until("it is listed again", DEADLINE, || {
        Fleet::instances(&watched).is_ok_and(|instances| instances.len() == 1)
    });
}

#[test]
fn malformed_instance_entries_do_not_break_the_list() {
    let server = Server::start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let hostile = "<img src=x onerror=alert(1)>\"\n\u{202e}\u{0}";
    Fleet::join(&monitor(Guide), watched.clone(), hostile);
    let mut connection = server.connection();
    let mut write = |key: &str, value: &str| {
        redis::cmd("CACHE.SET")
            .arg(format!("tagcache:instance:{key}"))
            .arg(value)
            .arg("TAGS")
            .arg(1)
            .arg("tagcache:instances")
            .exec(&mut connection)
            .unwrap();
    };
    write(
        "later",
        r#"{"instance": "later", "status": "degraded", "uptimeDays": {"a": [1]}, "heapPercent": 5}"#,
    );
    write(
        "first-of-two",
        r#"{"instance": "two", "status": "healthy"}"#,
    );
    write(
        "second-of-two",
        r#"{"instance": "two", "status": "critical"}"#,
    );
    for (i, odd) in [
        "",
        "null",
        "[]",
        "{}",
        "\u{0}",
        r#"{"instance": 1, "status": "healthy"}"#,
        r#"{"instance": "x", "status": 7}"#,
    ]
    .into_iter()
    .enumerate()
    {
        write(&i.to_string(), odd);
    }
    write("deep", &"[".repeat(100_000));
    let instances = Fleet::instances(&watched).unwrap();
    let seen: Vec<_> = instances
        .iter()
        .map(|i| (i.instance.as_str(), i.status))
        .collect();
    assert_eq!(
        seen,
        [
            (hostile, Status::Healthy),
            ("later", Status::Warning),
            ("two", Status::Healthy),
            ("two", Status::Critical)
        ]
    );
}

#[test]
fn instance_entries_are_not_counted_as_application_entries() {
    let server = Server::start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let mut connection = server.connection();
    let mut call = |name: &str, args: &[&str]| {
        redis::cmd(name).arg(args).exec(&mut connection).unwrap();
    };
    let instance = r#"{"instance": "web", "status": "healthy"}"#;
    for i in 0..30 {
        let key = format!("tagcache:instance:web-{i}");
        call(
            "CACHE.SET",
            &[&key, instance, "TAGS", "1", "tagcache:instances"],
        );
        call(
            "CACHE.SET",
            &[&format!("page:{i}"), "v", "TAGS", "1", &format!("tag:{i}")],
        );
    }
    for _ in 0..5 {
        assert_eq!(Fleet::instances(&watched).unwrap().len(), 30);
    }
    call("CACHE.GET", &["page:7"]);
    assert_eq!(watched.figures().unwrap().cache.unwrap().hits, 1);
    let endpoint = Endpoint::start(builder(Guide).server(watched).build());
    let overview = endpoint.get("/api/admin/overview").json();
    assert_eq!(
        overview["topKeys"],
        serde_json::json!([{"key": "page:7", "query": "page%3A7", "hits": 1}])
    );
    let tags = overview["tags"].as_array().unwrap();
    assert_eq!(tags.len(), 12);
    assert!(
        tags.iter()
            .all(|tag| tag["tag"].as_str().unwrap().starts_with("tag:"))
    );
    assert_eq!(overview["instances"].as_array().unwrap().len(), 30);
}
