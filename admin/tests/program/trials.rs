use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::cmd;
use serde_json::json;
use tagcache_tests::Server;

use crate::run::{Running, interrupted, run, url};

fn entries(server: &Server) -> u64 {
    let stats: std::collections::HashMap<String, String> =
        cmd("CACHE.STATS").query(&mut server.connection()).unwrap();
    stats["entries"].parse().unwrap()
}

/// Reads that the server has seen.
fn reads(server: &Server) -> u64 {
    let stats: std::collections::HashMap<String, String> =
        cmd("CACHE.STATS").query(&mut server.connection()).unwrap();
    let count = |name: &str| stats[name].parse::<u64>().unwrap();
    count("hits") + count("misses")
}

#[test]
fn load_test_of_the_guide_runs_against_an_endpoint() {
    let server = Server::start();
    let serving = Running::start(&[
        "serve",
        "--redis",
        &url(&server),
        "--listen",
        "127.0.0.1:0",
        "--insecure-no-auth",
    ]);
    let base = serving.text("dashboard");
    let text = run(&["load-test", "--url", base, "--pause", "0s"]).ok().out;
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("[10/100] Heap: 0.") && lines[0].ends_with("% | Status: healthy"),
        "{text}"
    );
    assert!(lines[9].starts_with("[100/100] "), "{text}");
    assert!(
        lines[10].starts_with("Load test complete: 100 requests in "),
        "{text}"
    );
    let json = run(&[
        "load-test",
        "--json",
        "--url",
        base,
        "-n",
        "25",
        "-c",
        "4",
        "--pause",
        "0s",
    ])
    .ok()
    .json();
    assert_eq!(
        (&json["requests"], &json["failed"]),
        (&json!(25), &json!(0))
    );
    assert!(json["latencyMs"]["p99"].as_f64().unwrap() > 0.0);
    assert!(json["heapBefore"].as_u64().unwrap() > 0 && json["heapAfter"].as_u64().unwrap() > 0);
}

#[test]
fn load_test_reports_a_missing_token() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "a-token-for-the-program").unwrap();
    let file = file.to_str().unwrap();
    let serving = Running::start(&[
        "serve",
        "--redis",
        &url(&server),
        "--listen",
        "127.0.0.1:0",
        "--admin-token-file",
        file,
    ]);
    let base = serving.text("dashboard");
    let refused = run(&["load-test", "--url", base]);
    assert_eq!(refused.code, 3);
    assert!(refused.err.contains("--token-file"), "{}", refused.err);
    run(&[
        "load-test",
        "--url",
        base,
        "--token-file",
        file,
        "-n",
        "10",
        "--pause",
        "0s",
    ])
    .ok();
}

#[test]
fn load_test_on_a_server_removes_its_entries() {
    let server = Server::start();
    cmd("CACHE.SET")
        .arg("mine")
        .arg("v")
        .exec(&mut server.connection())
        .unwrap();
    let json = run(&[
        "load-test",
        "--json",
        "--redis",
        &url(&server),
        "-n",
        "5000",
        "-c",
        "3",
    ])
    .ok()
    .json();
    assert_eq!(json["reads"], 5000);
    assert!(json["hitPercent"].as_f64().unwrap() > 10.0, "{json}");
    assert!(
        json["memoryAfter"].as_u64() > json["memoryBefore"].as_u64(),
        "{json}"
    );
    assert_eq!(entries(&server), 1);
}

#[test]
fn load_test_reports_entries_it_cannot_remove() {
    let server = Server::start();
    cmd("ACL")
        .arg("SETUSER")
        .arg("keeper")
        .arg("on")
        .arg("nopass")
        .arg("~*")
        .arg("&*")
        .arg("+@all")
        .arg("-cache.invalidate")
        .exec(&mut server.connection())
        .unwrap();
    let redis = format!("redis://keeper:any@127.0.0.1:{}/", server.port());
    let kept = run(&["load-test", "--json", "--redis", &redis, "-n", "100"]);
    assert_eq!(kept.code, 3, "{}", kept.err);
    assert_eq!(kept.json()["reads"], 100);
    assert!(entries(&server) > 0);
}

