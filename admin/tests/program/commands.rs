use std::io::Write as _;
use std::process::Stdio;

use redis::cmd;
use serde_json::json;
use tagcache_tests::Server;

use crate::run::{ended, program, run, url};

/// Three entries, one of them read twice.
fn filled() -> Server {
    let server = Server::start();
    let mut connection = server.connection();
    for (key, tag) in [("a", "red"), ("b", "red"), ("c\x1b[2J", "blue")] {
        cmd("CACHE.SET")
            .arg(key)
            .arg("value")
            .arg("TAGS")
            .arg(1)
            .arg(tag)
            .exec(&mut connection)
            .unwrap();
    }
    for _ in 0..2 {
        let _: Option<String> = cmd("CACHE.GET").arg("a").query(&mut connection).unwrap();
    }
    server
}

/// The text with each run of blanks as one blank.
fn squeezed(text: &str) -> String {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    text.lines().map(line).collect()
}

#[test]
fn commands_print_text_and_json() {
    let server = filled();
    let redis = url(&server);
    let json = run(&["stats", "--json", "--redis", &redis]).ok().json();
    assert_eq!(
        (&json["cache"]["entries"], &json["cache"]["hits"]),
        (&json!(3), &json!(2))
    );
    let text = run(&["stats", "--redis", &redis]).ok().out;
    assert!(squeezed(&text).contains("hit rate 100.00%\n"), "{text}");
    let tags = run(&["tags", "--json", "--by", "entries", "--redis", &redis])
        .ok()
        .json();
    assert_eq!(
        (&tags[0]["tag"], &tags[0]["entries"]),
        (&json!("red"), &json!(2))
    );
    let top = run(&["top", "--json", "-n", "1", "--redis", &redis])
        .ok()
        .json();
    assert_eq!(top, json!([{"key": "a", "hits": 2}]));
    let inspected = run(&["inspect", "a", "--json", "--redis", &redis])
        .ok()
        .json();
    assert_eq!(
        (&inspected["tags"], &inspected["hits"]),
        (&json!(["red"]), &json!(2))
    );
}

#[test]
fn control_characters_in_a_key_are_escaped() {
    let server = filled();
    let _: Option<String> = cmd("CACHE.GET")
        .arg("c\x1b[2J")
        .query(&mut server.connection())
        .unwrap();
    let text = run(&["top", "--redis", &url(&server)]).ok().out;
    assert!(
        text.contains("c\\u{1b}[2J") && !text.contains('\x1b'),
        "{text}"
    );
}

#[test]
fn invalidate_drops_a_tag_and_flush_requires_confirmation() {
    let server = filled();
    let redis = url(&server);
    let dropped = run(&["invalidate", "red", "--json", "--redis", &redis])
        .ok()
        .json();
    assert_eq!(dropped, json!({"invalidated": 2}));
    let asked = run(&["flush", "--redis", &redis]);
    assert_eq!(asked.code, 2);
    assert!(asked.err.contains("1 entries"), "{}", asked.err);
    let left =
        || run(&["stats", "--json", "--redis", &redis]).ok().json()["cache"]["entries"].clone();
    assert_eq!(left(), 1);
    assert_eq!(
        run(&["flush", "-y", "--json", "--redis", &redis])
            .ok()
            .json(),
        json!({"flushed": 1})
    );
    assert_eq!(left(), 0);
}

#[test]
fn exit_codes_distinguish_errors() {
    let server = filled();
    let redis = url(&server);
    assert_eq!(run(&["inspect", "nothing", "--redis", &redis]).code, 1);
    assert_eq!(run(&["stats", "--colour"]).code, 2);
    assert_eq!(run(&["stats", "--redis", "nonsense"]).code, 2);
    // Nothing listens on port 1.
    let away = run(&["stats", "--redis", "redis://:s3cr3t@127.0.0.1:1/"]);
    assert_eq!(away.code, 3);
    assert!(!away.err.contains("s3cr3t"), "{}", away.err);
    let without = Server::builder().without_module().start();
    assert_eq!(run(&["stats", "--redis", &url(&without)]).code, 3);
    assert_eq!(run(&["alerts", "check", "/no/such/file"]).code, 4);
}

