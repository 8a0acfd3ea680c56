//! The meaning of each clause, and the words that are refused.

use tagcache_tests::fetch::fetch;
use tagcache_tests::look::{Snapshot, assert_index_agrees, stat, wait_reclaimed};
use tagcache_tests::{RawClient, Reply, Server, args, call, on_both_protocols, run};

use crate::{LONG, Where, set, visible};

/// `none`, `a`, `b`, `c`, `ab`, `ac`, `bc`, `abc`: each carries the tags in its name.
fn prepare(client: &mut RawClient) {
    set(client, "none", &[]);
    for key in ["a", "b", "c", "ab", "ac", "bc", "abc"] {
        let tags: Vec<String> = key.chars().map(String::from).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        set(client, key, &tags);
    }
    call!(client, "SET", "string", "v");
}

fn drops(server: &Server, client: &mut RawClient, what: &Where, expected: &[&str]) {
    call!(client, "FLUSHALL");
    prepare(client);
    let before = visible(client);
    let count = expected.len() as i64;
    assert_eq!(what.run(client, &["DRYRUN"]), count, "{what:?} DRYRUN");
    assert_eq!(visible(client), before, "{what:?} DRYRUN changes nothing");
    assert_eq!(what.run(client, &[]), count, "{what:?}");
    let after = visible(client);
    let gone: Vec<_> = before.difference(&after).cloned().collect();
    let mut expected: Vec<_> = expected.iter().map(|&key| key.to_owned()).collect();
    expected.sort();
    assert_eq!(gone, expected, "{what:?}");
    assert_eq!(call!(client, "GET", "string"), Reply::bulk("v"));
    assert_eq!(what.run(client, &[]), 0, "{what:?}, again");
    wait_reclaimed(client);
    assert_index_agrees(server, &[0], &[b"a", b"b", b"c", b"x"]);
}

#[test]
fn each_clause_and_combination_drops_the_matching_entries() {
    on_both_protocols(|server, client| {
        for (what, expected) in [
            (Where::all(&["a"]), &["a", "ab", "ac", "abc"][..]),
            (Where::all(&["a", "b"]), &["ab", "abc"]),
            (Where::all(&["b", "a", "b"]), &["ab", "abc"]),
            (Where::all(&["a", "b", "c"]), &["abc"]),
            (Where::all(&["a", "x"]), &[]),
            (Where::any(&["a"]), &["a", "ab", "ac", "abc"]),
            (
                Where::any(&["a", "b"]),
                &["a", "b", "ab", "ac", "bc", "abc"],
            ),
            (Where::any(&["a", "a", "x"]), &["a", "ab", "ac", "abc"]),
            (Where::any(&["x", "y"]), &[]),
            (Where::none(&["a"]), &["none", "b", "c", "bc"]),
            (Where::none(&["a", "b", "c"]), &["none"]),
            (
                Where::none(&["x"]),
                &["none", "a", "b", "c", "ab", "ac", "bc", "abc"],
            ),
            (Where::all(&["a"]).and_none(&["b"]), &["a", "ac"]),
            (
                Where::all(&["a"]).and_any(&["b", "c"]),
                &["ab", "ac", "abc"],
            ),
            (
                Where::all(&["a"]).and_any(&["b", "c"]).and_none(&["c"]),
                &["ab"],
            ),
            (Where::any(&["a", "b"]).and_none(&["c"]), &["a", "b", "ab"]),
            (Where::all(&["a"]).and_none(&["a"]), &[]),
        ] {
            drops(server, client, &what, expected);
        }
    });
}

