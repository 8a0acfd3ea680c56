use std::io::{Read as _, Write as _};

use serde_json::Value;
use tagcache_admin::memory::Server as Watched;
use tagcache_tests::{DEADLINE, Server, free_port, module_path, wait_until};

use crate::run::{Running, get, kill, run, url};

const TOKEN: &str = "a-token-for-the-program";

#[test]
fn serve_shows_a_server_only_with_the_token() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let rules = dir.path().join("rules.yaml");
    std::fs::write(
        &rules,
        "alerts: [{name: Any, condition: memory.heapUsed > 0, severity: info, channels: [log]}]",
    )
    .unwrap();
    let (file, rules) = (file.to_str().unwrap(), rules.to_str().unwrap());
    let redis = url(&server);
    let serving = Running::start(&[
        "serve",
        "--redis",
        &redis,
        "--listen",
        "127.0.0.1:0",
        "--admin-token-file",
        file,
        "--alerts",
        rules,
        "--interval",
        "100ms",
        "--instance",
        "web-1",
    ]);
    let stats = format!("{}api/admin/memory-stats", serving.text("dashboard"));
    assert_eq!(get(&stats, None).0, 401);
    wait_until("the rule fires", DEADLINE, || {
        let (status, body) = get(&stats, Some(TOKEN));
        assert_eq!(status, 200);
        let body: Value = serde_json::from_str(&body).unwrap();
        // It shows the server's memory.
        assert!(
            body["raw"]["server"]["figures"]["usedMemory"]
                .as_u64()
                .unwrap()
                > 0
        );
        assert_eq!(body["cache"]["redis"]["connected"], true);
        body["raw"]["alerts"][0]["state"] == "firing"
    });
    let instances =
        tagcache_admin::http::Fleet::instances(&Watched::open(&redis).unwrap()).unwrap();
    assert_eq!(instances[0].instance, "web-1");
    assert!(serving.end("-TERM").success());
}

#[test]
fn serve_does_not_start_without_authorisation() {
    let server = Server::start();
    let redis = url(&server);
    let refused = run(&["serve", "--redis", &redis, "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.err.contains("--admin-token-file"),
        "{}",
        refused.err
    );
    let open = run(&[
        "serve",
        "--redis",
        &redis,
        "--listen",
        "0.0.0.0:0",
        "--insecure-no-auth",
    ]);
    assert_eq!(open.code, 2);
    assert!(open.err.contains("loopback only"), "{}", open.err);
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("short");
    std::fs::write(&short, "short").unwrap();
    let guessable = [
        "serve",
        "--redis",
        &redis,
        "--listen",
        "127.0.0.1:0",
        "--admin-token-file",
        short.to_str().unwrap(),
    ];
    assert_eq!(run(&guessable).code, 2);
}

#[test]
fn up_starts_server_and_dashboard_and_stops_both() {
    let module = module_path().canonicalize().unwrap();
    let port = free_port().to_string();
    let up = Running::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--port",
        &port,
        "--module",
        module.to_str().unwrap(),
    ]);
    let redis = up.text("redis").to_owned();
    let dashboard = up.text("dashboard").to_owned();
    assert_eq!(get(&dashboard, None).0, 200);
    let stats = format!("{dashboard}api/admin/memory-stats");
    assert_eq!(get(&stats, None).0, 401);
    let (status, body) = get(&stats, Some(up.text("token")));
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let rules: Vec<&serde_json::Value> = body["raw"]["alerts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| &rule["name"])
        .collect();
    assert_eq!(rules, ["High Memory Usage", "Critical Memory Usage"]);
    assert_eq!(run(&["stats", "--redis", &redis]).code, 0);
    let directory = std::path::PathBuf::from(up.text("directory"));
    assert!(directory.exists());
    assert!(up.end("-INT").success());
    assert_eq!(run(&["stats", "--redis", &redis]).code, 3);
    assert!(!directory.exists());
}

/// Runs `up` without options, and returns its server's process number too.
fn up_and_its_server() -> (Running, u32) {
    let module = module_path().canonicalize().unwrap();
    let args = [
        "up",
        "--listen",
        "127.0.0.1:0",
        "--module",
        module.to_str().unwrap(),
    ];
    let up = Running::start(&args);
    let client = redis::Client::open(up.text("redis")).unwrap();
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("server")
        .query(&mut client.get_connection().unwrap())
        .unwrap();
    let process = info.get("process_id").unwrap();
    (up, process)
}

#[test]
fn up_exits_if_its_server_ends() {
    let (up, server) = up_and_its_server();
    let directory = std::path::PathBuf::from(up.text("directory"));
    kill("-KILL", server);
    assert_eq!(up.ends().code(), Some(3));
    assert!(!directory.exists());
}

#[test]
fn server_stops_if_up_is_killed() {
    let (up, _) = up_and_its_server();
    let directory = std::path::PathBuf::from(up.text("directory"));
    let redis = up.text("redis").to_owned();
    up.end("-KILL");
    wait_until("the server is gone", DEADLINE, || {
        run(&["stats", "--redis", &redis]).code == 3 && !directory.exists()
    });
}