#[test]
fn every_command_reports_a_missing_module() {
    let server = Server::builder().without_module().start();
    let redis = url(&server);
    for args in [
        &["stats"][..],
        &["top"],
        &["tags"],
        &["inspect", "key"],
        &["invalidate", "tag"],
        &["flush"],
        &["flush", "--yes"],
        &["watch", "-n", "1"],
        &["soak", "--duration", "2s"],
        &["load-test", "-n", "1"],
        &["verify", "--duration", "2s"],
    ] {
        let ended = run(&[args, &["--redis", &redis]].concat());
        assert_eq!(ended.code, 3, "{args:?}: {}", ended.err);
        let named = "the module is not loaded";
        assert!(ended.err.contains(named), "{args:?}: {}", ended.err);
    }
    // A watch without an end reports it in each output too.
    let looks = run(&[
        "watch",
        "--json",
        "-n",
        "2",
        "--interval",
        "1ms",
        "--redis",
        &redis,
    ])
    .out;
    for look in looks.lines() {
        let look: serde_json::Value = serde_json::from_str(look).unwrap();
        let error = look["error"].as_str().unwrap();
        assert!(error.contains("the module is not loaded"), "{look}");
    }
}

#[test]
fn errors_are_json_if_json_is_requested() {
    let error = |args: &[&str]| -> serde_json::Value {
        let ended = run(args);
        let error: serde_json::Value =
            serde_json::from_str(&ended.err).unwrap_or_else(|e| panic!("{e}: {}", ended.err));
        assert_eq!(error["exitCode"], ended.code);
        error
    };
    let away = error(&["top", "--json", "--redis", "redis://127.0.0.1:1/"]);
    assert_eq!(away["exitCode"], 3);
    assert!(away["error"].as_str().unwrap().contains("127.0.0.1:1"));
    assert_eq!(error(&["top", "--json", "--colour"])["exitCode"], 2);
    assert_eq!(run(&["top", "--json", "--help"]).code, 0);
}

#[test]
fn user_without_info_permission_still_gets_stats() {
    let server = filled();
    cmd("ACL")
        .arg(&[
            "SETUSER",
            "blind",
            "on",
            ">secret",
            "~*",
            "+ping",
            "+cache.stats",
        ])
        .exec(&mut server.connection())
        .unwrap();
    let redis = format!("redis://blind:secret@127.0.0.1:{}/", server.port());
    let stats = run(&["stats", "--json", "--redis", &redis]).ok().json();
    assert_eq!(stats["cache"]["entries"], 3);
    assert!(
        stats["keyCount"].is_null() && stats["usedMemory"].is_null(),
        "{stats}"
    );
    let text = run(&["watch", "-n", "1", "--redis", &redis]).ok().out;
    assert!(!text.contains("Disconnected"), "{text}");
}

#[test]
fn memory_limit_option_lowers_the_limit_of_the_server() {
    let server = Server::builder().arg("--maxmemory", "64mb").start();
    let limit = |size: &str| {
        let args = [
            "stats",
            "--json",
            "--redis",
            &url(&server),
            "--memory-limit",
            size,
        ];
        run(&args).ok().json()["memoryLimit"].clone()
    };
    assert_eq!(limit("16MB"), 16 << 20);
    assert_eq!(limit("1g"), 64 << 20);
    assert_eq!(run(&["stats", "--memory-limit", "16 apples"]).code, 2);
}

#[test]
fn keys_and_tags_of_any_bytes_are_accepted() {
    use std::os::unix::ffi::OsStrExt as _;
    let server = Server::start();
    let (key, tag) = (b"k\xff\n".as_slice(), b"t\xfe".as_slice());
    cmd("CACHE.SET")
        .arg(key)
        .arg("value")
        .arg("TAGS")
        .arg(1)
        .arg(tag)
        .exec(&mut server.connection())
        .unwrap();
    let with = |command: &str, bytes: &[u8]| {
        let bytes = std::ffi::OsStr::from_bytes(bytes);
        let redis = url(&server);
        ended(program().args([command, "--redis", &redis]).arg(bytes))
    };
    with("inspect", key).ok();
    assert_eq!(with("invalidate", tag).ok().out, "1 entries are gone\n");
    let gone = with("inspect", key);
    assert_eq!(gone.code, 1);
    assert!(!gone.err.contains("\n:"), "{}", gone.err);
}

