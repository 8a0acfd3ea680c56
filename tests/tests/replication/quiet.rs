//! Read-only commands are not propagated, and nothing is while clients are paused: servers stop on an assertion
//! otherwise.

use std::collections::BTreeSet;

use tagcache_tests::look::{assert_index_agrees, info, info_text, stat, wait_reclaimed};
use tagcache_tests::state::{assert_same, wait_synchronised};
use tagcache_tests::stream::{ReplicationStream, aof_commands, words};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, args, call, for_all_engines, wait_until,
};

use crate::fill;

/// Nothing is freed inside a command, and little in the background.
const LAZY: [&str; 4] = ["reclaim-inline", "0", "reclaim-budget-us", "50"];

const LIBRARY: &str = "#!lua name=readers
redis.register_function{function_name='exists', flags={'no-writes'},
    callback=function(keys, args) return redis.call('EXISTS', args[1]) end}";

/// Ways to read a gone key without the right to write.
fn readers(key: &str) -> Vec<Vec<Vec<u8>>> {
    let exists = "return redis.call('EXISTS', ARGV[1])";
    let declared = "return redis.call('TYPE', KEYS[1])";
    let no_writes = "#!lua flags=no-writes\nreturn redis.call('TTL', ARGV[1])";
    vec![
        args!["EVAL_RO", exists, 0, key],
        args!["EVAL_RO", declared, 1, key],
        args!["EVAL", no_writes, 0, key],
        args!["FCALL_RO", "exists", 0, key],
        args!["FCALL", "exists", 0, key],
        args!["MULTI"],
        args!["EXISTS", key],
        args!["EVAL_RO", exists, 0, key],
        args!["EXEC"],
        args!["EXISTS", key],
        args!["GET", key],
        args!["MGET", key, "other"],
        args!["DUMP", key],
        args!["CACHE.GET", key],
        args!["SORT_RO", key],
    ]
}

fn no_error(replies: &[Reply]) {
    for reply in replies {
        assert!(!reply.is_error(), "{replies:?}");
    }
}

#[test]
fn reads_of_gone_keys_propagate_nothing_during_a_pause() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .module_args(&LAZY)
            .arg("--appendonly", "yes")
            .start();
        let mut client = server.raw();
        let mut stream = ReplicationStream::attach(&server);
        call!(client, "FUNCTION", "LOAD", LIBRARY);
        for mode in ["WRITE", "ALL"] {
            fill(&mut client, "key", 500, "gone");
            stream.commands(&server);
            let mut commands = vec![
                args!["CACHE.INVALIDATE", "gone"],
                args!["CLIENT", "PAUSE", 20_000, "WRITE"],
            ];
            for n in 0..20 {
                commands.extend(readers(&format!("key{n}")));
            }
            if mode == "ALL" {
                // All of the readers wait for the end of the pause, and pass the filter before that.
                commands[1] = args!["CLIENT", "PAUSE", 20, "ALL"];
            }
            let replies = client.pipeline(&commands);
            assert_eq!(replies[0], Reply::Int(500));
            no_error(&replies);
            call!(client, "CLIENT", "UNPAUSE");
            assert_eq!(
                stream
                    .commands(&server)
                    .iter()
                    .map(words)
                    .collect::<Vec<_>>(),
                [["cache.invalidate", "gone"]],
                "pause {mode}"
            );
            wait_reclaimed(&mut client);
        }
        assert_index_agrees(&server, &[0], &[b"gone"]);
    });
}

#[test]
fn reads_of_gone_keys_propagate_nothing_before_a_failover() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).module_args(&LAZY).start();
        let replica = Server::builder()
            .engine(engine)
            .module_args(&LAZY)
            .replica_of(&primary)
            .start();
        let mut client = primary.raw();
        call!(client, "FUNCTION", "LOAD", LIBRARY);
        fill(&mut client, "key", 500, "gone");
        wait_synchronised(&primary, &replica);
        // While it is stopped, the replica cannot catch up, and the failover waits for it.
        replica.pause();
        let mut commands = vec![args!["CACHE.INVALIDATE", "gone"], args!["FAILOVER"]];
        for n in 0..20 {
            commands.extend(readers(&format!("key{n}")));
        }
        no_error(&client.pipeline(&commands));
        assert_ne!(
            info_text(&mut client, "master_failover_state"),
            "no-failover"
        );
        call!(client, "FAILOVER", "ABORT");
        replica.resume();
        assert_same(&primary, &replica, &[0]);
    });
}

