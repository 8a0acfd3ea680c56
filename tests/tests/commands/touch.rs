//! CACHE.TOUCH.

use tagcache_tests::look::{inspect, stat};
use tagcache_tests::{Reply, call, on_both_protocols, run};

use crate::{WRONGTYPE, unix_ms};

#[test]
fn touch_sets_and_removes_the_ttl_and_changes_nothing_else() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "value", "TAGS", 2, "b", "a");
        call!(client, "CACHE.GET", "key");
        let before = inspect(client, "key").unwrap();
        let now = unix_ms(client);
        for (option, time) in [
            ("EX", 100),
            ("PX", 100_000),
            ("exat", now / 1000 + 100),
            ("pxat", now + 100_000),
        ] {
            assert_eq!(
                call!(client, "CACHE.TOUCH", "key", option, time),
                Reply::Int(1),
                "{option}"
            );
            let pttl = call!(client, "CACHE.INSPECT", "key").field("pttl").int();
            assert!(pttl > 40_000 && pttl <= 100_000, "{option}: {pttl}");
            let native = call!(client, "PTTL", "key").int();
            assert!(native > 40_000 && native <= 100_000, "{option}: {native}");
            assert_eq!(
                call!(client, "CACHE.TOUCH", "key", "persist"),
                Reply::Int(1)
            );
            assert_eq!(call!(client, "PTTL", "key"), Reply::Int(-1));
            assert_eq!(inspect(client, "key").unwrap(), before);
        }
        assert_eq!(
            call!(client, "CACHE.TOUCH", "key", "PERSIST"),
            Reply::Int(1),
            "nothing to persist"
        );
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("value"));
    });
}

#[test]
fn touch_of_a_missing_entry_returns_0() {
    on_both_protocols(|_, client| {
        assert_eq!(
            call!(client, "CACHE.TOUCH", "absent", "EX", 100),
            Reply::Int(0)
        );
        assert_eq!(
            call!(client, "CACHE.TOUCH", "absent", "PERSIST"),
            Reply::Int(0)
        );
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        call!(client, "CACHE.INVALIDATE", "a");
        assert_eq!(
            call!(client, "CACHE.TOUCH", "key", "EX", 100),
            Reply::Int(0)
        );
        assert_eq!(
            call!(client, "CACHE.TOUCH", "key", "PERSIST"),
            Reply::Int(0)
        );
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(0));
    });
}

#[test]
fn touch_with_a_time_in_the_past_removes_the_entry() {
    on_both_protocols(|_, client| {
        let now = unix_ms(client);
        for (option, time) in [
            ("EX", 0),
            ("EX", -1),
            ("PX", 0),
            ("PX", i64::from(i32::MIN)),
            ("EXAT", 0),
            ("EXAT", 1),
            ("PXAT", -5),
            ("PXAT", now - 1),
        ] {
            run!(client, "CACHE.SET key v EX 100 GRACE 100000 TAGS 1 a");
            let touched = call!(client, "CACHE.TOUCH", "key", option, time);
            assert_eq!(touched, Reply::Int(1), "{option} {time}");
            assert!(call!(client, "CACHE.GET", "key").is_null());
            assert_eq!(call!(client, "EXISTS", "key"), Reply::Int(0));
            assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(0));
            assert_eq!(stat(client, "entries"), 0);
            let touched = call!(client, "CACHE.TOUCH", "key", option, time);
            assert_eq!(touched, Reply::Int(0), "{option} {time}");
        }
        assert_eq!(stat(client, "deletes"), 8);
    });
}

#[test]
fn touch_of_another_type_is_refused() {
    on_both_protocols(|_, client| {
        call!(client, "SET", "string", "v", "EX", 1000);
        assert_eq!(
            call!(client, "CACHE.TOUCH", "string", "PERSIST"),
            Reply::Error(WRONGTYPE.to_owned())
        );
        assert!(call!(client, "TTL", "string").int() > 0);
    });
}
