//! Servers' replies about each command: arity, keys, flags, tips, documentation; and redis-cli's output for entries.

use std::process::Command;

use tagcache_tests::{RawClient, Reply, Server, args, call, for_all_engines, for_each_engine, run};

/// Name, arity, and positions of keys (first, last, step).
type Known = (&'static str, i64, (i64, i64, i64));

const COMMANDS: [Known; 27] = [
    ("cache.set", -3, (1, 1, 1)),
    ("cache.mset", -4, (0, 0, 0)),
    ("cache.retag", -4, (1, 1, 1)),
    ("cache.getdel", 2, (1, 1, 1)),
    ("cache.exists", -2, (1, -1, 1)),
    ("cache.mfetch", -2, (1, -1, 1)),
    ("cache.hold", -3, (0, 0, 0)),
    ("cache.tagtimes", -2, (0, 0, 0)),
    ("cache.del", -2, (1, -1, 1)),
    ("cache.touch", -3, (1, 1, 1)),
    ("cache.get", 2, (1, 1, 1)),
    ("cache.mget", -2, (1, -1, 1)),
    ("cache.fetch", -2, (1, 1, 1)),
    ("cache.release", 3, (1, 1, 1)),
    ("cache.invalidate", -2, (0, 0, 0)),
    ("cache.revalidate", -2, (0, 0, 0)),
    ("cache.flush", -1, (0, 0, 0)),
    ("cache.clock", -1, (0, 0, 0)),
    ("cache.invalidatewhere", 0, (0, 0, 0)),
    ("cache.inspect", 2, (1, 1, 1)),
    ("cache.top", -1, (0, 0, 0)),
    ("cache.hits", -3, (1, -1, 2)),
    ("cache.taginfo", 2, (0, 0, 0)),
    ("cache.tagtop", -1, (0, 0, 0)),
    ("cache.tagscan", -3, (0, 0, 0)),
    ("cache.stats", 1, (0, 0, 0)),
    ("cache.resetstats", 1, (0, 0, 0)),
];

/// Commands that a cluster's client must send to every shard, adding up the replies.
const EVERY_SHARD: [&str; 4] = [
    "cache.invalidate",
    "cache.revalidate",
    "cache.invalidatewhere",
    "cache.flush",
];

fn info(client: &mut RawClient, name: &str) -> Vec<Reply> {
    let reply = call!(client, "COMMAND", "INFO", name);
    let Reply::Array(info) = &reply.items()[0] else {
        panic!("the server does not know {name}: {reply:?}")
    };
    info.clone()
}

fn texts(reply: &Reply) -> Vec<String> {
    reply.items().iter().map(Reply::text).collect()
}

#[test]
fn arity_and_key_positions_are_as_documented() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for (name, arity, keys) in COMMANDS {
            let info = info(&mut client, name);
            assert_eq!(info[0].text(), name);
            if arity != 0 {
                assert_eq!(info[1], Reply::Int(arity), "{name}");
            }
            let seen = (info[3].int(), info[4].int(), info[5].int());
            let none = keys == (0, 0, 0);
            assert!(
                seen == keys || none && (seen.0 == 0 || name == "cache.mset"),
                "{name}: {seen:?}"
            );
        }
    });
}

#[test]
fn flags_mark_reads_writes_and_commands_that_need_memory() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for (names, has, has_not) in [
            (
                &["cache.fetch"][..],
                &["readonly"][..],
                &["write", "denyoom"][..],
            ),
            (
                &["cache.revalidate", "cache.invalidatewhere"],
                &["write"],
                &["readonly", "denyoom"],
            ),
            (
                &["cache.tagtop", "cache.top"],
                &["admin"],
                &["write", "denyoom"],
            ),
            (&["cache.flush"], &["write", "admin"], &["denyoom"]),
            (&["cache.hits", "cache.release"], &[], &["denyoom"]),
        ] {
            for name in names {
                let flags = texts(&info(&mut client, name)[2]);
                for flag in has {
                    assert!(flags.iter().any(|f| f == flag), "{name}: {flags:?}");
                }
                for flag in has_not {
                    assert!(!flags.iter().any(|f| f == flag), "{name}: {flags:?}");
                }
            }
        }
    });
}

