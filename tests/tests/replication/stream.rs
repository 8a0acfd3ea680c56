//! Replicas receive the effects, in no more commands than were executed.

use tagcache_tests::look::{info, wait_reclaimed};
use tagcache_tests::stream::{ReplicationStream, words};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, args, call, for_all_engines, for_each_engine,
    wait_until,
};

use crate::fill;

fn listening(engine: &Engine, module_args: &[&str]) -> (Server, RawClient, ReplicationStream) {
    let server = Server::builder()
        .engine(engine)
        .module_args(module_args)
        .arg("--repl-diskless-sync", "no")
        .start();
    let client = server.raw();
    let stream = ReplicationStream::attach(&server);
    (server, client, stream)
}

fn seen(stream: &mut ReplicationStream, server: &Server) -> Vec<Vec<String>> {
    stream.commands(server).iter().map(words).collect()
}

#[test]
fn one_invalidation_is_replicated_once_and_reclaiming_is_not() {
    for_all_engines(|engine| {
        let (server, mut client, mut stream) = listening(engine, &[]);
        for (size, tag) in [(1, "one"), (100, "small"), (5000, "large")] {
            fill(&mut client, "key", size, tag);
            assert_eq!(seen(&mut stream, &server).len(), size);
            assert_eq!(
                call!(client, "CACHE.INVALIDATE", tag),
                Reply::Int(size as i64)
            );
            wait_reclaimed(&mut client);
            assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
            assert_eq!(seen(&mut stream, &server), [["cache.invalidate", tag]]);
        }
        call!(client, "CACHE.INVALIDATE", "unknown", "none");
        assert_eq!(
            seen(&mut stream, &server),
            [["cache.invalidate", "unknown", "none"]]
        );
    });
}

#[test]
fn soft_and_conditional_invalidations_are_one_command_each() {
    for_all_engines(|engine| {
        let (server, mut client, mut stream) = listening(engine, &[]);
        let set = |n: i32| {
            let grace = if n % 2 == 0 { 0 } else { 1_000_000_000 };
            args![
                "CACHE.SET",
                format!("key{n}"),
                n,
                "GRACE",
                grace,
                "TAGS",
                2,
                "a",
                "all"
            ]
        };
        for command in [
            &["CACHE.REVALIDATE", "a"][..],
            &["CACHE.INVALIDATEWHERE", "ALL", "2", "a", "all"],
            &["CACHE.INVALIDATEWHERE", "NONE", "1", "x", "SOFT"],
        ] {
            client.pipeline(&(0..3000).map(set).collect::<Vec<_>>());
            seen(&mut stream, &server);
            assert_eq!(client.call(command), Reply::Int(3000), "{command:?}");
            wait_reclaimed(&mut client);
            let seen = seen(&mut stream, &server);
            assert_eq!(seen.len(), 1, "{command:?}: {seen:?}");
            call!(client, "CACHE.FLUSH");
        }
    });
}

#[test]
fn grace_is_replicated_with_absolute_times() {
    for_each_engine(|engine| {
        let (server, mut client, mut stream) = listening(engine, &["default-ttl-ms", "50000"]);
        let now = call!(client, "TIME").items()[0].int() * 1000;
        for (options, ttl) in [
            (&["EX", "100", "GRACE", "7000"][..], 100_000),
            (&["GRACE", "7000"], 50_000),
            (&["KEEPTTL", "GRACE", "7000"], 50_000),
        ] {
            let set = [&["CACHE.SET", "key", "v"], options].concat();
            assert_eq!(client.call(&set), Reply::ok());
            let seen = seen(&mut stream, &server);
            assert_eq!(seen.len(), 1, "{options:?}: {seen:?}");
            let at = seen[0].iter().position(|word| word == "GRACE");
            let at = at.unwrap_or_else(|| panic!("no grace: {seen:?}"));
            assert_eq!(seen[0][at + 1], "7000", "{options:?}");
            let logical = absolute_ms(&seen[0]).unwrap_or_else(|| panic!("{seen:?}"));
            assert!(
                (now + ttl - 20_000..now + ttl + 60_000).contains(&logical),
                "{options:?}: {logical}"
            );
            assert_explicit(&seen[0][3..]);
        }
        call!(client, "CACHE.TOUCH", "key", "EX", 200, "GRACE", 9000);
        let touch = seen(&mut stream, &server);
        assert_eq!(touch.len(), 1);
        assert!(absolute_ms(&touch[0]).is_some(), "{touch:?}");
        assert!(touch[0].contains(&"9000".to_owned()), "{touch:?}");
    });
}