#[test]
fn reads_on_a_replica_write_nothing_to_its_log() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let replica = Server::builder()
            .engine(engine)
            .module_args(&LAZY)
            .arg("--appendonly", "yes")
            .replica_of(&primary)
            .start();
        let (mut client, mut reader) = (primary.raw(), replica.raw());
        call!(client, "FUNCTION", "LOAD", LIBRARY);
        fill(&mut client, "key", 30_000, "gone");
        wait_synchronised(&primary, &replica);
        assert_eq!(
            call!(client, "CACHE.INVALIDATE", "gone"),
            Reply::Int(30_000)
        );
        wait_until("the replica has invalidated", DEADLINE, || {
            stat(&mut reader, "clock") == 1
        });
        // The keys that are reclaimed last.
        let commands: Vec<_> = (29_900..30_000)
            .flat_map(|n| readers(&format!("key{n}")))
            .collect();
        no_error(&reader.pipeline(&commands));
        assert!(
            stat(&mut reader, "reclaim_backlog") > 0,
            "reclaimed too early"
        );
        wait_reclaimed(&mut reader);
        call!(client, "SET", "last", "v");
        wait_synchronised(&primary, &replica);
        let names = || -> BTreeSet<String> {
            let logged = aof_commands(replica.dir(), ".incr.aof");
            logged
                .iter()
                .map(|command| words(command)[0].clone())
                .collect()
        };
        wait_until("the log has the last write", DEADLINE, || {
            names().contains("set")
        });
        assert!(!names().contains("cache.replay"), "{:?}", names());
        assert_same(&primary, &replica, &[0]);
    });
}

/// Commands that waited for the end of a pause pass the filter before they wait, on servers since 7.2.
#[test]
fn writes_delayed_by_a_pause_have_the_same_effect_on_replicas() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).module_args(&LAZY).start();
        let replica = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "100000"])
            .replica_of(&primary)
            .start();
        let mut client = primary.raw();
        for command in [
            &["SET", "key0", "v", "XX"][..],
            &["SET", "key0", "v", "KEEPTTL"],
            &["SETNX", "key0", "v"],
            &["RENAME", "key0", "renamed"],
            &["MOVE", "key0", "1"],
            &["COPY", "live0", "key0"],
            &[
                "EVAL",
                "return redis.pcall('SET', KEYS[1], 'v', 'XX')",
                "1",
                "key0",
            ],
        ] {
            println!("{command:?}");
            call!(client, "FLUSHALL");
            fill(&mut client, "key", 500, "gone");
            fill(&mut client, "live", 1, "kept");
            call!(client, "CACHE.TOUCH", "key0", "EX", 10_000);
            wait_synchronised(&primary, &replica);
            call!(client, "CLIENT", "PAUSE", 60_000, "WRITE");
            let (mut first, mut second) = (primary.raw(), primary.raw());
            first.send(&["CACHE.INVALIDATE", "gone"]);
            wait_for_paused_clients(&mut client, 1);
            second.send(command);
            wait_for_paused_clients(&mut client, 2);
            call!(client, "CLIENT", "UNPAUSE");
            assert_eq!(first.read(), Reply::Int(500));
            second.read();
            assert_same(&primary, &replica, &[0, 1]);
            assert_index_agrees(&primary, &[0, 1], &[b"gone"]);
        }
    });
}

fn wait_for_paused_clients(client: &mut RawClient, count: i64) {
    wait_until("clients wait for the end of the pause", DEADLINE, || {
        info(client, "blocked_clients") == count
    });
}

