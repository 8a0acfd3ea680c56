//! ACL: categories, key patterns, and tags that obey key patterns.

use tagcache_tests::look::info;
use tagcache_tests::threads::Threads;
use tagcache_tests::{RawClient, Reply, Server, call, for_all_engines, run};

/// A second connection, as this user.
fn user(server: &Server, name: &str, rules: &[&str]) -> RawClient {
    let mut admin = server.raw();
    let setuser = [&["ACL", "SETUSER", name, "on", ">password"], rules].concat();
    assert_eq!(admin.call(&setuser), Reply::ok());
    let mut client = server.raw();
    assert_eq!(call!(client, "AUTH", name, "password"), Reply::ok());
    client
}

fn denied(reply: &Reply) {
    assert!(
        reply
            .error()
            .is_some_and(|error| error.starts_with("NOPERM ")),
        "{reply:?}"
    );
}

#[test]
fn acl_key_patterns_apply_to_keys() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = user(&server, "tenant", &["~t7:*", "+@all"]);
        assert_eq!(
            call!(client, "CACHE.SET", "t7:key", "v", "TAGS", 1, "t7:tag"),
            Reply::ok()
        );
        assert_eq!(call!(client, "CACHE.GET", "t7:key"), Reply::bulk("v"));
        for command in [
            &["CACHE.SET", "t8:key", "v"][..],
            &["CACHE.GET", "t8:key"],
            &["CACHE.MGET", "t7:key", "t8:key"],
            &["CACHE.DEL", "t7:key", "t8:key"],
            &["CACHE.TOUCH", "t8:key", "EX", "5"],
            &["CACHE.INSPECT", "t8:key"],
        ] {
            denied(&client.call(command));
        }
        assert_eq!(call!(client, "CACHE.GET", "t7:key"), Reply::bulk("v"));
    });
}

#[test]
fn acl_key_patterns_apply_to_tags() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        run!(admin, "CACHE.SET t8:key v TAGS 2 t8:tag t7:shared");
        let mut client = user(&server, "tenant", &["~t7:*", "+@all"]);
        for command in [
            &["CACHE.INVALIDATE", "t8:tag"][..],
            &["CACHE.INVALIDATE", "t7:tag", "t8:tag"],
            &["CACHE.TAGINFO", "t8:tag"],
            &["CACHE.TAGSCAN", "t8:tag", "0"],
        ] {
            denied(&client.call(command));
        }
        assert_eq!(
            call!(admin, "CACHE.STATS").field("clock"),
            Reply::Int(0),
            "nothing happened"
        );
        assert!(!call!(client, "CACHE.TAGINFO", "t7:shared").is_error());
        assert!(!call!(client, "CACHE.TAGSCAN", "t7:shared", 0).is_error());
        assert_eq!(
            call!(client, "CACHE.INVALIDATE", "t7:shared"),
            Reply::Int(1)
        );
    });
}

#[test]
fn tags_need_read_access_to_read_and_write_access_to_invalidate() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        call!(admin, "CACHE.SET", "key", "v", "TAGS", 1, "tag");
        let mut reader = user(&server, "reader", &["%R~*", "+@all"]);
        assert_eq!(call!(reader, "CACHE.GET", "key"), Reply::bulk("v"));
        assert!(!call!(reader, "CACHE.TAGINFO", "tag").is_error());
        assert!(!call!(reader, "CACHE.TAGSCAN", "tag", 0).is_error());
        denied(&call!(reader, "CACHE.INVALIDATE", "tag"));
        denied(&call!(reader, "CACHE.SET", "key", "v"));
        let mut writer = user(&server, "writer", &["%W~*", "+@all"]);
        denied(&call!(writer, "CACHE.TAGINFO", "tag"));
        denied(&call!(writer, "CACHE.TAGSCAN", "tag", 0));
        assert_eq!(call!(writer, "CACHE.INVALIDATE", "tag"), Reply::Int(1));
    });
}