#[test]
fn tips_send_invalidations_to_all_shards_and_sum_replies() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for name in EVERY_SHARD {
            let tips = texts(&info(&mut client, name)[7]);
            for tip in ["request_policy:all_shards", "response_policy:agg_sum"] {
                assert!(tips.iter().any(|t| t == tip), "{name}: {tips:?}");
            }
        }
        for name in ["cache.set", "cache.get", "cache.fetch"] {
            let tips = texts(&info(&mut client, name)[7]);
            let routed = tips.iter().any(|tip| tip.starts_with("request_policy"));
            assert!(!routed, "{name} goes where its key is: {tips:?}");
        }
    });
}

#[test]
fn getkeys_finds_keys_and_never_tags_or_options() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let with_keys: [(&[&str], &[&str], &str); 13] = [
            (
                &[
                    "CACHE.SET",
                    "k",
                    "v",
                    "GRACE",
                    "5",
                    "LEASE",
                    "7",
                    "TAGS",
                    "2",
                    "a",
                    "b",
                ],
                &["k"],
                "write",
            ),
            (
                &["CACHE.SET", "TAGS", "TAGS", "TAGS", "1", "TAGS"],
                &["TAGS"],
                "write",
            ),
            (&["CACHE.GET", "k"], &["k"], "read"),
            (&["CACHE.MGET", "k", "l", "m"], &["k", "l", "m"], "read"),
            (&["CACHE.FETCH", "k"], &["k"], "read"),
            (
                &["CACHE.FETCH", "k", "LEASE", "5", "WAIT", "5"],
                &["k"],
                "read",
            ),
            (&["CACHE.RELEASE", "k", "7"], &["k"], ""),
            (&["CACHE.HITS", "k", "1"], &["k"], ""),
            (
                &["CACHE.HITS", "k", "1", "l", "2", "m", "3"],
                &["k", "l", "m"],
                "",
            ),
            (&["CACHE.INSPECT", "k"], &["k"], "read"),
            (&["CACHE.DEL", "k", "l"], &["k", "l"], "write"),
            (
                &["CACHE.TOUCH", "k", "EX", "5", "GRACE", "5"],
                &["k"],
                "write",
            ),
            (&["CACHE.TOUCH", "k", "PERSIST"], &["k"], "write"),
        ];
        for (command, keys, access) in with_keys {
            let found = client.call(&[&["COMMAND", "GETKEYS"], command].concat());
            assert_eq!(texts(&found), keys, "{command:?}");
            let flagged = client.call(&[&["COMMAND", "GETKEYSANDFLAGS"], command].concat());
            for (row, key) in flagged.items().iter().zip(keys) {
                assert_eq!(row.items()[0].text(), *key, "{command:?}");
                let flags = texts(&row.items()[1]);
                let reads_only = flags.iter().any(|flag| flag == "RO");
                let right = match access {
                    "read" => reads_only && flags.iter().any(|flag| flag == "access"),
                    "write" => !reads_only,
                    _ => true,
                };
                assert!(right, "{command:?}: {flags:?}");
            }
            assert_eq!(flagged.items().len(), keys.len(), "{command:?}");
        }
        let without: [&[&str]; 9] = [
            &["CACHE.INVALIDATE", "a", "b"],
            &["CACHE.REVALIDATE", "a", "b"],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", "a", "NONE", "1", "b"],
            &["CACHE.FLUSH"],
            &["CACHE.TOP", "5"],
            &["CACHE.TAGINFO", "a"],
            &["CACHE.TAGTOP", "BY", "BYTES"],
            &["CACHE.TAGSCAN", "a", "0"],
            &["CACHE.STATS"],
        ];
        for command in without {
            let found = client.call(&[&["COMMAND", "GETKEYS"], command].concat());
            assert!(
                found.is_error() || found.items().is_empty(),
                "{command:?}: {found:?}"
            );
        }
    });
}