#[test]
fn one_flush_is_replicated_as_one_command() {
    for_each_engine(|engine| {
        let (server, mut client, mut stream) = listening(engine, &[]);
        for size in [10, 3000] {
            fill(&mut client, "key", size, "a");
            seen(&mut stream, &server);
            assert_eq!(call!(client, "CACHE.FLUSH"), Reply::Int(size as i64));
            wait_reclaimed(&mut client);
            assert_eq!(seen(&mut stream, &server), [["cache.flush"]]);
        }
    });
}

#[test]
fn writers_that_help_reclaiming_replicate_only_their_own_write() {
    for_each_engine(|engine| {
        let (server, mut client, mut stream) = listening(engine, &["reclaim-inline", "0"]);
        fill(&mut client, "key", 3000, "a");
        seen(&mut stream, &server);
        let mut commands = vec![args!["CACHE.INVALIDATE", "a"]];
        commands.extend((0..100).map(|n| args!["CACHE.SET", format!("new{n}"), n]));
        commands.push(args!["SETNX", "key5", "native"]);
        commands.push(args!["DEL", "key6"]);
        client.pipeline(&commands);
        wait_reclaimed(&mut client);
        let seen = seen(&mut stream, &server);
        assert_eq!(seen[0], ["cache.invalidate", "a"]);
        assert!(
            seen[1..101].iter().all(|command| command[0] == "cache.set"),
            "{seen:?}"
        );
        // The DEL may or may not still find the gone key; it must remove nothing else.
        for command in &seen[101..] {
            let allowed = [
                &["setnx", "key5", "native"][..],
                &["set", "key5", "native"],
                &["del", "key6"],
            ];
            assert!(
                allowed.iter().any(|allowed| command == allowed),
                "{command:?}"
            );
        }
        assert_eq!(call!(client, "GET", "key5"), Reply::bulk("native"));
    });
}

/// The absolute time among the words, in milliseconds.
fn absolute_ms(command: &[String]) -> Option<i64> {
    let after = |option: &str| -> Option<i64> {
        let at = command
            .iter()
            .position(|word| word.eq_ignore_ascii_case(option))?;
        command.get(at + 1)?.parse().ok()
    };
    after("PXAT").or_else(|| Some(after("EXAT")? * 1000))
}

fn assert_explicit(command: &[String]) {
    for word in ["EX", "PX", "KEEPTTL", "NX", "XX"] {
        let found = command.iter().any(|w| w.eq_ignore_ascii_case(word));
        assert!(!found, "{word} is for the primary to decide: {command:?}");
    }
}