#[test]
fn soak_reports_memory_growth() {
    let server = Server::start();
    let args = [
        "soak",
        "--json",
        "--redis",
        &url(&server),
        "--duration",
        "2s",
        "--keys",
        "1000",
        "--leak-rate",
        "1000",
    ];
    let json = run(&args).ok().json();
    assert_eq!(json["leak"], false);
    assert!(
        json["growth"]["mbPerMinute"].is_number() && json["growth"]["margin"].is_number(),
        "{json}"
    );
    assert!(json["samples"].as_u64().unwrap() >= 10, "{json}");
    assert!(json["hitPercent"].as_f64().unwrap() > 90.0, "{json}");
    assert_eq!(entries(&server), 0);
    let redis = url(&server);
    for [option, value] in [
        ["--duration", "1s"],
        ["--leak-rate", "0"],
        ["--leak-rate", "nan"],
    ] {
        assert_eq!(
            run(&["soak", "--redis", &redis, option, value]).code,
            2,
            "{option} {value}"
        );
    }
}

/// Repeats the work on a server until it is dropped.
struct Meanwhile {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Meanwhile {
    fn start(
        server: &Server,
        mut work: impl FnMut(&mut redis::Connection) + Send + 'static,
    ) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let stopped = Arc::clone(&stop);
        let mut connection = server.connection();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                work(&mut connection);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// A leak: 100 KB every 10 ms that are never dropped, about 600 MB per minute.
    fn leak(server: &Server) -> Self {
        let mut n = 0;
        Self::start(server, move |connection| {
            n += 1;
            cmd("SET")
                .arg(format!("leaked:{n}"))
                .arg(vec![b'x'; 100_000])
                .exec(connection)
                .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(10));
        })
    }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

#[test]
fn soak_reports_steady_growth_as_a_leak() {
    let server = Server::start();
    let _leak = Meanwhile::leak(&server);
    let args = [
        "soak",
        "--json",
        "--redis",
        &url(&server),
        "--duration",
        "3s",
        "--keys",
        "100",
    ];
    let grown = run(&args);
    assert_eq!(grown.code, 1, "{}\n{}", grown.out, grown.err);
    let json = grown.json();
    assert_eq!(
        (&json["leak"], &json["growth"]["steady"]),
        (&json!(true), &json!(true))
    );
    assert!(
        json["growth"]["mbPerMinute"].as_f64().unwrap() > 10.0,
        "{json}"
    );
    assert!(json["memoryAfter"].as_u64() > json["memoryBefore"].as_u64());
}

#[test]
fn interrupted_soak_reports_results_and_removes_its_entries() {
    let server = Server::start();
    for signal in ["-INT", "-TERM"] {
        let args = [
            "soak",
            "--json",
            "--redis",
            &url(&server),
            "--duration",
            "24h",
            "--keys",
            "1000",
        ];
        let ended = interrupted(&args, signal, || reads(&server) > 1000).ok();
        let json = ended.json();
        assert_eq!(json["interrupted"], true);
        assert!(json["reads"].as_u64().unwrap() > 0, "{json}");
        assert_eq!(entries(&server), 0);
        cmd("CACHE.RESETSTATS")
            .exec(&mut server.connection())
            .unwrap();
    }
    let args = [
        "load-test",
        "--json",
        "--redis",
        &url(&server),
        "-n",
        "100000000",
    ];
    let ended = interrupted(&args, "-INT", || reads(&server) > 1000).ok();
    let reads = ended.json()["reads"].as_u64().unwrap();
    assert!(reads > 0 && reads < 100_000_000, "{reads}");
    assert_eq!(entries(&server), 0);
}

#[test]
fn soak_reports_results_if_its_server_ends() {
    let mut server = Server::start();
    let redis = url(&server);
    let args = [
        "soak",
        "--json",
        "--redis",
        &redis,
        "--duration",
        "1h",
        "--keys",
        "1000",
    ];
    let ended = std::thread::scope(|scope| {
        let soak = scope.spawn(|| run(&args));
        tagcache_tests::wait_until("it is under way", tagcache_tests::DEADLINE, || {
            reads(&server) > 1000
        });
        server.kill_9();
        soak.join().unwrap()
    });
    assert_eq!(ended.code, 3, "{}", ended.err);
    let json = ended.json();
    assert!(json["reads"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(json["memoryAfter"], json!(null));
}

#[test]
fn load_test_counts_failures_by_reason() {
    let server = Server::start();
    let serving = Running::start(&[
        "serve",
        "--redis",
        &url(&server),
        "--listen",
        "127.0.0.1:0",
        "--insecure-no-auth",
    ]);
    // More requests than the endpoint allows per minute.
    let base = serving.text("dashboard").to_owned();
    let args = [
        "load-test",
        "--json",
        "--url",
        &base,
        "-n",
        "400",
        "-c",
        "20",
        "--pause",
        "0s",
    ];
    let ended = run(&args);
    assert_eq!(ended.code, 1);
    let json = ended.json();
    let failed = json["failed"].as_u64().unwrap();
    assert!(failed > 0 && failed < 400, "{json}");
    let failures = json["failures"].as_object().unwrap();
    assert_eq!(failures.len(), 1, "{json}");
    assert!(
        failures.keys().next().unwrap().starts_with("status 429"),
        "{json}"
    );
    assert!(
        ended.err.contains(&format!("{failed} × status 429")),
        "{}",
        ended.err
    );
}

#[test]
fn load_test_reports_results_if_its_endpoint_ends() {
    // Responds to five requests.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let base = format!("http://user:s3cr3t@{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(5) {
            let mut stream = stream.unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let body = r#"{"status": "healthy", "memory": {"heapPercent": "1.00%"}, "raw": {"memory": {"heapUsed": 5}}}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            std::io::Write::write_all(&mut stream, (head + body).as_bytes()).unwrap();
        }
    });
    let args = |json: &'static str| {
        vec![
            "load-test",
            json,
            "--url",
            &base,
            "-n",
            "20",
            "-c",
            "1",
            "--pause",
            "0s",
        ]
    };
    let ended = run(&args("--json"));
    assert_eq!(ended.code, 1, "{}", ended.err);
    let json = ended.json();
    // One of the five was the read before the load.
    assert_eq!(
        (&json["requests"], &json["failed"]),
        (&json!(20), &json!(16))
    );
    assert_eq!(
        (&json["heapBefore"], &json["heapAfter"]),
        (&json!(5), &json!(null))
    );
    assert!(json["latencyMs"]["p50"].as_f64().unwrap() > 0.0);
    assert!(!(ended.out + &ended.err).contains("s3cr3t"));
}

