//! CACHE.INVALIDATE and CACHE.FLUSH.

use tagcache_tests::look::{assert_index_agrees, inspect, stat, tagscan, wait_reclaimed};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, call, for_all_engines, on_both_protocols, run, split,
    wait_until,
};

use crate::unix_ms;

fn set(client: &mut RawClient, key: &str, tags: &[&str]) {
    let mut set = tagcache_tests::args!["CACHE.SET", key, "v"];
    if !tags.is_empty() {
        set.extend(tagcache_tests::args!["TAGS", tags.len()]);
        set.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    }
    assert_eq!(client.call(&set), Reply::ok());
}

#[test]
fn invalidate_drops_only_the_entries_of_its_tag() {
    on_both_protocols(|server, client| {
        set(client, "one", &["a"]);
        set(client, "two", &["b", "a"]);
        set(client, "three", &["b"]);
        set(client, "four", &[]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(2));
        let reply = call!(client, "CACHE.MGET", "one", "two", "three", "four");
        let (value, null) = (Reply::bulk("v"), Reply::Null);
        assert_eq!(
            reply,
            Reply::Array(vec![null.clone(), null, value.clone(), value])
        );
        assert_eq!(
            call!(client, "CACHE.TAGINFO", "b").field("entries"),
            Reply::Int(1)
        );
        assert_eq!((stat(client, "entries"), stat(client, "tags")), (2, 1));
        assert_eq!(
            (stat(client, "invalidations"), stat(client, "invalidated")),
            (1, 2)
        );
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(0));
        assert_index_agrees(server, &[0], &[b"a"]);
    });
}

#[test]
fn the_reply_counts_entry_tag_pairs_with_each_tag_once() {
    on_both_protocols(|_, client| {
        set(client, "one", &["a", "b"]);
        set(client, "two", &["b"]);
        set(client, "three", &["c"]);
        assert_eq!(
            call!(client, "CACHE.INVALIDATE", "a", "b", "a", "unknown", "b"),
            Reply::Int(3)
        );
        assert_eq!(stat(client, "entries"), 1);
    });
}

#[test]
fn every_invalidation_raises_the_clock_by_one() {
    on_both_protocols(|_, client| {
        let start = stat(client, "clock");
        set(client, "one", &["a", "b"]);
        assert_eq!(stat(client, "clock"), start);
        call!(client, "CACHE.INVALIDATE", "a", "b", "c");
        assert_eq!(stat(client, "clock"), start + 1);
        call!(client, "CACHE.INVALIDATE", "unknown");
        assert_eq!(stat(client, "clock"), start + 2);
        call!(client, "CACHE.FLUSH");
        assert_eq!(stat(client, "clock"), start + 3);
        call!(client, "CACHE.FLUSH");
        assert_eq!(stat(client, "clock"), start + 4);
    });
}

#[test]
fn an_entry_set_after_the_invalidation_of_its_tag_is_fresh() {
    on_both_protocols(|_, client| {
        for round in 1..=50 {
            set(client, "key", &["a"]);
            assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
            assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
            assert!(call!(client, "CACHE.GET", "key").is_null());
            assert_eq!(
                call!(client, "CACHE.TAGINFO", "a").field("invalidations"),
                Reply::Int(round)
            );
        }
    });
}