#[test]
fn two_instances_of_up_run_independently() {
    let ((a, first), (b, second)) = (up_and_its_server(), up_and_its_server());
    assert_ne!(first, second);
    assert_ne!(a.id(), b.id());
    assert_eq!(run(&["stats", "--redis", a.text("redis")]).code, 0);
    assert!(a.end("-INT").success());
    assert_eq!(run(&["stats", "--redis", b.text("redis")]).code, 0);
    assert!(b.end("-HUP").success());
}

#[test]
fn instance_name_survives_a_restart() {
    let server = Server::start();
    let redis = url(&server);
    let listen = format!("127.0.0.1:{}", free_port());
    let serve = [
        "serve",
        "--redis",
        &redis,
        "--listen",
        &listen,
        "--insecure-no-auth",
    ];
    let first = Running::start(&serve);
    let name = first.text("instance").to_owned();
    assert!(first.end("-TERM").success());
    assert!(
        name.ends_with(listen.trim_start_matches("127.0.0.1")),
        "{name}"
    );
    assert_eq!(Running::start(&serve).text("instance"), name);
}

#[test]
fn serve_delivers_a_pending_alarm_before_it_exits() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let receiver = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let hook = receiver.local_addr().unwrap();
    let rules = dir.path().join("rules.yaml");
    std::fs::write(
        &rules,
        format!("channels: {{hook: {{type: webhook, url: 'http://{hook}/'}}}}\nalerts: [{{name: Any, condition: memory.heapUsed > 0, severity: info, channels: [hook]}}]"),
    )
    .unwrap();
    let redis = url(&server);
    let serving = Running::start(&[
        "serve",
        "--redis",
        &redis,
        "--listen",
        "127.0.0.1:0",
        "--insecure-no-auth",
        "--interval",
        "50ms",
        "--alerts",
        rules.to_str().unwrap(),
    ]);
    let respond = |status: &str| {
        let mut stream = None;
        wait_until("the message comes", DEADLINE, || {
            stream = receiver.accept().ok();
            stream.is_some()
        });
        let (mut stream, _) = stream.unwrap();
        stream.set_nonblocking(false).unwrap();
        let (mut request, mut part) = (Vec::new(), [0; 4096]);
        // The body is one JSON object.
        while !request.ends_with(b"}") {
            let read = stream.read(&mut part).unwrap();
            assert!(read > 0);
            request.extend(&part[..read]);
        }
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
    };
    // It would be sent again after a pause, but the program ends earlier.
    respond("503 not now");
    kill("-TERM", serving.id());
    respond("200 fine");
    assert!(serving.ends().success());
}

#[test]
fn up_with_a_tour_fills_the_server_and_keeps_running() {
    let module = module_path().canonicalize().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("status");
    std::fs::write(&file, PACKAGES).unwrap();
    let up = Running::start(&[
        "up",
        "--tour",
        "--listen",
        "127.0.0.1:0",
        "--input",
        file.to_str().unwrap(),
        "--module",
        module.to_str().unwrap(),
    ]);
    assert_eq!(up.first["tour"]["packages"], 3);
    assert_eq!(up.first["tour"]["differences"], serde_json::json!([]));
    let at = up.next();
    let redis = at["redis"].as_str().unwrap();
    let dashboard = at["dashboard"].as_str().unwrap();
    let stats = format!("{dashboard}api/admin/memory-stats");
    assert_eq!(get(&stats, at["token"].as_str()).0, 200);
    // The tour drops the largest section and leaves the other.
    assert_eq!(run(&["inspect", "--redis", redis, "pkg:a"]).code, 1);
    let kept = run(&["inspect", "--redis", redis, "pkg:c"]);
    assert!(kept.ok().out.contains("section:net"));
    assert!(up.end("-INT").success());
}

#[test]
fn tour_with_exit_reports_unexpected_replies() {
    let module = module_path().canonicalize().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("status");
    let tour = |packages: &str| {
        std::fs::write(&file, packages).unwrap();
        let (file, module) = (file.to_str().unwrap(), module.to_str().unwrap());
        run(&[
            "up", "--tour", "--exit", "--input", file, "--module", module,
        ])
    };
    let shown = tour(PACKAGES).ok().out;
    assert!(
        shown.contains("> CACHE.INVALIDATE section:libs\n  2 entries gone in "),
        "{shown}"
    );
    assert!(shown.ends_with("Server stopped, its directory removed.\n"));
    // This input has nothing to invalidate, so the replies are not the expected ones.
    let without = tour("Package: a\n");
    assert_eq!(without.code, 1, "{}", without.err);
    assert!(
        without
            .out
            .contains("NOT AS EXPECTED: no package has a section"),
        "{}",
        without.out
    );
    assert_eq!(tour("no package\n").code, 2);
}

const PACKAGES: &str =
    "Package: a\nSection: libs\n\nPackage: b\nSection: libs\n\nPackage: c\nSection: net\n";

#[test]
fn up_reports_a_missing_module_or_a_taken_address() {
    let missing = run(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--module",
        "/no/such/module.so",
    ]);
    assert_eq!(missing.code, 2);
    assert!(
        missing.err.contains("/no/such/module.so"),
        "{}",
        missing.err
    );
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = run(&["up", "--listen", &address]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains(&address), "{}", refused.err);
}