#[test]
fn clauses_and_options_are_accepted_in_any_order_and_case() {
    on_both_protocols(|_, client| {
        prepare(client);
        for line in [
            "cache.invalidatewhere none 1 c all 1 a any 1 b dryrun",
            "CACHE.INVALIDATEWHERE DRYRUN ANY 1 b ALL 1 a NONE 1 c",
            "CACHE.INVALIDATEWHERE ALL 1 a DRYRUN NONE 1 c SOFT ANY 1 b",
            "CACHE.INVALIDATEWHERE SOFT DRYRUN ALL 2 a b NONE 1 c",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(client.call(&words), Reply::Int(1), "{line}");
        }
        // Tags that look like option words are still tags.
        set(client, "words", &["SOFT", "ALL", "DRYRUN"]);
        let line = "CACHE.INVALIDATEWHERE ALL 3 SOFT ALL DRYRUN";
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(client.call(&words), Reply::Int(1));
        assert!(call!(client, "CACHE.GET", "words").is_null());
    });
}

#[test]
fn soft_makes_entries_with_grace_stale_and_drops_the_rest() {
    on_both_protocols(|server, client| {
        for (key, grace, tag) in [
            ("with", LONG, "a"),
            ("without", 0, "a"),
            ("other", LONG, "b"),
        ] {
            let set = args!["CACHE.SET", key, "v", "GRACE", grace, "TAGS", 2, tag, "t"];
            assert_eq!(client.call(&set), Reply::ok());
        }
        let what = Where::all(&["t", "a"]);
        assert_eq!(what.run(client, &["SOFT", "DRYRUN"]), 2);
        assert!(fetch(client, "with").is_hit("v"));
        assert_eq!(what.run(client, &["SOFT"]), 2);
        assert!(fetch(client, "with").is_stale("v"));
        assert!(call!(client, "CACHE.GET", "with").is_null());
        assert!(fetch(client, "without").is_miss());
        assert!(fetch(client, "other").is_hit("v"));
        assert_index_agrees(server, &[0], &[b"a"]);
        // Stale entries are visible, and a hard invalidation is hard.
        assert_eq!(what.run(client, &[]), 1);
        assert!(fetch(client, "with").is_miss());
    });
}

#[test]
fn an_overwritten_stale_entry_is_fresh() {
    on_both_protocols(|_, client| {
        let set = args!["CACHE.SET", "key", "v", "GRACE", LONG, "TAGS", 2, "a", "b"];
        for _ in 0..5 {
            assert_eq!(client.call(&set), Reply::ok());
            assert!(fetch(client, "key").is_hit("v"));
            assert_eq!(Where::all(&["a", "b"]).run(client, &["SOFT"]), 1);
            assert!(fetch(client, "key").is_stale("v"));
        }
    });
}

#[test]
fn invalidatewhere_completes_within_transactions_and_scripts() {
    on_both_protocols(|server, client| {
        prepare(client);
        let queued = [
            args!["MULTI"],
            args!["CACHE.SET", "new", "v", "TAGS", 2, "a", "b"],
            Where::all(&["a", "b"]).command(&[]),
            args!["CACHE.MGET", "ab", "abc", "new", "a"],
            args!["CACHE.SET", "ab", "again", "TAGS", 2, "a", "b"],
            args!["CACHE.GET", "ab"],
            args!["EXEC"],
        ];
        let exec = client.pipeline(&queued).remove(6);
        let replies = exec.items();
        assert_eq!(replies[1], Reply::Int(3));
        let left = [Reply::Null, Reply::Null, Reply::Null, Reply::bulk("v")];
        assert_eq!(replies[2].items(), left);
        assert_eq!(replies[4], Reply::bulk("again"));
        let script = "local n = redis.call('CACHE.INVALIDATEWHERE', 'NONE', 1, 'a')
                      return {n, redis.call('CACHE.GET', 'b'), redis.call('CACHE.GET', 'a')}";
        let reply = call!(client, "EVAL", script, 0);
        assert_eq!(
            reply.items(),
            [Reply::Int(4), Reply::Null, Reply::bulk("v")]
        );
        assert_index_agrees(server, &[0], &[b"b", b"c"]);
    });
}

#[test]
fn invalidatewhere_affects_only_the_selected_database() {
    on_both_protocols(|_, client| {
        prepare(client);
        call!(client, "SELECT", 1);
        assert_eq!(Where::none(&["x"]).run(client, &[]), 0);
        set(client, "key", &["a"]);
        assert_eq!(Where::all(&["a"]).run(client, &[]), 1);
        call!(client, "SELECT", 0);
        assert_eq!(visible(client).len(), 8);
    });
}

