//! Arguments that only a hostile client sends.

use tagcache_tests::fuzz::Budget;
use tagcache_tests::look::{Snapshot, assert_index_agrees, inspect, tagscan};
use tagcache_tests::{RawClient, Reply, Rng, args, call, on_both_protocols, run, send};

const MB: usize = 1 << 20;

#[test]
fn a_tag_of_10_mb_changes_nothing_in_any_command() {
    on_both_protocols(|server, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        let tag = vec![b't'; 10 * MB];
        let before = Snapshot::take(server, &[0], &[]);
        assert!(call!(client, "CACHE.SET", "key", "w", "TAGS", 1, tag).is_error());
        let info = call!(client, "CACHE.TAGINFO", tag);
        assert!(info.is_error() || info.is_null(), "{info:?}");
        let scan = call!(client, "CACHE.TAGSCAN", tag, 0);
        assert!(
            scan.is_error() || scan.items()[1].items().is_empty(),
            "{scan:?}"
        );
        assert_eq!(Snapshot::take(server, &[0], &[]), before);
        let dropped = call!(client, "CACHE.INVALIDATE", tag, "a");
        assert!(
            dropped.is_error() || dropped == Reply::Int(1),
            "{dropped:?}"
        );
        assert_index_agrees(server, &[0], &[b"a"]);
    });
}

#[test]
fn a_key_of_any_bytes_can_be_leased_and_waited_for() {
    on_both_protocols(|server, client| {
        let all: Vec<u8> = (0..=255).collect();
        let keys: [&[u8]; 5] = [b"", b"\0", b"\r\n", &all, &vec![b'k'; 100_000]];
        for key in keys {
            let miss = call!(client, "CACHE.FETCH", key, "LEASE", 60_000);
            let token = miss.items()[3].int();
            assert!(token > 0);
            let mut waiter = server.raw();
            send!(waiter, "CACHE.FETCH", key, "LEASE", 5, "WAIT", 600_000);
            tagcache_tests::fetch::wait_for_waiters(client, 1);
            let set = call!(
                client,
                "CACHE.SET",
                key,
                all,
                "LEASE",
                token,
                "TAGS",
                1,
                all
            );
            assert_eq!(set, Reply::ok());
            let hit = waiter.read();
            assert_eq!(hit.items()[1], Reply::bulk(&all));
            assert_eq!(hit.items()[4], Reply::Array(vec![Reply::bulk(&all)]));
        }
        assert_index_agrees(server, &[0], &[]);
    });
}

#[test]
fn extreme_numbers_are_refused_or_accepted_without_harm() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key v GRACE 1000 TAGS 1 a");
        for number in [
            "0",
            "-1",
            "1",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "4611686018427387904",
            "140737488355328",
            "281474976710656",
            "99999999999999999999",
        ] {
            for command in [
                &["CACHE.FETCH", "key", "LEASE", number][..],
                &["CACHE.FETCH", "absent", "LEASE", number],
                &["CACHE.RELEASE", "absent", number],
                &["CACHE.SET", "other", "v", "LEASE", number],
                &["CACHE.SET", "other", "v", "GRACE", number],
                &["CACHE.SET", "other", "v", "EX", "5", "GRACE", number],
                &["CACHE.SET", "other", "v", "PX", number, "GRACE", number],
                &["CACHE.TOUCH", "other", "PX", number, "GRACE", number],
                &["CACHE.TOUCH", "other", "PERSIST", "GRACE", number],
                &["CACHE.HITS", "key", number],
                &["CACHE.TOP", number],
                &["CACHE.TAGTOP", "LIMIT", number],
                &["CACHE.INVALIDATEWHERE", "ALL", number, "x", "DRYRUN"],
                &["CACHE.FETCH", "key", "WITHTAGS", number, "x"],
                &["CACHE.FETCH", "absent", "LEASE", "5", "TOKEN", number],
                &["CACHE.SET", "other", "v", "TAGS", number, "x"],
                &["CACHE.MSET", number, "other", "v"],
                &["COMMAND", "GETKEYS", "CACHE.MSET", number, "other", "v"],
                &["CACHE.RETAG", "other", "TAGS", number, "x"],
                &["CACHE.HOLD", number, "held"],
                &["CACHE.TAGSCAN", "a", number],
                &["CACHE.TAGSCAN", "a", "0", "COUNT", number],
            ] {
                let reply = client.call(command);
                assert!(
                    reply.error().is_none_or(known_prefix),
                    "{command:?}: {reply:?}"
                );
            }
            assert_index_agrees(server, &[0], &[b"a", b"x"]);
        }
        assert!(server.raw().call(&["PING"]) == Reply::Simple("PONG".to_owned()));
    });
}