#[test]
fn set_is_replicated_with_absolute_time_without_conditions() {
    for_all_engines(|engine| {
        let (server, mut client, mut stream) = listening(engine, &["default-ttl-ms", "50000"]);
        let now = call!(client, "TIME").items()[0].int() * 1000;
        let sets: [(&[&str], Option<i64>); 8] = [
            (&["EX", "100"], Some(100_000)),
            (&["PX", "100000"], Some(100_000)),
            (&["EX", "100", "NX", "TAGS", "1", "a"], Some(100_000)),
            (&["PX", "100000", "XX"], Some(100_000)),
            (&["TAGS", "2", "b", "a", "KEEPTTL", "XX"], Some(100_000)),
            (&[], Some(50_000)),
            (&["TAGS", "1", "NX", "XX"], Some(50_000)),
            (&["EXAT", "99999999999"], None),
        ];
        for (options, ttl) in sets {
            if options.contains(&"NX") && !options.contains(&"TAGS")
                || options.first() == Some(&"EX")
            {
                call!(client, "DEL", "key");
                seen(&mut stream, &server);
            }
            let mut set = vec!["CACHE.SET", "key", "value"];
            set.extend_from_slice(options);
            assert_eq!(client.call(&set), Reply::ok(), "{options:?}");
            let seen = seen(&mut stream, &server);
            assert_eq!(seen.len(), 1, "{options:?}: {seen:?}");
            assert_eq!(seen[0][..3], ["cache.set", "key", "value"], "{options:?}");
            let at = absolute_ms(&seen[0]).unwrap_or_else(|| panic!("no absolute time: {seen:?}"));
            match ttl {
                Some(ttl) => assert!(
                    (now + ttl - 1000..now + ttl + 60_000).contains(&at),
                    "{options:?}: {at}"
                ),
                None => assert_eq!(at, 99_999_999_999_000),
            }
            let tags_at = seen[0].iter().position(|word| word == "TAGS");
            assert_eq!(tags_at.is_some(), options.contains(&"TAGS"), "{seen:?}");
            assert_explicit(&seen[0][3..tags_at.unwrap_or(seen[0].len())]);
        }
    });
}

#[test]
fn an_entry_without_a_ttl_gets_no_default_ttl_on_a_replica() {
    for_each_engine(|engine| {
        let primary = Server::builder().engine(engine).start();
        let replica = Server::builder()
            .engine(engine)
            .module_args(&["default-ttl-ms", "50000"])
            .replica_of(&primary)
            .start();
        tagcache_tests::state::wait_synchronised(&primary, &replica);
        call!(primary.raw(), "CACHE.SET", "key", "v", "TAGS", 1, "a");
        tagcache_tests::state::assert_same(&primary, &replica, &[0]);
        assert_eq!(call!(replica.raw(), "PTTL", "key"), Reply::Int(-1));
    });
}

#[test]
fn touch_and_del_replicate_their_effects() {
    for_each_engine(|engine| {
        let (server, mut client, mut stream) = listening(engine, &[]);
        for key in ["one", "two", "three"] {
            call!(client, "CACHE.SET", key, "v");
        }
        call!(client, "SELECT", 5);
        call!(client, "SELECT", 0);
        seen(&mut stream, &server);
        call!(client, "CACHE.TOUCH", "one", "EX", 100);
        let touch = seen(&mut stream, &server);
        assert_eq!((touch.len(), touch[0][1].as_str()), (1, "one"));
        let now = call!(client, "TIME").items()[0].int() * 1000;
        // CACHE.TOUCH … PXAT or PEXPIREAT: in either case an absolute time.
        let at = absolute_ms(&touch[0])
            .or_else(|| touch[0].last()?.parse().ok())
            .unwrap();
        assert!((now + 40_000..=now + 101_000).contains(&at), "{touch:?}");
        call!(client, "CACHE.TOUCH", "one", "PERSIST");
        assert_eq!(seen(&mut stream, &server).len(), 1);
        assert_eq!(
            call!(client, "CACHE.DEL", "one", "absent", "two"),
            Reply::Int(2)
        );
        let del = seen(&mut stream, &server);
        let keys: Vec<_> = del
            .iter()
            .flat_map(|command| command[1..].to_vec())
            .collect();
        assert!(
            keys.iter().any(|k| k == "one") && keys.iter().any(|k| k == "two"),
            "{del:?}"
        );
        assert!(!keys.iter().any(|k| k == "three"), "{del:?}");
    });
}