/// Every name and token among the arguments of a command, however deep.
fn words_of_arguments(arguments: &Reply, words: &mut Vec<String>) {
    for argument in arguments.items() {
        for (name, value) in argument.pairs() {
            match name.as_str() {
                "name" | "token" => words.push(value.text().to_uppercase()),
                "arguments" => words_of_arguments(&value, words),
                _ => {}
            }
        }
    }
}

#[test]
fn each_command_is_documented_with_its_arguments() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for (name, _, _) in COMMANDS {
            let docs = call!(client, "COMMAND", "DOCS", name).field(name);
            for field in ["summary", "since", "complexity"] {
                assert!(!docs.field(field).text().is_empty(), "{name}: {field}");
            }
            assert_eq!(docs.field("group").text(), "module", "{name}");
            let expected: &[&str] = match name {
                "cache.set" => &[
                    "KEY", "VALUE", "EX", "PX", "EXAT", "PXAT", "KEEPTTL", "GRACE", "NX", "XX",
                    "LEASE", "TAGS",
                ],
                "cache.touch" => &["KEY", "EX", "PX", "EXAT", "PXAT", "PERSIST", "GRACE"],
                "cache.fetch" => &["KEY", "LEASE", "WAIT"],
                "cache.release" => &["KEY", "TOKEN"],
                "cache.get" | "cache.mget" | "cache.del" | "cache.inspect" | "cache.hits" => {
                    &["KEY"]
                }
                "cache.invalidate" | "cache.revalidate" | "cache.taginfo" => &["TAG"],
                "cache.invalidatewhere" => &["ALL", "ANY", "NONE", "SOFT", "DRYRUN"],
                "cache.tagscan" => &["TAG", "CURSOR", "COUNT"],
                "cache.tagtop" => &["BY", "ENTRIES", "BYTES", "LIMIT"],
                _ => &[],
            };
            if expected.is_empty() {
                continue;
            }
            let mut words = Vec::new();
            words_of_arguments(&docs.field("arguments"), &mut words);
            for word in expected {
                assert!(
                    words.iter().any(|w| w == word),
                    "{name}: no {word} among {words:?}"
                );
            }
        }
    });
}

#[test]
fn every_command_of_the_module_is_known_to_this_suite() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let listed = call!(client, "COMMAND", "LIST", "FILTERBY", "MODULE", "tagcache");
        let mut listed = texts(&listed);
        // Internal commands are no part of the contract; the reference describes them.
        listed.retain(|name| !["cache.reclaim", "cache.replay"].contains(&name.as_str()));
        listed.sort();
        let mut known: Vec<_> = COMMANDS.iter().map(|known| known.0.to_owned()).collect();
        known.sort();
        assert_eq!(listed, known);
    });
}

fn redis_cli(server: &Server, option: &str) -> String {
    let port = server.port().to_string();
    let output = Command::new("redis-cli")
        .args(["-p", &port, option])
        .output()
        .expect("redis-cli comes with the server");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "redis-cli {option}: {text}\n{errors}"
    );
    for word in ["ERR", "WRONGTYPE", "rror"] {
        assert!(!text.contains(word), "redis-cli {option}: {text}");
    }
    text
}

#[test]
fn redis_cli_bigkeys_and_hotkeys_work_with_entries() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--maxmemory-policy", "allkeys-lfu")
            .start();
        let mut client = server.raw();
        for n in 0..500 {
            let set = args![
                "CACHE.SET",
                format!("key{n}"),
                vec![b'v'; n * 10],
                "TAGS",
                1,
                "a"
            ];
            assert_eq!(client.call(&set), Reply::ok());
        }
        call!(client, "SET", "string", "v");
        for _ in 0..2000 {
            call!(client, "CACHE.GET", "key499");
        }
        run!(client, "CACHE.SET stale v GRACE 100000 TAGS 1 s");
        call!(client, "CACHE.REVALIDATE", "s");
        let big = redis_cli(&server, "--bigkeys");
        assert!(big.contains("Sampled 502 keys"), "{big}");
        let memory = redis_cli(&server, "--memkeys");
        assert!(memory.contains("501 tagcache1s with"), "{memory}");
        let hot = redis_cli(&server, "--hotkeys");
        assert!(hot.contains("key499"), "the one most read: {hot}");
    });
}
