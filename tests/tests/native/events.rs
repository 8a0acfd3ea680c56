//! WATCH, CLIENT TRACKING and keyspace notifications.

use tagcache_tests::{RawClient, Reply, Server, args, call, for_all_engines, for_each_engine, run};

/// A command for the entry `key` (tags `a`, `b`), and whether it changes the entry.
const CHANGES: [(&[&str], bool); 25] = [
    (&["CACHE.SET", "key", "new"], true),
    (&["CACHE.DEL", "key"], true),
    (&["CACHE.TOUCH", "key", "EX", "100"], true),
    (&["CACHE.INVALIDATE", "a"], true),
    (&["CACHE.REVALIDATE", "a"], true),
    (&["CACHE.INVALIDATEWHERE", "ALL", "1", "a"], true),
    (&["CACHE.INVALIDATEWHERE", "NONE", "1", "x"], true),
    (&["CACHE.FLUSH"], true),
    (&["DEL", "key"], true),
    (&["UNLINK", "key"], true),
    (&["EXPIRE", "key", "100"], true),
    (&["RENAME", "key", "other"], true),
    (&["SET", "key", "native"], true),
    (&["FLUSHDB"], true),
    (&["CACHE.GET", "key"], false),
    (&["CACHE.SET", "key", "new", "NX"], false),
    (&["CACHE.SET", "key", "new", "TAGS", "-1"], false),
    (&["CACHE.INVALIDATE", "unknown"], false),
    (&["CACHE.INSPECT", "key"], false),
    (&["CACHE.REVALIDATE", "unknown"], false),
    (&["CACHE.INVALIDATEWHERE", "ALL", "1", "a", "DRYRUN"], false),
    (&["CACHE.INVALIDATEWHERE", "NONE", "1", "a"], false),
    (&["CACHE.FETCH", "key", "LEASE", "5"], false),
    (&["CACHE.TOP"], false),
    (&["CACHE.TAGTOP"], false),
];

fn entry(client: &mut RawClient) {
    call!(client, "FLUSHALL");
    assert_eq!(
        call!(client, "CACHE.SET", "key", "v", "TAGS", 2, "a", "b"),
        Reply::ok()
    );
}

#[test]
fn watch_notices_every_change_and_nothing_else() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut client, mut other) = (server.raw(), server.raw());
        for (command, changes) in CHANGES {
            entry(&mut client);
            assert_eq!(call!(client, "WATCH", "key"), Reply::ok());
            other.call(command);
            call!(client, "MULTI");
            call!(client, "PING");
            let reply = call!(client, "EXEC");
            assert_eq!(reply.is_null(), changes, "{command:?}: {reply:?}");
        }
    });
}

#[test]
fn tracking_notifies_a_reader_of_every_change_and_nothing_else() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut reader, mut other) = (server.raw().resp3(), server.raw());
        assert_eq!(call!(reader, "CLIENT", "TRACKING", "ON"), Reply::ok());
        for read in ["CACHE.GET", "CACHE.MGET", "CACHE.FETCH"] {
            for (command, changes) in CHANGES {
                entry(&mut other);
                call!(reader, "PING");
                reader.kept_pushes();
                assert!(!call!(reader, read, "key").is_null());
                other.call(command);
                // Both connections are served in turn: pushes come before this reply.
                call!(reader, "PING");
                let notified = reader.kept_pushes().iter().any(|push| {
                    let about_key = Reply::Array(vec![Reply::bulk("key")]);
                    push[0].text() == "invalidate" && (push[1] == about_key || push[1].is_null())
                });
                assert_eq!(notified, changes, "{read}, then {command:?}");
            }
        }
    });
}

/// The filter removes the key inside the client's own turn. Servers lost the push, of tracking or of a subscription, and
/// stopped on an assertion at a later reply.
#[test]
fn client_that_names_a_refused_entry_gets_the_pushes() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--notify-keyspace-events", "EAd")
            .start();
        let mut client = server.raw().resp3();
        run!(client, "CACHE.SET key v TAGS 1 t");
        let payload = call!(client, "DUMP", "key").bytes().to_vec();
        run!(client, "CACHE.INVALIDATE t");
        run!(client, "CLIENT TRACKING ON");
        client.send(&["PSUBSCRIBE", "__keyevent@0__:*"]);
        // The server reads these at once, so it has not announced the refusal yet.
        let replies = client.pipeline(&[
            args!["RESTORE", "key", 0, payload, "REPLACE"],
            args!["CACHE.GET", "key"],
            args!["INCR", "key"],
            args!["SET", "long", "v".repeat(300_000)],
            args!["GET", "long"],
        ]);
        assert_eq!(replies[2], Reply::Int(1));
        assert_eq!(replies[4].bytes().len(), 300_000);
        call!(client, "PING");
        let key = Reply::Array(vec![Reply::bulk("key")]);
        let pushes = client.kept_pushes();
        let is_invalidation = |push: &Vec<Reply>| push[0].text() == "invalidate" && push[1] == key;
        assert!(pushes.iter().any(is_invalidation), "{pushes:?}");
        let events = pushes.iter().filter(|push| push[0].text() == "pmessage");
        let events: Vec<_> = events.map(|push| push[2].text()).collect();
        let at = |name: &str| events.iter().position(|event| event.ends_with(name));
        assert!(at(":cache.drop").is_some(), "{pushes:?}");
        assert!(at(":cache.drop") < at(":incrby"), "{pushes:?}");
    });
}