#[test]
fn an_option_with_trailing_bytes_is_a_syntax_error() {
    on_both_protocols(|_, client| {
        for more in ["\0", " ", "\0\0", "  ", "x"] {
            for (word, rest) in [
                ("EX", &["5"][..]),
                ("PXAT", &["9999999999999"]),
                ("GRACE", &["5"]),
                ("NX", &[]),
                ("TAGS", &["1", "t"]),
                ("KEEPTTL", &[]),
            ] {
                let word = format!("{word}{more}");
                let command = [&["CACHE.SET", "key", "v", &word], rest].concat();
                let reply = client.call(&command);
                assert_eq!(reply.error(), Some("ERR syntax error"), "{command:?}");
            }
        }
    });
}

#[test]
fn an_empty_tag_matches_no_entry() {
    on_both_protocols(|server, client| {
        call!(client, "CACHE.SET", "key", "v");
        assert!(call!(client, "CACHE.SET", "key", "w", "TAGS", 1, "").is_error());
        for tags in [
            &[""][..],
            &["", "a"],
            &["", "a", "b"],
            &["", "5", "b"],
            &["", "@", "b"],
        ] {
            for command in ["CACHE.INVALIDATE", "CACHE.REVALIDATE"] {
                let reply = client.call(&[&[command], tags].concat());
                let error = reply.error().unwrap_or_default();
                // The limit for tags that are not stored is not a setting.
                assert_eq!(
                    error, "ERR tag is empty, a tag has 1 to 65536 bytes",
                    "{command} {tags:?}: {reply:?}"
                );
            }
            let hold = client.call(&[&["CACHE.HOLD"], tags].concat());
            assert!(hold.is_error(), "{tags:?}: {hold:?}");
        }
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
        assert_index_agrees(server, &[0], &[]);
    });
}

#[test]
fn a_value_of_10_mb_is_returned_and_accounted_for() {
    on_both_protocols(|server, client| {
        let value = Rng::new(1).bytes(10 * MB);
        for key in ["one", "two"] {
            assert_eq!(
                call!(client, "CACHE.SET", key, value, "TAGS", 1, "large"),
                Reply::ok()
            );
        }
        assert_eq!(call!(client, "CACHE.GET", "two"), Reply::bulk(&value));
        assert_eq!(inspect(client, "one").unwrap().bytes, 10 * MB as i64);
        assert!(call!(client, "CACHE.TAGINFO", "large").field("bytes").int() >= 20 * MB as i64);
        let payload = call!(client, "DUMP", "one").bytes().to_vec();
        assert_eq!(call!(client, "RESTORE", "three", 0, payload), Reply::ok());
        assert_eq!(call!(client, "CACHE.GET", "three"), Reply::bulk(&value));
        assert_eq!(call!(client, "CACHE.INVALIDATE", "large"), Reply::Int(3));
        assert_index_agrees(server, &[0], &[b"large"]);
    });
}