#[test]
fn an_entry_overwritten_without_a_tag_survives_its_invalidation() {
    on_both_protocols(|_, client| {
        set(client, "key", &["a", "b"]);
        set(client, "key", &["b"]);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(0));
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

#[test]
fn taginfo_reports_how_often_and_when_a_tag_was_invalidated() {
    on_both_protocols(|_, client| {
        set(client, "key", &["a"]);
        let info = call!(client, "CACHE.TAGINFO", "a");
        assert_eq!(
            (
                info.field("invalidations").int(),
                info.field("last_invalidated").int()
            ),
            (0, 0)
        );
        for count in 1..=2 {
            let before = unix_ms(client);
            call!(client, "CACHE.INVALIDATE", "a");
            let after = unix_ms(client);
            let info = call!(client, "CACHE.TAGINFO", "a");
            assert_eq!(info.field("entries"), Reply::Int(0));
            assert_eq!(info.field("bytes"), Reply::Int(0));
            assert_eq!(info.field("invalidations"), Reply::Int(count));
            let at = info.field("last_invalidated").int();
            assert!((before..=after).contains(&at), "{before} {at} {after}");
        }
        set(client, "key", &["a"]);
        let info = call!(client, "CACHE.TAGINFO", "a");
        assert_eq!(
            (
                info.field("entries").int(),
                info.field("invalidations").int()
            ),
            (1, 2)
        );
    });
}

#[test]
fn invalidate_accepts_thousands_of_tags() {
    on_both_protocols(|server, client| {
        let mut invalidate = vec![b"CACHE.INVALIDATE".to_vec()];
        for n in 0..3000 {
            set(client, &format!("key{n}"), &[&format!("tag{n}"), "shared"]);
            invalidate.push(format!("tag{n}").into_bytes());
        }
        assert_eq!(client.call(&invalidate), Reply::Int(3000));
        assert_eq!(stat(client, "entries"), 0);
        wait_reclaimed(client);
        assert_eq!(call!(client, "CACHE.INVALIDATE", "shared"), Reply::Int(0));
        assert_index_agrees(server, &[0], &[b"shared", b"tag7"]);
    });
}

#[test]
fn flush_drops_every_entry_and_no_other_type() {
    on_both_protocols(|server, client| {
        set(client, "one", &["a"]);
        set(client, "two", &[]);
        call!(client, "SET", "string", "v");
        call!(client, "CACHE.INVALIDATE", "unknown");
        assert_eq!(call!(client, "CACHE.FLUSH"), Reply::Int(2));
        assert_eq!(
            call!(client, "CACHE.MGET", "one", "two").items(),
            [Reply::Null, Reply::Null]
        );
        assert_eq!(call!(client, "GET", "string"), Reply::bulk("v"));
        assert_eq!(
            (
                stat(client, "entries"),
                stat(client, "tags"),
                stat(client, "bytes")
            ),
            (0, 0, 0)
        );
        assert!(call!(client, "CACHE.TAGINFO", "a").is_null());
        assert!(call!(client, "CACHE.TAGINFO", "unknown").is_null());
        assert_eq!(call!(client, "CACHE.FLUSH"), Reply::Int(0));
        set(client, "one", &["a"]);
        assert!(inspect(client, "one").is_some());
        assert_index_agrees(server, &[0], &[]);
    });
}

#[test]
fn invalidate_works_alike_for_small_and_large_tags() {
    on_both_protocols(|server, client| {
        // 128 entries are freed inside the command; larger numbers are left to the background.
        for size in [1, 127, 128, 129, 1000] {
            for n in 0..size {
                set(client, &format!("key{n}"), &["a", "kept-tag"]);
            }
            set(client, "other", &["kept-tag"]);
            assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(size));
            assert_eq!(stat(client, "entries"), 1);
            assert_eq!(tagscan(client, b"kept-tag", 10).len(), 1);
            assert_index_agrees(server, &[0], &[b"a"]);
            wait_reclaimed(client);
            assert_eq!(
                call!(client, "CACHE.TAGINFO", "kept-tag").field("entries"),
                Reply::Int(1)
            );
            assert!(call!(client, "CACHE.GET", "key0").is_null());
            assert_index_agrees(server, &[0], &[b"a"]);
        }
    });
}

#[test]
fn several_small_tags_are_no_more_work_than_one() {
    for_all_engines(|engine| {
        for command in [
            "CACHE.INVALIDATE a b c",
            "CACHE.REVALIDATE a b c",
            "CACHE.INVALIDATEWHERE ANY 3 a b c DRYRUN",
            "CACHE.INVALIDATEWHERE ANY 3 a b c",
        ] {
            let server = Server::builder().engine(engine).start();
            let mut client = server.raw();
            run!(client, "DEBUG SET-ACTIVE-EXPIRE 0");
            for n in 0..300 {
                let tag = ["a", "b", "c"][n % 3];
                run!(client, "CACHE.SET key{n} v PX 1 TAGS 1 {tag}");
            }
            wait_until("the last one has expired", DEADLINE, || {
                run!(client, "PTTL key299") == Reply::Int(-2)
            });
            let before = stat(&mut client, "expired");
            client.call(&split(command));
            // The lookups of one tag's entries, as many as `reclaim-inline` allows.
            let looked_at = stat(&mut client, "expired") - before;
            assert_eq!(looked_at, 100, "{command}");
        }
    });
}
