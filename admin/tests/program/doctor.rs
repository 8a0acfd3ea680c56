use redis::cmd;
use serde_json::{Value, json};
use tagcache_tests::{DEADLINE, Server, wait_until};

use crate::run::{Ended, run, url};

/// A server without any problem.
fn sound() -> tagcache_tests::ServerBuilder {
    Server::builder()
        .arg("--maxmemory", "100mb")
        .arg("--maxmemory-policy", "allkeys-lfu")
}

fn doctor(redis: &str, args: &[&str]) -> Ended {
    run(&[&["doctor", "--json", "--redis", redis], args].concat())
}

fn check(ended: &Ended, name: &str) -> Value {
    let document = ended.json();
    let checks = document["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["check"] == name);
    found
        .unwrap_or_else(|| panic!("no check {name} in {document}"))
        .clone()
}

/// The state of a check, after checking that it has a remedy exactly if it needs one.
fn state(ended: &Ended, name: &str) -> String {
    let check = check(ended, name);
    let state = check["state"].as_str().unwrap().to_owned();
    assert_eq!(check["remedy"].is_null(), state == "ok", "{check}");
    state
}

fn exec(server: &Server, words: &[&str]) {
    cmd(words[0])
        .arg(&words[1..])
        .exec(&mut server.connection())
        .unwrap();
}

#[test]
fn healthy_server_passes_every_check() {
    let server = sound().start();
    exec(&server, &["CACHE.SET", "key", "v", "TAGS", "1", "tag"]);
    let ended = doctor(&url(&server), &[]).ok();
    let document = ended.json();
    let checks = document["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 11, "{document}");
    for check in checks {
        assert_eq!(check["state"], "ok", "{check}");
    }
    let text = run(&["doctor", "--redis", &url(&server)]).ok().out;
    assert!(text.contains("ok       tags: each is carried"), "{text}");
}

#[test]
fn misconfiguration_is_reported_with_a_remedy() {
    let server = Server::builder()
        .args("--save", &["3600", "1"])
        .args(
            "--client-output-buffer-limit",
            &["pubsub", "1mb", "1mb", "60"],
        )
        .start();
    let ended = doctor(&url(&server), &[]).ok();
    for name in ["memory limit", "persistence", "output buffers"] {
        assert_eq!(state(&ended, name), "warning", "{name}");
    }
    for (name, words) in [
        (
            "persistence",
            &["CONFIG", "SET", "tagcache.after-restart", "drop"][..],
        ),
        (
            "output buffers",
            &[
                "CONFIG",
                "SET",
                "client-output-buffer-limit",
                "pubsub 32mb 8mb 60",
            ],
        ),
        ("memory limit", &["CONFIG", "SET", "maxmemory", "100mb"]),
    ] {
        exec(&server, words);
        if name != "memory limit" {
            assert_eq!(state(&doctor(&url(&server), &[]), name), "ok", "{name}");
        }
    }
    let full = doctor(&url(&server), &[]);
    assert_eq!(state(&full, "memory limit"), "warning");
    let found = check(&full, "memory limit")["found"].to_string();
    assert!(found.contains("noeviction"), "{found}");
    exec(&server, &["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(state(&doctor(&url(&server), &[]), "persistence"), "warning");
    exec(&server, &["CONFIG", "SET", "appendfsync", "always"]);
    assert_eq!(state(&doctor(&url(&server), &[]), "persistence"), "ok");
}

#[test]
fn server_limit_above_the_memory_limit_is_a_problem() {
    let server = sound().start();
    let more = doctor(&url(&server), &["--memory-limit", "50MB"]);
    assert_eq!(more.code, 1);
    assert_eq!(state(&more, "memory limit"), "problem");
}

#[test]
fn missing_module_is_a_problem() {
    let server = Server::builder().without_module().start();
    let ended = doctor(&url(&server), &[]);
    assert_eq!(ended.code, 1);
    assert_eq!(state(&ended, "module"), "problem");
    let remedy = check(&ended, "module")["remedy"].to_string();
    assert!(remedy.contains("tagcache.conf"), "{remedy}");
}

#[test]
fn missing_permissions_of_a_user_are_named() {
    let server = sound().start();
    let client = "+ping +client|tracking +subscribe +cache.fetch +cache.set +cache.del +cache.touch +cache.release \
                  +cache.hits +cache.invalidate +cache.revalidate +cache.clock";
    let user = |name: &str, rules: &str| {
        let rules: Vec<&str> = rules.split_whitespace().collect();
        exec(
            &server,
            &[&["ACL", "SETUSER", name], rules.as_slice()].concat(),
        );
    };
    // The permissions that the client's documentation lists for an application.
    user(
        "app",
        &format!("on >secret ~shop:* &__cache@0__:invalidate {client}"),
    );
    user("less", "on >secret ~shop:* +@read +ping");
    let app = doctor(&url(&server), &["--user", "app"]).ok();
    assert_eq!(check(&app, "permissions")["state"], "ok", "{}", app.out);
    let less = doctor(&url(&server), &["--user", "less"]);
    assert_eq!(less.code, 1);
    let remedy = check(&less, "permissions")["remedy"].to_string();
    for grant in [
        "+cache.set",
        "+cache.invalidate",
        "+client|tracking",
        "&__cache@0__:invalidate",
    ] {
        assert!(remedy.contains(grant), "{grant} in {remedy}");
    }
    assert_eq!(doctor(&url(&server), &["--user", "nobody"]).code, 3);

    // As a user without permission to read: the checks report `unknown`.
    let redis = format!("redis://app:secret@127.0.0.1:{}/", server.port());
    let blind = doctor(&redis, &[]).ok();
    for name in ["server", "persistence", "permissions", "fragmentation"] {
        assert_eq!(state(&blind, name), "unknown", "{name}");
    }
}

#[test]
fn replicas_are_checked() {
    let primary = sound().start();
    let replica = sound().replica_of(&primary).start();
    wait_until("the replica is online", DEADLINE, || {
        let found = &check(&doctor(&url(&primary), &[]), "replication")["found"];
        *found == json!("1 replica with the same module")
    });
    assert_eq!(state(&doctor(&url(&replica), &[]), "replication"), "ok");
    exec(&replica, &["REPLICAOF", "127.0.0.1", "1"]);
    let lost = doctor(&url(&replica), &[]);
    assert_eq!((lost.code, &*state(&lost, "replication")), (1, "problem"));
}