#[test]
fn a_key_of_any_bytes_works_in_every_command() {
    on_both_protocols(|server, client| {
        let all: Vec<u8> = (0..=255).collect();
        let keys: [&[u8]; 6] = [b"", b"\0", b"\r\n", b"\xc3\x28", &all, &vec![b'k'; 100_000]];
        for key in keys {
            assert_eq!(
                call!(client, "CACHE.SET", key, "v", "EX", 100, "TAGS", 1, "a"),
                Reply::ok()
            );
            assert_eq!(call!(client, "CACHE.GET", key), Reply::bulk("v"));
            assert_eq!(
                call!(client, "CACHE.MGET", key, "absent").items()[0],
                Reply::bulk("v")
            );
            assert_eq!(call!(client, "CACHE.TOUCH", key, "PERSIST"), Reply::Int(1));
            assert_eq!(call!(client, "CACHE.HITS", key, 3), Reply::Int(1));
            let fetched = call!(client, "CACHE.FETCH", key, "LEASE", 5, "WAIT", 5);
            assert_eq!(fetched.items()[1], Reply::bulk("v"));
            assert_eq!(call!(client, "CACHE.RELEASE", key, 5), Reply::Int(0));
            assert_eq!(inspect(client, key).unwrap().tags, [b"a"]);
        }
        let found: Vec<_> = tagscan(client, b"a", 3).into_iter().collect();
        let mut expected = keys.map(<[u8]>::to_vec).to_vec();
        expected.sort();
        assert_eq!(found, expected);
        assert_index_agrees(server, &[0], &[]);
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        assert_eq!(tagscan(client, b"a", 3).len(), keys.len());
        assert_eq!(call!(client, "CACHE.DEL", ""), Reply::Int(1));
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(5));
        assert_index_agrees(server, &[0], &[b"a"]);
    });
}