#[test]
fn stats_reports_the_versions() {
    let server = filled();
    let json = run(&["stats", "--json", "--redis", &url(&server)])
        .ok()
        .json();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(json["module"], version);
    let text = squeezed(&run(&["stats", "--redis", &url(&server)]).ok().out);
    assert!(text.contains(&format!("\nmodule {version}\n")), "{text}");
    assert_eq!(
        run(&["--version"]).ok().out,
        format!("tagcache {version}\n")
    );
}

#[test]
fn list_commands_accept_at_most_10000_items() {
    let server = filled();
    for command in ["tags", "top"] {
        run(&[command, "-n", "10000", "--redis", &url(&server)]).ok();
        assert_eq!(
            run(&[command, "-n", "10001", "--redis", &url(&server)]).code,
            2
        );
    }
}

#[test]
fn closed_output_pipe_is_not_an_error() {
    let server = filled();
    let redis = url(&server);
    for args in [
        vec!["watch", "--interval", "1ms", "--redis", &redis],
        vec!["watch", "--interval", "1ms", "--json", "--redis", &redis],
        vec!["completions", "bash"],
    ] {
        let mut child = program()
            .args(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // As `head` closes it.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn full_disk_is_an_error() {
    let full = || {
        std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for args in [["completions", "zsh"], ["alerts", "metrics"]] {
        let ended = ended(program().args(args).stdout(full()));
        assert_eq!(ended.code, 1, "{args:?}");
        assert!(ended.err.starts_with("tagcache: "), "{}", ended.err);
    }
    // Standard error is closed, so the error cannot be reported; the program must still end in order.
    let status = program()
        .args(["stats", "--redis", "redis://127.0.0.1:1/"])
        .stderr(full())
        .status();
    assert_eq!(status.unwrap().code(), Some(3));
}

#[test]
fn unreachable_server_is_named_without_its_password() {
    let away = run(&["stats", "--redis", "redis://user:s3cr3t@127.0.0.1:1/"]);
    assert!(away.err.contains("127.0.0.1:1"), "{}", away.err);
    assert!(!away.err.contains("s3cr3t"), "{}", away.err);
    let watched = run(&["watch", "-n", "1", "--redis", "redis://127.0.0.1:1/"]);
    assert_eq!(watched.code, 3);
    assert!(watched.out.contains("Disconnected:"), "{}", watched.out);
}

#[test]
fn watch_prints_the_requested_number_of_updates() {
    let server = filled();
    let args = [
        "watch",
        "--json",
        "-n",
        "3",
        "--interval",
        "1ms",
        "--redis",
        &url(&server),
    ];
    let lines = run(&args).ok().out;
    let looks: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(looks.len(), 3);
    assert!(
        looks
            .iter()
            .all(|look| look["server"]["cache"]["entries"] == 3 && look["error"].is_null()),
        "{looks:?}"
    );
    let text = run(&["watch", "-n", "1", "--redis", &url(&server)])
        .ok()
        .out;
    assert!(
        text.starts_with("tagcache  HEALTHY") && squeezed(&text).contains("\nentries 3\n"),
        "{text}"
    );
}

#[test]
fn help_and_completions_list_every_command() {
    let help = run(&["--help"]).ok().out;
    let bash = run(&["completions", "bash"]).ok().out;
    let commands = [
        "up",
        "serve",
        "stats",
        "top",
        "tags",
        "inspect",
        "invalidate",
        "flush",
        "doctor",
        "watch",
        "load-test",
        "soak",
        "verify",
        "alerts",
        "completions",
    ];
    for command in commands {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command} in {help}"
        );
        assert!(bash.contains(command), "{command}");
    }
    assert!(help.contains("Exit codes: 0 done"), "{help}");
    let mut checked = std::process::Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut script = checked.stdin.take().unwrap();
    script.write_all(bash.as_bytes()).unwrap();
    drop(script);
    assert!(checked.wait().unwrap().success());
}