/// The criteria of a verification that are not met.
fn not_met(json: &serde_json::Value) -> Vec<&str> {
    let checks = json["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["met"] != true)
        .map(|check| check["criterion"].as_str().unwrap())
        .collect()
}

#[test]
fn verify_prints_the_checklist_of_the_guide_with_figures() {
    let server = Server::start();
    // Such a short run shows little about growth on a busy machine: the rate here catches only large leaks.
    let args = [
        "verify",
        "--json",
        "--redis",
        &url(&server),
        "--duration",
        "2s",
        "--keys",
        "1000",
        "--leak-rate",
        "1000",
    ];
    let json = run(&args).ok().json();
    assert_eq!((&json["met"], not_met(&json).len()), (&json!(true), 0));
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 10, "{checks:?}");
    let measured = |what: &str| {
        let check = checks
            .iter()
            .find(|check| check["criterion"].as_str().unwrap().starts_with(what));
        check.unwrap_or_else(|| panic!("{what}"))["measured"]
            .as_str()
            .unwrap()
    };
    // The guide's success criteria, one by one.
    for (what, value) in [
        ("Heap usage remains below 80%", "at most "),
        ("No memory leaks", " MB/min"),
        ("Cache hit rate above 70%", " reads"),
        (
            "Pauses below 100 ms",
            "1000 expired entries of a local tier",
        ),
        ("Memory monitoring dashboard functional", "status "),
        ("Alerts trigger correctly at thresholds", "86% warning"),
        (
            "All unit tests pass: the guide's six, in the local tier",
            "6 of 6",
        ),
        (
            "All unit tests pass: the guide's six, with this server",
            "6 of 6",
        ),
        ("Production deployment successful", "module "),
    ] {
        assert!(measured(what).contains(value), "{what}: {}", measured(what));
    }
    assert_eq!(entries(&server), 0);
}

#[test]
fn verify_lists_the_criteria_that_a_bad_server_misses() {
    let server = Server::start();
    let _leak = Meanwhile::leak(&server);
    let _nothing_stays = Meanwhile::start(&server, |connection| {
        cmd("CACHE.FLUSH").exec(connection).unwrap();
    });
    let args = [
        "verify",
        "--json",
        "--redis",
        &url(&server),
        "--duration",
        "3s",
        "--keys",
        "1000",
    ];
    let ended = run(&args);
    assert_eq!(ended.code, 1, "{}\n{}", ended.out, ended.err);
    let json = ended.json();
    let missed = not_met(&json);
    for what in [
        "No memory leaks detected in the stress test",
        "Cache hit rate above 70%",
        "All unit tests pass: the guide's six, with this server",
    ] {
        assert!(missed.contains(&what), "{missed:?}");
    }
    // A criterion that does not depend on the server is met.
    assert!(!missed.contains(&"All unit tests pass: the guide's six, in the local tier"));
}

