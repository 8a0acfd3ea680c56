//! CACHE.GET and CACHE.MGET.

use tagcache_tests::look::{inspect, stat};
use tagcache_tests::{Reply, call, on_both_protocols, run};

use crate::WRONGTYPE;

#[test]
fn get_returns_value_or_nil_and_counts_a_hit_or_a_miss() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "value");
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("value"));
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("value"));
        assert!(call!(client, "CACHE.GET", "absent").is_null());
        assert_eq!((stat(client, "hits"), stat(client, "misses")), (2, 1));
        assert_eq!(inspect(client, "key").unwrap().hits, 2);
    });
}

#[test]
fn get_of_another_type_is_an_error_and_counts_nothing() {
    on_both_protocols(|_, client| {
        call!(client, "SET", "string", "v");
        assert_eq!(
            call!(client, "CACHE.GET", "string"),
            Reply::Error(WRONGTYPE.to_owned())
        );
        assert_eq!((stat(client, "hits"), stat(client, "misses")), (0, 0));
    });
}

#[test]
fn mget_returns_values_in_the_order_of_the_keys() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "a", "1", "TAGS", 1, "t");
        call!(client, "CACHE.SET", "b", "2");
        call!(client, "SET", "string", "v");
        call!(client, "CACHE.SET", "gone", "4", "TAGS", 1, "dropped");
        call!(client, "CACHE.INVALIDATE", "dropped");
        let reply = run!(client, "CACHE.MGET a absent string b gone a");
        let (one, two) = (Reply::bulk("1"), Reply::bulk("2"));
        let expected = vec![one.clone(), Reply::Null, Reply::Null, two, Reply::Null, one];
        assert_eq!(reply, Reply::Array(expected));
        assert_eq!((stat(client, "hits"), stat(client, "misses")), (3, 3));
        assert_eq!(inspect(client, "a").unwrap().hits, 2);
    });
}

#[test]
fn mget_accepts_thousands_of_keys() {
    on_both_protocols(|_, client| {
        let mut mget = vec![b"CACHE.MGET".to_vec()];
        for n in 0..5000 {
            if n % 2 == 0 {
                call!(client, "CACHE.SET", n, n);
            }
            mget.push(n.to_string().into_bytes());
        }
        let reply = client.call(&mget);
        for (n, item) in reply.items().iter().enumerate() {
            let expected = if n % 2 == 0 {
                Reply::bulk(n.to_string())
            } else {
                Reply::Null
            };
            assert_eq!(*item, expected);
        }
        assert_eq!(stat(client, "hits"), 2500);
    });
}

#[test]
fn an_expired_entry_is_a_miss() {
    on_both_protocols(|_, client| {
        // Only the read itself must notice the expiry.
        call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", 0);
        call!(client, "CACHE.SET", "key", "value", "PX", 1);
        tagcache_tests::wait_until("the entry expires", tagcache_tests::DEADLINE, || {
            call!(client, "CACHE.GET", "key").is_null()
        });
        assert!(call!(client, "CACHE.MGET", "key").items()[0].is_null());
        assert!(stat(client, "misses") >= 2);
        assert_eq!(stat(client, "entries"), 0);
    });
}