/// One set of rules must allow both the command and the tag, as soon as the user has several sets.
#[test]
fn one_set_of_acl_rules_must_allow_both_command_and_tag() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = user(&server, "tenant", &["+cache.taginfo", "~own:*"]);
        let info = |client: &mut RawClient, tag: &str| call!(client, "CACHE.TAGINFO", tag);
        assert!(info(&mut client, "own:a").is_null());
        denied(&info(&mut client, "other"));
        let selector = "(+cache.get ~other)";
        let changed = call!(server.raw(), "ACL", "SETUSER", "tenant", selector);
        assert_eq!(changed, Reply::ok());
        denied(&info(&mut client, "other"));
        assert!(info(&mut client, "own:a").is_null());
        let selector = "(+cache.taginfo ~other)";
        let changed = call!(server.raw(), "ACL", "SETUSER", "tenant", selector);
        assert_eq!(changed, Reply::ok());
        assert!(info(&mut client, "other").is_null());
    });
}

#[test]
fn commands_belong_to_fitting_acl_categories() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        let info = call!(admin, "COMMAND", "INFO", "cache.flush");
        let flags: Vec<_> = info.items()[0].items()[2]
            .items()
            .iter()
            .map(Reply::text)
            .collect();
        assert!(flags.iter().any(|flag| flag == "admin"), "{flags:?}");
        let mut reading = user(&server, "reading", &["allkeys", "-@all", "+@read"]);
        denied(&call!(reading, "CACHE.SET", "key", "v"));
        denied(&call!(reading, "CACHE.DEL", "key"));
        denied(&call!(reading, "CACHE.INVALIDATE", "tag"));
        if engine.version() < (7, 2) {
            // On such a server, module commands belong to no category: users are granted commands by name.
            let mut named = user(
                &server,
                "named",
                &["allkeys", "-@all", "+cache.get", "+cache.set"],
            );
            assert_eq!(call!(named, "CACHE.SET", "key", "v"), Reply::ok());
            denied(&call!(named, "CACHE.FLUSH"));
            return;
        }
        let mut safe = user(&server, "safe", &["allkeys", "+@all", "-@dangerous"]);
        denied(&call!(safe, "CACHE.FLUSH"));
        assert_eq!(call!(safe, "CACHE.SET", "key", "v"), Reply::ok());
        assert_eq!(call!(safe, "CACHE.INVALIDATE", "tag"), Reply::Int(0));
        assert_eq!(call!(reading, "CACHE.GET", "key"), Reply::bulk("v"));
        let mut fast = user(&server, "fast", &["allkeys", "+@all", "-@fast"]);
        denied(&call!(fast, "CACHE.GET", "key"));
        let mut slow = user(&server, "slow", &["allkeys", "+@all", "-@slow"]);
        denied(&call!(slow, "CACHE.FLUSH"));
        let categories = call!(admin, "ACL", "CAT");
        let has_own = categories
            .items()
            .iter()
            .any(|category| category.text() == "cache");
        assert_eq!(
            has_own,
            engine.version() >= (7, 4),
            "servers from 7.4 on know categories of modules"
        );
        if has_own {
            let mut cache = user(&server, "cache", &["allkeys", "-@all", "+@cache"]);
            assert_eq!(call!(cache, "CACHE.SET", "key", "v"), Reply::ok());
            assert_eq!(call!(cache, "CACHE.GET", "key"), Reply::bulk("v"));
            assert_eq!(call!(cache, "CACHE.INVALIDATE", "tag"), Reply::Int(0));
            assert!(!call!(cache, "CACHE.STATS").is_error());
            denied(&call!(cache, "SET", "other", "v"));
        }
    });
}

#[test]
fn a_replica_refuses_writes_and_serves_reads() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let mut client = primary.raw();
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        let mut reader = replica.raw();
        tagcache_tests::wait_until("the replica has it", tagcache_tests::DEADLINE, || {
            call!(reader, "CACHE.GET", "key") == Reply::bulk("v")
        });
        for command in [
            &["CACHE.SET", "key", "v"][..],
            &["CACHE.DEL", "key"],
            &["CACHE.TOUCH", "key", "PERSIST"],
            &["CACHE.INVALIDATE", "a"],
            &["CACHE.REVALIDATE", "a"],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", "a"],
            &["CACHE.FLUSH"],
        ] {
            let reply = reader.call(command);
            let readonly = "READONLY You can't write against a read only replica.";
            assert_eq!(reply, Reply::Error(readonly.to_owned()), "{command:?}");
        }
        assert_eq!(
            call!(reader, "CACHE.TAGINFO", "a").field("entries"),
            Reply::Int(1)
        );
        assert_eq!(
            tagcache_tests::look::tagscan(&mut reader, b"a", 10).len(),
            1
        );
        assert!(!call!(reader, "CACHE.STATS").is_error());
        assert_eq!(call!(reader, "CACHE.RESETSTATS"), Reply::ok());
    });
}

