//! The module's own keyspace notifications, `cache.*`.

use tagcache_tests::fetch::{lease, set_leased};
use tagcache_tests::{DEADLINE, RawClient, Reply, call, on_both_protocols, wait_until};

use crate::{message, subscribe};

/// The module's own events up to now, each with its key.
fn own_events(subscriber: &mut RawClient, client: &mut RawClient) -> Vec<(String, String)> {
    call!(client, "SET", "marker", "v");
    let mut events = Vec::new();
    loop {
        let (channel, key) = message(subscriber);
        let event = channel
            .strip_prefix("__keyevent@0__:")
            .unwrap_or_else(|| panic!("the pattern does not ask for {channel}"));
        let key = key.escape_ascii().to_string();
        if key == "marker" {
            return events;
        }
        if event.starts_with("cache.") {
            events.push((event.to_owned(), key));
        }
    }
}

fn with_events(test: impl Fn(&mut RawClient, &mut RawClient)) {
    on_both_protocols(|server, client| {
        call!(client, "CONFIG", "SET", "notify-keyspace-events", "KEA");
        let mut subscriber = server.raw().resp3();
        subscribe(&mut subscriber, "__keyevent@0__:*");
        test(&mut subscriber, client);
    });
}

#[test]
fn each_write_sends_one_event_named_after_its_command() {
    with_events(|subscriber, client| {
        for (command, event) in [
            (
                &["CACHE.SET", "key", "v", "TAGS", "1", "a"][..],
                "cache.set",
            ),
            (
                &["CACHE.SET", "key", "v", "EX", "100", "GRACE", "5"],
                "cache.set",
            ),
            (&["CACHE.TOUCH", "key", "EX", "100"], "cache.touch"),
            (
                &["CACHE.TOUCH", "key", "PERSIST", "GRACE", "7"],
                "cache.touch",
            ),
            (&["CACHE.DEL", "key", "absent"], "cache.del"),
        ] {
            assert!(!client.call(command).is_error());
            let seen = own_events(subscriber, client);
            assert_eq!(seen, [(event.to_owned(), "key".to_owned())], "{command:?}");
        }
        let token = lease(client, "leased");
        assert!(set_leased(client, "leased", "v", token, &[]));
        let seen = own_events(subscriber, client);
        assert_eq!(seen, [("cache.set".to_owned(), "leased".to_owned())]);
    });
}

#[test]
fn commands_without_effect_send_no_event() {
    with_events(|subscriber, client| {
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        let token = lease(client, "missing");
        call!(client, "CACHE.DEL", "missing");
        own_events(subscriber, client);
        for command in [
            &["CACHE.SET", "key", "v", "NX"][..],
            &["CACHE.SET", "absent", "v", "XX"],
            &["CACHE.SET", "missing", "v", "LEASE", &token.to_string()],
            &["CACHE.TOUCH", "absent", "PERSIST"],
            &["CACHE.DEL", "absent"],
            &["CACHE.GET", "key"],
            &["CACHE.MGET", "key", "absent"],
            &["CACHE.FETCH", "key"],
            &["CACHE.FETCH", "absent", "LEASE", "1"],
            &["CACHE.RELEASE", "absent", "1"],
            &["CACHE.INSPECT", "key"],
            &["CACHE.TAGINFO", "a"],
            &["CACHE.TAGSCAN", "a", "0"],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", "a", "DRYRUN"],
        ] {
            assert!(!client.call(command).is_error(), "{command:?}");
            let seen = own_events(subscriber, client);
            assert_eq!(seen, [], "{command:?}");
        }
    });
}

#[test]
fn events_are_in_the_notification_class_of_modules() {
    on_both_protocols(|server, client| {
        call!(client, "CONFIG", "SET", "notify-keyspace-events", "Ed");
        let mut subscriber = server.raw().resp3();
        subscribe(&mut subscriber, "__keyevent@0__:*");
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        assert_eq!(message(&mut subscriber).0, "__keyevent@0__:cache.set");
        call!(client, "CONFIG", "SET", "notify-keyspace-events", "E$");
        call!(client, "CACHE.SET", "key", "v");
        assert_eq!(call!(client, "SET", "string", "v"), Reply::ok());
        assert_eq!(message(&mut subscriber).0, "__keyevent@0__:set");
    });
}

#[test]
fn each_dropped_key_sends_one_event_when_it_is_reclaimed() {
    with_events(|subscriber, client| {
        // As many entries as are freed inside the command, and more.
        for count in [3, 1_000] {
            for n in 0..count {
                call!(client, "CACHE.SET", n, "v", "TAGS", 2, "a", "b");
            }
            call!(client, "CACHE.SET", "other", "v", "TAGS", 1, "c");
            own_events(subscriber, client);
            call!(client, "CACHE.INVALIDATE", "a");
            call!(client, "CACHE.INVALIDATE", "b");
            wait_until("memory is given back", DEADLINE, || {
                call!(client, "CACHE.STATS").field("reclaim_backlog") == Reply::Int(0)
            });
            let mut dropped: Vec<String> = own_events(subscriber, client)
                .into_iter()
                .filter_map(|(event, key)| (event == "cache.drop").then_some(key))
                .collect();
            dropped.sort();
            let mut expected: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            expected.sort();
            assert_eq!(dropped, expected);
        }
        call!(client, "CONFIG", "SET", "notify-keyspace-events", "KE$");
        call!(client, "CACHE.INVALIDATE", "c");
        assert_eq!(own_events(subscriber, client), []);
    });
}