#[test]
fn entries_already_gone_or_expired_are_not_counted() {
    on_both_protocols(|_, client| {
        prepare(client);
        call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 0);
        call!(client, "PEXPIREAT", "ab", 1);
        // Nothing is reclaimed inside a transaction.
        let queued = [
            args!["MULTI"],
            args!["CACHE.INVALIDATE", "c"],
            Where::all(&["a"]).command(&["DRYRUN"]),
            Where::all(&["a"]).command(&[]),
            args!["EXEC"],
        ];
        let exec = client.pipeline(&queued).remove(4);
        assert_eq!(exec.items()[1..], [Reply::Int(1), Reply::Int(1)]);
    });
}

#[test]
fn invalid_arguments_are_refused_and_change_nothing() {
    const SYNTAX: &str = "ERR syntax error";
    const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
    on_both_protocols(|server, client| {
        prepare(client);
        let before = Snapshot::take(server, &[0], &[b"x"]);
        for (line, error) in [
            ("CACHE.INVALIDATEWHERE", "ERR wrong number of arguments"),
            ("CACHE.INVALIDATEWHERE SOFT DRYRUN SOFT", SYNTAX),
            ("CACHE.INVALIDATEWHERE DRYRUN DRYRUN ALL 1 a", SYNTAX),
            ("CACHE.INVALIDATEWHERE SOFT SOFT ALL 1 a", SYNTAX),
            ("CACHE.INVALIDATEWHERE ALL 1 a ALL 1 b", SYNTAX),
            ("CACHE.INVALIDATEWHERE ANY 1 a ANY 1 b", SYNTAX),
            ("CACHE.INVALIDATEWHERE NONE 1 a ALL 1 b NONE 1 b", SYNTAX),
            ("CACHE.INVALIDATEWHERE ALL 1 a b", SYNTAX),
            ("CACHE.INVALIDATEWHERE ALL 2 a", "ERR "),
            ("CACHE.INVALIDATEWHERE ALL 0", "ERR "),
            ("CACHE.INVALIDATEWHERE ALL 0 ANY 1 a", "ERR "),
            ("CACHE.INVALIDATEWHERE ALL -1 a", "ERR "),
            ("CACHE.INVALIDATEWHERE ALL many a", NOT_AN_INTEGER),
            ("CACHE.INVALIDATEWHERE SOME 1 a", SYNTAX),
            ("CACHE.INVALIDATEWHERE SOFT DRYRUN", "ERR "),
            ("CACHE.INVALIDATEWHERE ALL 9223372036854775807 a", "ERR "),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let reply = client.call(&words);
            let message = reply.error().unwrap_or_else(|| panic!("{line}: {reply:?}"));
            assert!(message.starts_with(error), "{line}: {message}");
            assert_eq!(Snapshot::take(server, &[0], &[b"x"]), before, "{line}");
        }
    });
}

#[test]
fn a_dry_run_changes_nothing_at_all() {
    on_both_protocols(|server, client| {
        prepare(client);
        let before = Snapshot::take(server, &[0, 1], &[b"x"]);
        for options in [&["DRYRUN"][..], &["DRYRUN", "SOFT"]] {
            assert_eq!(Where::none(&["x"]).run(client, options), 8);
            assert_eq!(Where::any(&["a"]).run(client, options), 4);
        }
        assert_eq!(Snapshot::take(server, &[0, 1], &[b"x"]), before);
    });
}

#[test]
fn invalidatewhere_works_when_memory_is_full() {
    on_both_protocols(|_, client| {
        prepare(client);
        let full = run!(client, "CONFIG SET maxmemory-policy noeviction maxmemory 1");
        assert_eq!(full, Reply::ok());
        assert_eq!(Where::all(&["a"]).run(client, &[]), 4);
        wait_reclaimed(client);
        assert_eq!(stat(client, "entries"), 4);
    });
}