/// The filter meets an expired key while memory is short enough for the server to evict.
#[test]
fn nodes_agree_on_expired_keys_while_memory_is_short() {
    for_all_engines(|engine| {
        let (primary, replica) = short_of_memory(engine);
        let mut client = primary.raw();
        for n in 0..200 {
            call!(client, "SET", format!("string{n}"), [7; 1000]);
        }
        fill(&mut client, "live", 1000, "kept");
        for round in 0..20 {
            call!(client, "CONFIG", "SET", "maxmemory", 0);
            fill(&mut client, "key", 300, "gone");
            let brief: Vec<_> = (0..20)
                .flat_map(|n| {
                    [
                        args!["SET", format!("brief{n}"), "v", "PX", 1],
                        args![
                            "CACHE.SET",
                            format!("entry{n}"),
                            "v",
                            "PX",
                            1,
                            "TAGS",
                            1,
                            "gone"
                        ],
                    ]
                })
                .collect();
            let mut commands = brief;
            commands.push(args!["CACHE.INVALIDATE", "gone"]);
            commands.push(args!["DEBUG", "SLEEP", "0.003"]);
            let used = info(&mut client, "used_memory") - 100 * 1024;
            commands.push(args!["CONFIG", "SET", "maxmemory", used]);
            for n in 0..20 {
                for name in ["brief", "entry"] {
                    let key = format!("{name}{n}");
                    commands.push(args!["GET", key]);
                    commands.push(args!["SET", format!("new{round}"), "v"]);
                    commands.push(args![
                        "EVAL_RO",
                        "return redis.call('EXISTS', ARGV[1])",
                        0,
                        key
                    ]);
                }
            }
            client.pipeline(&commands);
        }
        call!(client, "CONFIG", "SET", "maxmemory", 0);
        call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 1);
        assert_same(&primary, &replica, &[0]);
    });
}

fn short_of_memory(engine: &Engine) -> (Server, Server) {
    let primary = Server::builder()
        .engine(engine)
        .module_args(&LAZY)
        .arg("--appendonly", "yes")
        .arg("--maxmemory-policy", "allkeys-random")
        .start();
    let replica = Server::builder()
        .engine(engine)
        .module_args(&LAZY)
        .replica_of(&primary)
        .start();
    wait_synchronised(&primary, &replica);
    let mut client = primary.raw();
    call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 0);
    (primary, replica)
}

/// An operator sees nothing of it either.
#[test]
fn the_filter_leaves_no_trace_in_figures_slowlog_and_monitor() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).module_args(&LAZY).start();
        let mut client = server.raw();
        fill(&mut client, "key", 500, "gone");
        call!(client, "SET", "string", "v");
        let mut monitor = server.raw();
        call!(monitor, "MONITOR");
        let replies = client.pipeline(&[
            args!["CONFIG", "SET", "slowlog-log-slower-than", 0],
            args!["CONFIG", "RESETSTAT"],
            args!["CACHE.INVALIDATE", "gone"],
            args!["GET", "string"],
            args!["HGET", "key0", "field"],
            args!["EXISTS", "key1", "key2", "missing"],
            args!["RENAME", "string", "key3"],
            args!["SINTERSTORE", "key4", "key5", "key6"],
            args!["EVAL", "return redis.call('GET', KEYS[1])", 1, "key7"],
            args!["CACHE.STATS"],
        ]);
        no_error(&replies);
        assert!(replies[4].is_null(), "{replies:?}");
        assert!(replies[8].is_null(), "the key of a script: {replies:?}");
        assert!(replies[9].field("reclaim_backlog").int() > 0);
        wait_reclaimed(&mut client);
        // GET and EXISTS find three keys. HGET, EXISTS, GET in the script and the two sources find none.
        assert_eq!(info(&mut client, "keyspace_hits"), 3);
        assert_eq!(info(&mut client, "keyspace_misses"), 5);
        let statistics = call!(client, "INFO", "commandstats").text();
        for line in statistics
            .lines()
            .filter(|line| line.starts_with("cmdstat_"))
        {
            let name = &line["cmdstat_".len()..line.find(':').expect("a line of statistics")];
            let known = [
                "config|set",
                "config|resetstat",
                "cache.invalidate",
                "get",
                "hget",
                "exists",
                "rename",
                "sinterstore",
                "eval",
                "cache.stats",
                "info",
                // About CLIENT NO-TOUCH, on Redis before 8.6 and Valkey before 9.
                "client|list",
            ];
            assert!(known.contains(&name), "{line}");
        }
        let slow = call!(client, "SLOWLOG", "GET", -1);
        for entry in slow.items() {
            let command = entry.items()[3].items()[0].text().to_lowercase();
            assert!(
                !command.contains("reclaim") && command != "del",
                "{command}"
            );
        }
        call!(client, "ECHO", "the last line");
        loop {
            let line = monitor.read().text();
            assert!(!line.to_lowercase().contains("reclaim\""), "{line}");
            if line.contains("the last line") {
                break;
            }
        }
    });
}
