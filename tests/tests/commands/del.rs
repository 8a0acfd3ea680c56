//! CACHE.DEL.

use tagcache_tests::look::{assert_index_agrees, inspect, stat};
use tagcache_tests::{Reply, call, on_both_protocols};

use crate::WRONGTYPE;

#[test]
fn del_returns_the_number_of_removed_entries() {
    on_both_protocols(|server, client| {
        for key in ["a", "b", "c"] {
            call!(client, "CACHE.SET", key, "v", "TAGS", 2, "t", key);
        }
        assert_eq!(
            call!(client, "CACHE.DEL", "a", "absent", "c", "a"),
            Reply::Int(2)
        );
        assert_eq!(
            call!(client, "CACHE.MGET", "a", "c"),
            Reply::Array(vec![Reply::Null, Reply::Null])
        );
        assert!(inspect(client, "b").is_some());
        assert_eq!(stat(client, "deletes"), 2);
        assert_eq!(
            call!(client, "CACHE.TAGINFO", "t").field("entries"),
            Reply::Int(1)
        );
        assert!(call!(client, "CACHE.TAGINFO", "a").is_null());
        assert_eq!(call!(client, "CACHE.DEL", "absent"), Reply::Int(0));
        assert_index_agrees(server, &[0], &[b"a", b"c"]);
    });
}

#[test]
fn an_invalidated_entry_does_not_count_as_deleted() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        call!(client, "CACHE.INVALIDATE", "a");
        assert_eq!(call!(client, "CACHE.DEL", "key"), Reply::Int(0));
        assert_eq!(stat(client, "deletes"), 0);
    });
}

#[test]
fn a_key_of_another_type_is_refused_before_anything_is_removed() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "entry", "v");
        call!(client, "SET", "string", "v");
        for del in [
            ["CACHE.DEL", "entry", "string"],
            ["CACHE.DEL", "string", "entry"],
        ] {
            assert_eq!(client.call(&del), Reply::Error(WRONGTYPE.to_owned()));
        }
        assert_eq!(call!(client, "CACHE.GET", "entry"), Reply::bulk("v"));
        assert_eq!(call!(client, "GET", "string"), Reply::bulk("v"));
    });
}