#[test]
fn commands_that_free_memory_work_when_memory_is_full() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "one", "v", "TAGS", 1, "a");
        call!(client, "CACHE.SET", "two", "v", "TAGS", 1, "b");
        call!(client, "CACHE.SET", "three", "v");
        run!(client, "CONFIG SET maxmemory-policy noeviction maxmemory 1");
        let full = call!(client, "CACHE.SET", "four", "v");
        let words = "OOM command not allowed when used memory > 'maxmemory'.";
        assert_eq!(full, Reply::Error(words.to_owned()));
        assert_eq!(call!(client, "CACHE.GET", "one"), Reply::bulk("v"));
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
        assert_eq!(call!(client, "CACHE.DEL", "two"), Reply::Int(1));
        assert_eq!(call!(client, "CACHE.REVALIDATE", "a"), Reply::Int(0));
        let fetched = call!(client, "CACHE.FETCH", "three", "LEASE", 5);
        assert_eq!(fetched.items()[1], Reply::bulk("v"));
        assert_eq!(call!(client, "CACHE.FLUSH"), Reply::Int(1));
    });
}

#[test]
fn a_refused_tag_appears_in_acl_log_and_in_info() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        let mut client = user(&server, "tenant", &["~t7:*", "+@all"]);
        // Redis 7.0 does not count refusals at all.
        let counts_refusals = call!(admin, "INFO", "stats")
            .text()
            .contains("acl_access_denied_key:");
        let script = "return redis.pcall('CACHE.INVALIDATE', 't8:script').err";
        for (n, (command, tag)) in [
            (&["CACHE.INVALIDATE", "t7:a", "t8:b", "t8:c"][..], "t8:b"),
            (&["CACHE.REVALIDATE", "t8:d"], "t8:d"),
            (&["CACHE.TAGINFO", "t8:e"], "t8:e"),
            (&["CACHE.TAGSCAN", "t8:f", "0"], "t8:f"),
            (
                &["CACHE.INVALIDATEWHERE", "ALL", "2", "t7:a", "t8:g"],
                "t8:g",
            ),
            (&["CACHE.INVALIDATEWHERE", "NONE", "1", "t7:a"], "t7:a"),
            (&["EVAL", script, "0"], "t8:script"),
        ]
        .into_iter()
        .enumerate()
        {
            client.call(command);
            let log = call!(admin, "ACL", "LOG", 1);
            let entry = &log.items()[0];
            assert_eq!(entry.field("object").text(), tag, "{command:?}");
            assert_eq!(entry.field("reason").text(), "key", "{command:?}");
            assert_eq!(entry.field("username").text(), "tenant", "{command:?}");
            if counts_refusals {
                let refused = info(&mut admin, "acl_access_denied_key");
                assert_eq!(refused, n as i64 + 1, "{command:?}");
            }
        }
    });
}

/// Redis 7.0 and Valkey 8.0 ended when this module asked for the user of such a call.
#[test]
fn a_script_may_run_a_command_of_another_module_that_invalidates() {
    let Some(other) = Threads::new() else {
        return;
    };
    for_all_engines(|engine| {
        let server = other.of(Server::builder().engine(engine)).start();
        let mut admin = server.raw();
        call!(admin, "CACHE.SET", "t8:key", "v", "TAGS", 1, "t8:tag");
        let mut client = user(&server, "tenant", &["~t7:*", "+@all"]);
        let own = "return redis.call('CACHE.INVALIDATE', 't8:tag')";
        denied(&call!(client, "EVAL", own, 0));
        // Calls of another module need no permission, as outside of scripts.
        let others = "return redis.call('THREADS.HERE', 'CACHE.INVALIDATE', 't8:tag')";
        assert_eq!(call!(client, "EVAL", others, 0), Reply::Int(1));
    });
}
