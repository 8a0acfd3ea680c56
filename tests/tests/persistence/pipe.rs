//! An append-only file that a client sends to another server.

use std::io::Write;
use std::process::{Command, Stdio};

use tagcache_tests::look::{assert_index_agrees, inspect, wait_rewritten};
use tagcache_tests::{Engine, RawClient, Reply, Server, args, call, for_all_engines, run};

/// The commands of the server's append-only file, base first, without annotations.
fn log_of(server: &Server) -> Vec<u8> {
    let directory = server.dir().join("appendonlydir");
    let files = std::fs::read_dir(directory).expect("the append only directory");
    let mut paths: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "aof"));
    paths.sort_by_key(|path| !path.to_string_lossy().ends_with(".base.aof"));
    let read = |path| std::fs::read(path).expect("a file of the append only directory");
    paths.into_iter().flat_map(read).collect()
}

fn pipe(log: &[u8], target: &Server) {
    let port = target.port().to_string();
    let mut cli = Command::new("redis-cli")
        .args(["-p", &port, "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli comes with the server");
    let mut input = cli.stdin.take().expect("it is piped");
    input.write_all(log).expect("redis-cli reads it");
    drop(input);
    let output = cli.wait_with_output().expect("redis-cli ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("errors: 0"), "{text}");
}

fn source(engine: &Engine) -> Server {
    // Otherwise the server delays writing for up to 2 s while the disk is busy, and the end is missing from the log
    // that is read.
    let builder = Server::builder().engine(engine).arg("--appendonly", "yes");
    builder
        .arg("--appendfsync", "always")
        .arg("--aof-use-rdb-preamble", "no")
        .start()
}

#[test]
fn a_log_that_is_piped_into_another_server_restores_the_state() {
    for_all_engines(|engine| {
        for rewrite in [false, true] {
            let (source, target) = (source(engine), Server::builder().engine(engine).start());
            let (mut here, mut there) = (source.raw(), target.raw());
            for n in 0..50 {
                let set = call!(
                    here,
                    "CACHE.SET",
                    format!("key{n}"),
                    n,
                    "EX",
                    10_000,
                    "GRACE",
                    600_000,
                    "TAGS",
                    2,
                    format!("t{}", n % 5),
                    "all"
                );
                assert_eq!(set, Reply::ok());
            }
            for _ in 0..7 {
                run!(here, "CACHE.GET key1");
            }
            run!(here, "CACHE.HITS key2 5");
            run!(here, "CACHE.REVALIDATE t3");
            run!(here, "CACHE.INVALIDATE t4 none");
            run!(here, "CACHE.INVALIDATEWHERE ALL 1 t2 NONE 1 none SOFT");
            run!(here, "CACHE.TOUCH key5 EX 20000");
            run!(here, "CACHE.DEL key6");
            run!(here, "RENAME key7 renamed");
            run!(here, "SELECT 3");
            run!(here, "CACHE.SET key v TAGS 1 t");
            run!(here, "SELECT 0");
            if rewrite {
                run!(here, "BGREWRITEAOF");
                wait_rewritten(&mut here);
            }
            pipe(&log_of(&source), &target);
            for n in 0..50 {
                let name = format!("key{n}");
                let (mut expected, mut seen) =
                    (inspect(&mut here, &name), inspect(&mut there, &name));
                for entry in [&mut expected, &mut seen].into_iter().flatten() {
                    entry.memory = 0;
                    // Reads are not logged; only a rewrite saves hits.
                    entry.hits = if rewrite { entry.hits } else { 0 };
                }
                assert_eq!(seen, expected, "{name}, rewritten: {rewrite}");
            }
            assert!(inspect(&mut there, "renamed").is_some());
            let written = |client: &mut RawClient| {
                let age = run!(client, "CACHE.INSPECT key1").field("age").int();
                let time = run!(client, "TIME");
                time.items()[0].int() * 1_000 + time.items()[1].int() / 1_000 - age
            };
            let (expected, seen) = (written(&mut here), written(&mut there));
            assert!(
                expected.abs_diff(seen) < 1_000,
                "{expected}, {seen}: when it was written"
            );
            for tag in ["t3", "t4", "none"] {
                let (seen, expected) = (
                    run!(there, "CACHE.TAGINFO {tag}"),
                    run!(here, "CACHE.TAGINFO {tag}"),
                );
                for field in ["invalidations", "last_invalidated"] {
                    assert_eq!(seen.field(field), expected.field(field), "{tag}");
                }
            }
            let clock = |client: &mut RawClient| run!(client, "CACHE.CLOCK").items()[1].int();
            assert!(clock(&mut there) >= clock(&mut here));
            assert_index_agrees(&target, &[0, 3], &[b"t4", b"all"]);
        }
    });
}

#[test]
fn only_an_administrator_may_send_the_options_of_a_log() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        run!(
            admin,
            "ACL SETUSER user on nopass ~* &* +@all -cache.replay"
        );
        let mut user = server.raw();
        assert_eq!(run!(user, "AUTH user x"), Reply::ok());
        let words = [
            args!["CACHE.SET", "key", "v", "CREATED", 5],
            args!["CACHE.SET", "key", "v", "HITS", 5],
            args!["CACHE.SET", "key", "v", "GRACE", 50_000, "SOFT", 5],
            args!["CACHE.INVALIDATEWHERE", "ALL", 1, "t", "AT", 5],
            args!["CACHE.INVALIDATE", "", "@5", "t"],
            args!["CACHE.REVALIDATE", "", "@5", "t"],
            args!["CACHE.FLUSH", "AT", 5],
        ];
        for (number, command) in words.iter().enumerate() {
            let reply = user.call(command);
            let error = reply.error().expect("these words are a log's").to_owned();
            if number < 4 {
                assert_eq!(error, "ERR syntax error", "{command:?}");
            }
            assert_eq!(
                run!(admin, "CACHE.CLOCK").items()[1],
                Reply::Int(0),
                "{command:?}"
            );
            assert_eq!(run!(admin, "EXISTS key"), Reply::Int(0), "{command:?}");
        }
        for command in &words {
            let reply = admin.call(command);
            assert!(!reply.is_error(), "{command:?}: {reply:?}");
            run!(admin, "CACHE.DEL key");
        }
        assert_eq!(run!(admin, "CACHE.CLOCK").items()[1], Reply::Int(4));
    });
}