#[test]
fn verify_fails_if_applications_cannot_use_the_server() {
    let server = Server::start();
    // This user may do everything except receive invalidations.
    cmd("ACL")
        .arg("SETUSER")
        .arg("deaf")
        .arg("on")
        .arg(">secret-word")
        .arg("~*")
        .arg("resetchannels")
        .arg("+@all")
        .exec(&mut server.connection())
        .unwrap();
    let redis = format!("redis://deaf:secret-word@127.0.0.1:{}/", server.port());
    let args = [
        "verify",
        "--json",
        "--redis",
        &redis,
        "--duration",
        "2s",
        "--keys",
        "1000",
        "--leak-rate",
        "1000",
    ];
    let ended = run(&args);
    assert_eq!(ended.code, 1, "{}\n{}", ended.out, ended.err);
    let json = ended.json();
    assert_eq!(
        not_met(&json),
        [
            "All unit tests pass: the guide's six, with this server",
            "Production deployment successful: applications can use this server"
        ]
    );
    assert!(!(ended.out + &ended.err).contains("secret-word"));
}

#[test]
fn verify_fails_if_a_criterion_is_not_met() {
    // A server whose memory is nearly full before anything starts.
    let server = Server::start();
    let mut connection = server.connection();
    cmd("SET")
        .arg("ballast")
        .arg(vec![b'x'; 20_000_000])
        .exec(&mut connection)
        .unwrap();
    // The entries of the load have a TTL and may be evicted, the ballast may not.
    let info: redis::InfoDict = cmd("INFO").arg("memory").query(&mut connection).unwrap();
    let nearly = info.get::<u64>("used_memory").unwrap() * 11 / 10;
    let nearly = nearly.to_string();
    let full = [
        ("maxmemory-policy", "volatile-lru"),
        ("maxmemory", nearly.as_str()),
    ];
    for (setting, value) in full {
        cmd("CONFIG")
            .arg("SET")
            .arg(setting)
            .arg(value)
            .exec(&mut connection)
            .unwrap();
    }
    let args = [
        "verify",
        "--redis",
        &url(&server),
        "--duration",
        "2s",
        "--keys",
        "100",
        "--leak-rate",
        "1000",
    ];
    let ended = run(&args);
    assert_eq!(ended.code, 1, "{}\n{}", ended.out, ended.err);
    assert!(
        ended
            .out
            .contains("[ ] NOT MET: Heap usage remains below 80%"),
        "{}",
        ended.out
    );
}

#[test]
fn churning_soak_reports_all_series_and_removes_its_entries() {
    let server = Server::start();
    let args = [
        "soak",
        "--churn",
        "--json",
        "--redis",
        &url(&server),
        "--duration",
        "6s",
        "--keys",
        "1000",
        "--pipeline",
        "10",
        "--rate",
        "5000",
        "--warm-up",
        "40000",
    ];
    // Figures rise while the cache is being filled: the code may be 1, and the document is complete.
    let ended = run(&args);
    assert!(ended.code <= 1, "{}", ended.err);
    let json = ended.json();
    for figure in [
        "commands",
        "connections",
        "clients",
        "clientReads",
        "invalidated",
    ] {
        assert!(json[figure].as_u64().unwrap() > 0, "{figure}: {json}");
    }
    for series in [
        "used_memory",
        "index_bytes",
        "server descriptors",
        "client tasks",
        "p99 ms",
        "p99 / PING's p99",
    ] {
        assert!(
            json["series"][series]["slopePerHour"].is_number(),
            "{series}: {json}"
        );
    }
    assert!(
        json["commands"].as_u64().unwrap() <= 6 * 5000 + 100,
        "the warm-up does not count: {json}"
    );
    assert_eq!(entries(&server), 0);
    for option in ["--rate", "--warm-up"] {
        assert_eq!(run(&["soak", option, "5"]).code, 2, "only with --churn");
    }
}