#[test]
fn commands_without_effect_are_not_replicated() {
    for_all_engines(|engine| {
        let (server, mut client, mut stream) = listening(engine, &[]);
        call!(client, "SET", "string", "v");
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        seen(&mut stream, &server);
        let offset = info(&mut client, "master_repl_offset");
        for command in [
            &["CACHE.SET", "key", "w", "NX"][..],
            &["CACHE.SET", "absent", "w", "XX"],
            &["CACHE.SET", "string", "w"],
            &["CACHE.SET", "key", "w", "EX", "0"],
            &["CACHE.SET", "key", "w", "TAGS", "1", ""],
            &["CACHE.DEL", "absent"],
            &["CACHE.DEL", "key", "string"],
            &["CACHE.TOUCH", "absent", "EX", "5"],
            &["CACHE.GET", "key"],
            &["CACHE.GET", "absent"],
            &["CACHE.MGET", "key", "absent"],
            &["CACHE.INSPECT", "key"],
            &["CACHE.TAGINFO", "a"],
            &["CACHE.TAGSCAN", "a", "0"],
            &["CACHE.STATS"],
            &["CACHE.RESETSTATS"],
            &["CACHE.FETCH", "key"],
            &["CACHE.FETCH", "absent", "LEASE", "1000"],
            &["CACHE.RELEASE", "absent", "1"],
            &["CACHE.SET", "key", "w", "LEASE", "1"],
            &["CACHE.HITS", "key", "5"],
            &["CACHE.TOP"],
            &["CACHE.TAGTOP"],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", "a", "DRYRUN"],
        ] {
            client.call(command);
        }
        let seen = seen(&mut stream, &server);
        assert!(seen.is_empty(), "{seen:?} (offset before: {offset})");
    });
}

#[test]
fn an_expired_entry_is_deleted_once_on_replicas() {
    for_each_engine(|engine| {
        let (server, mut client, mut stream) = listening(engine, &[]);
        call!(client, "CACHE.SET", "key", "v", "PX", 20, "TAGS", 1, "a");
        wait_until("it expires", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(0)
        });
        let seen = seen(&mut stream, &server);
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(
            ["del", "unlink"].contains(&seen[1][0].as_str()) && seen[1][1] == "key",
            "{seen:?}"
        );
    });
}

#[test]
fn a_transaction_and_a_script_replicate_each_write_once() {
    for_each_engine(|engine| {
        let (server, mut client, mut stream) = listening(engine, &[]);
        let script =
            "redis.call('CACHE.SET', 'key', 'v', 'TAGS', 1, 'a'); redis.call('CACHE.GET', 'key');
                      return redis.call('CACHE.INVALIDATE', 'a')";
        assert_eq!(call!(client, "EVAL", script, 0), Reply::Int(1));
        let names = |seen: Vec<Vec<String>>| {
            seen.into_iter()
                .map(|command| command[0].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(seen(&mut stream, &server)),
            ["cache.set", "cache.invalidate"]
        );
        for command in [
            &["MULTI"][..],
            &["CACHE.SET", "key", "v", "TAGS", "1", "a"],
            &["CACHE.SET", "key", "v", "NX"],
            &["CACHE.INVALIDATE", "a"],
            &["CACHE.SET", "key", "v", "NX"],
            &["EXEC"],
        ] {
            client.call(command);
        }
        let names = names(seen(&mut stream, &server));
        assert_eq!(names, ["cache.set", "cache.invalidate", "cache.set"]);
    });
}

#[test]
fn a_failed_command_on_an_expired_gone_key_is_not_replicated() {
    for_each_engine(|engine| {
        let (server, mut client, mut stream) = listening(engine, &[]);
        call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 0);
        // Otherwise the invalidation makes the server remove it.
        call!(client, "CONFIG", "SET", "tagcache.reclaim-inline", 0);
        for command in [
            &["RENAME", "key", "other"][..],
            &["RENAMENX", "key", "other"],
            &["EXISTS", "key"],
            &["GET", "key"],
            &["COPY", "key", "other"],
        ] {
            call!(client, "CACHE.SET", "key", "v", "PXAT", 1, "TAGS", 1, "a");
            seen(&mut stream, &server);
            let queued = [
                vec!["MULTI"],
                vec!["CACHE.INVALIDATE", "a"],
                command.to_vec(),
                vec!["EXEC"],
            ];
            let replies = client.pipeline(&queued);
            assert_eq!(replies[3].items()[0], Reply::Int(1));
            let seen = seen(&mut stream, &server);
            assert_eq!(seen[0], ["cache.invalidate", "a"]);
            let name = command[0].to_lowercase();
            let failed = seen.iter().any(|command| command[0] == name);
            assert!(!failed, "{command:?} did nothing: {seen:?}");
        }
    });
}
