//! Entries, tags, clock and statistics belong to the selected database.

use tagcache_tests::look::{assert_index_agrees, stat, tagscan};
use tagcache_tests::{Reply, call, on_both_protocols};

#[test]
fn equal_keys_and_tags_in_two_databases_are_independent() {
    on_both_protocols(|server, client| {
        for database in [0, 1, 15] {
            call!(client, "SELECT", database);
            call!(client, "CACHE.SET", "key", database, "TAGS", 1, "a");
        }
        call!(client, "SELECT", 1);
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("1"));
        assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(1));
        assert_eq!(
            (
                stat(client, "clock"),
                stat(client, "entries"),
                stat(client, "hits")
            ),
            (1, 0, 1)
        );
        for database in [0, 15] {
            call!(client, "SELECT", database);
            assert_eq!((stat(client, "clock"), stat(client, "hits")), (0, 0));
            assert_eq!(
                call!(client, "CACHE.GET", "key"),
                Reply::bulk(database.to_string())
            );
            assert_eq!(
                call!(client, "CACHE.TAGINFO", "a").field("invalidations"),
                Reply::Int(0)
            );
            assert_eq!(tagscan(client, b"a", 10).len(), 1);
        }
        assert_index_agrees(server, &[0, 1, 2, 15], &[b"a"]);
    });
}

#[test]
fn flush_affects_only_the_selected_database() {
    on_both_protocols(|_, client| {
        for database in [0, 1] {
            call!(client, "SELECT", database);
            call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        }
        assert_eq!(call!(client, "CACHE.FLUSH"), Reply::Int(1));
        assert_eq!(stat(client, "entries"), 0);
        call!(client, "SELECT", 0);
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
    });
}

#[test]
fn scripts_and_transactions_use_the_selected_database() {
    on_both_protocols(|server, client| {
        call!(client, "SELECT", 4);
        let script = "redis.call('CACHE.SET', KEYS[1], 'v', 'TAGS', 1, 'a'); return redis.call('CACHE.GET', KEYS[1])";
        assert_eq!(call!(client, "EVAL", script, 1, "key"), Reply::bulk("v"));
        call!(client, "MULTI");
        call!(client, "SELECT", 5);
        call!(client, "CACHE.SET", "key", "five", "TAGS", 1, "a");
        call!(client, "SELECT", 4);
        call!(client, "CACHE.INVALIDATE", "a");
        let replies = call!(client, "EXEC");
        assert_eq!(
            replies.items(),
            [Reply::ok(), Reply::ok(), Reply::ok(), Reply::Int(1)]
        );
        assert!(call!(client, "CACHE.GET", "key").is_null());
        call!(client, "SELECT", 5);
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("five"));
        assert_index_agrees(server, &[0, 4, 5], &[b"a"]);
    });
}
