use redis::cmd;
use serde_json::json;
use tagcache_tests::Server;

use crate::run::{Running, run, url};

fn entries(server: &Server) -> u64 {
    let stats: std::collections::HashMap<String, String> =
        cmd("CACHE.STATS").query(&mut server.connection()).unwrap();
    stats["entries"].parse().unwrap()
}

#[test]
fn the_guides_load_test_runs_against_an_endpoint() {
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
fn a_load_test_that_needs_a_token_says_so() {
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
fn a_load_on_a_server_leaves_nothing_behind() {
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
fn a_soak_tells_growth_in_numbers() {
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
    assert_eq!(
        run(&["soak", "--redis", &url(&server), "--duration", "1s"]).code,
        2
    );
}

#[test]
fn verify_prints_the_guides_checklist_with_figures() {
    let server = Server::start();
    // So short a run says little about growth on a busy machine: the rate here only catches what is blatant.
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
    assert_eq!(json["met"], true);
    let met: Vec<_> = json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (&check["criterion"], &check["met"]))
        .collect();
    assert_eq!(met.len(), 9, "{met:?}");
    let not_checked: Vec<_> = met.iter().filter(|(_, met)| **met != json!(true)).collect();
    assert_eq!(
        not_checked,
        [&(&json!("All unit tests pass"), &json!(null))],
        "{met:?}"
    );
    assert!(
        json["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["measured"] != "")
    );
}

#[test]
fn verify_says_no_when_a_criterion_is_not_met() {
    // A server whose memory is nearly full before anything starts.
    let server = Server::start();
    let mut connection = server.connection();
    cmd("SET")
        .arg("ballast")
        .arg(vec![b'x'; 20_000_000])
        .exec(&mut connection)
        .unwrap();
    // What the load stores has a time to live and may be evicted, the ballast may not.
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