#[test]
fn tracking_notifies_of_a_large_invalidation_on_reclaiming() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut reader, mut other) = (server.raw().resp3(), server.raw());
        assert_eq!(call!(reader, "CLIENT", "TRACKING", "ON"), Reply::ok());
        for n in 0..1000 {
            call!(other, "CACHE.SET", n, "v", "TAGS", 1, "a");
            call!(reader, "CACHE.GET", n);
        }
        assert_eq!(call!(other, "CACHE.INVALIDATE", "a"), Reply::Int(1000));
        let mut notified = std::collections::BTreeSet::new();
        while notified.len() < 1000 {
            let push = reader.take_push();
            assert_eq!(push[0].text(), "invalidate");
            notified.extend(push[1].items().iter().map(Reply::text));
        }
    });
}

#[test]
fn tracking_notifies_of_entries_that_a_condition_made_stale() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut reader, mut other) = (server.raw().resp3(), server.raw());
        assert_eq!(call!(reader, "CLIENT", "TRACKING", "ON"), Reply::ok());
        for n in 0..500 {
            let key = format!("key{n}");
            let tag = if n % 2 == 0 { "even" } else { "odd" };
            run!(other, "CACHE.SET {key} v GRACE 1000000 TAGS 2 a {tag}");
            call!(reader, "CACHE.FETCH", key);
        }
        let dropped = call!(other, "CACHE.INVALIDATEWHERE", "ALL", 2, "a", "odd", "SOFT");
        assert_eq!(dropped, Reply::Int(250));
        let mut notified = std::collections::BTreeSet::new();
        while notified.len() < 250 {
            let push = reader.take_push();
            assert_eq!(push[0].text(), "invalidate");
            notified.extend(push[1].items().iter().map(Reply::text));
        }
        call!(reader, "PING");
        let rest = reader.kept_pushes();
        assert!(rest.is_empty(), "{rest:?}");
        let odd = |key: &String| key["key".len()..].parse::<i32>().is_ok_and(|n| n % 2 == 1);
        assert!(notified.iter().all(odd), "{notified:?}");
    });
}

/// The channel suffix after `__keyevent@0__:` and the key, for each event up to the marker.
fn events(subscriber: &mut RawClient, client: &mut RawClient) -> Vec<(String, String)> {
    call!(client, "SET", "marker", "v");
    let mut events = Vec::new();
    loop {
        let push = subscriber.take_push();
        let [kind, _, channel, key] = &push[..] else {
            panic!("{push:?}")
        };
        assert_eq!(kind.text(), "pmessage");
        let event = channel
            .text()
            .strip_prefix("__keyevent@0__:")
            .expect("the pattern asks for it")
            .to_owned();
        if key.text() == "marker" {
            return events;
        }
        events.push((event, key.text()));
    }
}

/// A command and the events, each with its key, that must be among those reported.
type Expected = (
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

#[test]
fn native_keyspace_events_are_sent_for_entries() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut subscriber, mut client) = (server.raw().resp3(), server.raw());
        call!(client, "CONFIG", "SET", "notify-keyspace-events", "KEA");
        subscriber.send(&["PSUBSCRIBE", "__keyevent@0__:*"]);
        assert_eq!(subscriber.take_push()[0].text(), "psubscribe");
        let expected: [Expected; 6] = [
            (&["EXPIRE", "key", "100"], &[("expire", "key")]),
            (&["PERSIST", "key"], &[("persist", "key")]),
            (
                &["RENAME", "key", "other"],
                &[("rename_from", "key"), ("rename_to", "other")],
            ),
            (&["COPY", "key", "other"], &[("copy_to", "other")]),
            (&["MOVE", "key", "1"], &[("move_from", "key")]),
            (&["DEL", "key"], &[("del", "key")]),
        ];
        for (command, expected) in expected {
            entry(&mut client);
            // PERSIST needs a TTL to remove.
            call!(client, "CACHE.TOUCH", "key", "EX", 1000);
            events(&mut subscriber, &mut client);
            assert!(!client.call(command).is_error());
            let seen = events(&mut subscriber, &mut client);
            for (event, key) in expected {
                let wanted = ((*event).to_owned(), (*key).to_owned());
                assert!(seen.contains(&wanted), "{command:?}: {seen:?}");
            }
        }
        entry(&mut client);
        events(&mut subscriber, &mut client);
        call!(client, "PEXPIREAT", "key", 1);
        let seen = events(&mut subscriber, &mut client);
        // Servers give this event different names.
        let notified = seen
            .iter()
            .any(|(event, key)| ["del", "expired"].contains(&event.as_str()) && key == "key");
        assert!(notified, "{seen:?}");
    });
}

#[test]
fn only_commands_that_change_a_key_send_an_event_for_it() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut subscriber, mut client) = (server.raw().resp3(), server.raw());
        call!(client, "CONFIG", "SET", "notify-keyspace-events", "KEA");
        subscriber.send(&["PSUBSCRIBE", "__keyevent@0__:*"]);
        assert_eq!(subscriber.take_push()[0].text(), "psubscribe");
        for (command, changes) in CHANGES {
            // A flush reports no event of any key, and an invalidation needs none: that makes them fast.
            let flushes = [
                "FLUSHDB",
                "CACHE.FLUSH",
                "CACHE.INVALIDATE",
                "CACHE.REVALIDATE",
                "CACHE.INVALIDATEWHERE",
            ];
            if flushes.contains(&command[0]) {
                continue;
            }
            entry(&mut client);
            events(&mut subscriber, &mut client);
            client.call(command);
            let seen = events(&mut subscriber, &mut client);
            let notified = seen.iter().any(|(_, key)| key == "key");
            assert_eq!(notified, changes, "{command:?}: {seen:?}");
        }
        entry(&mut client);
        call!(client, "CACHE.TOUCH", "key", "PX", 5);
        loop {
            let push = subscriber.take_push();
            if push[2].text() == "__keyevent@0__:expired" {
                assert_eq!(push[3].text(), "key");
                break;
            }
        }
    });
}