#[test]
fn binary_tags_survive_copy_and_reload() {
    on_both_protocols(|server, client| {
        let mut rng = Rng::from_env(3);
        let tags: Vec<Vec<u8>> = (1..100).map(|len| rng.bytes(len * 5)).collect();
        let mut set = args!["CACHE.SET", "key", "v", "TAGS", tags.len()];
        set.extend(tags.iter().cloned());
        assert_eq!(client.call(&set), Reply::ok());
        assert_eq!(call!(client, "COPY", "key", "copy"), Reply::Int(1));
        assert_eq!(call!(client, "DEBUG", "RELOAD"), Reply::ok());
        for key in ["key", "copy"] {
            assert_eq!(inspect(client, key).unwrap().tags, tags);
        }
        assert_index_agrees(server, &[0], &[]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", tags[50]), Reply::Int(2));
        assert_index_agrees(server, &[0], &[]);
    });
}

#[test]
fn commands_with_100_000_arguments_get_a_reply() {
    on_both_protocols(|server, client| {
        call!(client, "CACHE.SET", "key99999", "v", "TAGS", 1, "tag99999");
        let many = |command: &str, word: &str| {
            let mut command = args![command];
            command.extend((0..100_000).map(|n| format!("{word}{n}").into_bytes()));
            command
        };
        assert_eq!(
            client.call(&many("CACHE.MGET", "key")).items().len(),
            100_000
        );
        assert_eq!(
            client.call(&many("CACHE.REVALIDATE", "none")),
            Reply::Int(0)
        );
        assert_eq!(client.call(&many("CACHE.INVALIDATE", "tag")), Reply::Int(1));
        let mut hits = args!["CACHE.HITS"];
        hits.extend((0..50_000).flat_map(|n| args![format!("key{n}"), 1]));
        assert_eq!(client.call(&hits), Reply::Int(0));
        let mut by_any = args!["CACHE.INVALIDATEWHERE", "ANY", 100_000];
        by_any.extend((0..100_000).map(|n| format!("t{n}").into_bytes()));
        let reply = client.call(&by_any);
        assert!(reply.is_error() || reply == Reply::Int(0), "{reply:?}");
        assert_eq!(client.call(&many("CACHE.DEL", "key")), Reply::Int(0));
        let mut set = args!["CACHE.SET", "key", "v", "TAGS", 100_000];
        set.extend((0..100_000).map(|n| format!("t{n}").into_bytes()));
        assert!(client.call(&set).is_error());
        assert_index_agrees(server, &[0], &[b"tag99999", b"t5"]);
    });
}

#[test]
fn an_error_in_a_script_stays_within_the_script() {
    on_both_protocols(|_, client| {
        call!(client, "SET", "string", "v");
        call!(client, "CACHE.SET", "key", "v");
        let script = "local r = redis.pcall('CACHE.SET', KEYS[1], 'w', 'EX', '0'); return r.err";
        let error = call!(client, "EVAL", script, 1, "key").text();
        assert!(
            error.starts_with("ERR invalid expire time in 'cache.set' command"),
            "{error}"
        );
        let error = call!(
            client,
            "EVAL",
            "return redis.call('CACHE.GET', KEYS[1])",
            1,
            "string"
        );
        assert!(
            error.error().is_some_and(|e| e.starts_with("WRONGTYPE ")),
            "{error:?}"
        );
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

/// Random words in random order, from a vocabulary that gets far into every parser.
fn any_command(rng: &mut Rng) -> Vec<Vec<u8>> {
    const COMMANDS: [&str; 31] = [
        "CACHE.SET",
        "CACHE.GET",
        "CACHE.MGET",
        "CACHE.DEL",
        "CACHE.TOUCH",
        "CACHE.INVALIDATE",
        "CACHE.FLUSH",
        "CACHE.INSPECT",
        "CACHE.TAGINFO",
        "CACHE.TAGSCAN",
        "CACHE.STATS",
        "CACHE.SET",
        "CACHE.FETCH",
        "CACHE.FETCH",
        "CACHE.RELEASE",
        "CACHE.REVALIDATE",
        "CACHE.INVALIDATEWHERE",
        "CACHE.INVALIDATEWHERE",
        "CACHE.TOP",
        "CACHE.HITS",
        "CACHE.TAGTOP",
        "CACHE.RESETSTATS",
        "CACHE.RECLAIM",
        "CACHE.REPLAY",
        "CACHE.MSET",
        "CACHE.MFETCH",
        "CACHE.EXISTS",
        "CACHE.GETDEL",
        "CACHE.RETAG",
        "CACHE.HOLD",
        "CACHE.TAGTIMES",
    ];
    const WORDS: [&str; 44] = [
        "EX",
        "PX",
        "EXAT",
        "PXAT",
        "KEEPTTL",
        "NX",
        "XX",
        "TAGS",
        "GRACE",
        "LEASE",
        "COUNT",
        "PERSIST",
        "WAIT",
        "ALL",
        "ANY",
        "NONE",
        "SOFT",
        "DRYRUN",
        "BY",
        "BYTES",
        "LIMIT",
        "TOKEN",
        "EARLY",
        "RENEW",
        "WITHTAGS",
        "KEEPTAGS",
        "0",
        "1",
        "2",
        "3",
        "10",
        "-1",
        "100",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
        "1e3",
        "",
        "key1",
        "key2",
        "string",
        "list",
        "tag1",
        "\0\u{ff}",
    ];
    let mut command = args![rng.pick(&COMMANDS)];
    for _ in 0..rng.below(9) {
        command.push(rng.pick(&WORDS).as_bytes().to_vec());
    }
    command
}

#[test]
fn random_commands_leave_the_server_alive_and_the_index_exact() {
    on_both_protocols(|server, client| {
        let mut budget = Budget::new("commands", 20_000);
        call!(client, "SET", "string", "v");
        call!(client, "RPUSH", "list", "v");
        while budget.takes(1000) {
            let rng = &mut budget.rng;
            let commands: Vec<_> = (0..1000).map(|_| any_command(rng)).collect();
            let replies = client.pipeline(&commands);
            let refused = replies.iter().filter(|reply| reply.is_error()).count();
            assert!(refused > 100 && refused < 1000, "{refused} of 1000 refused");
            assert!(
                replies.iter().filter_map(Reply::error).all(known_prefix),
                "{replies:?}"
            );
            assert_index_agrees(server, &[0], &[b"tag1", b"key1", b"EX"]);
        }
        assert_eq!(call!(client, "GET", "string"), Reply::bulk("v"));
        assert_eq!(
            call!(client, "LRANGE", "list", 0, -1).items(),
            [Reply::bulk("v")]
        );
    });
}

fn known_prefix(error: &str) -> bool {
    let known = error.starts_with("ERR ") || error.starts_with("WRONGTYPE ");
    known && !error.contains("internal error")
}

#[test]
fn an_incomplete_command_changes_nothing() {
    on_both_protocols(|server, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        let before = Snapshot::take(server, &[0], &[]);
        for cut in [20, 30, 45, 60] {
            let whole =
                b"*5\r\n$9\r\nCACHE.SET\r\n$3\r\nkey\r\n$1\r\nw\r\n$4\r\nTAGS\r\n$10000000\r\n0";
            let mut other: RawClient = server.raw();
            other.send_bytes(&whole[..cut.min(whole.len())]);
            drop(other);
        }
        assert_eq!(Snapshot::take(server, &[0], &[]), before);
    });
}
