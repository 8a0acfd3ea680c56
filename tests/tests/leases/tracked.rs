//! CLIENT TRACKING: the key in a waiting caller's reply is invalidated when it changes.

use tagcache_tests::fetch::{Fetched, State, Waiter, lease};
use tagcache_tests::{Engine, RawClient, Reply, Server, call, for_all_engines};

use crate::ways;

/// The ways in which the key gets an entry.
const WAYS: [&str; 8] = [
    "SET",
    "SET LEASE",
    "EXEC",
    "EVAL",
    "RENAME",
    "COPY",
    "RESTORE",
    "MOVE",
];

fn write(client: &mut RawClient, way: &str, token: i64) {
    let reply = match way {
        "SET" => ways::set(client, "key", "t"),
        "SET LEASE" => call!(
            client,
            "CACHE.SET",
            "key",
            "v",
            "LEASE",
            token,
            "TAGS",
            1,
            "t"
        ),
        "EXEC" => {
            call!(client, "MULTI");
            ways::set(client, "key", "t");
            call!(client, "EXEC").items()[0].clone()
        }
        "EVAL" => {
            let script = "return redis.call('CACHE.SET', KEYS[1], 'v', 'TAGS', 1, 't')";
            call!(client, "EVAL", script, 1, "key")
        }
        way => ways::bring(client, way, "t"),
    };
    assert!(
        reply == Reply::ok() || reply == Reply::Int(1),
        "{way}: {reply:?}"
    );
}

/// A caller on a tracking connection waits while the key is written. Returns its reply and its connection.
fn waited(server: &Server, client: &mut RawClient, mode: &str, way: &str) -> (Fetched, RawClient) {
    call!(client, "FLUSHALL");
    let mut reader = server.raw().resp3();
    let mut tracking = vec!["CLIENT", "TRACKING", "ON"];
    tracking.extend(mode.split_whitespace());
    assert_eq!(reader.call(&tracking), Reply::ok());
    let token = lease(client, "key");
    if mode == "OPTIN" {
        assert_eq!(call!(reader, "CLIENT", "CACHING", "YES"), Reply::ok());
    }
    let mut waiter = Waiter::start_on(server, reader, "key", 600_000);
    write(client, way, token);
    let answer = waiter.answer();
    let mut reader = waiter.into_client();
    // Pushes before the reply do not concern it.
    reader.kept_pushes();
    (answer, reader)
}

/// Whether the key was invalidated since then.
fn is_invalidated(reader: &mut RawClient) -> bool {
    call!(reader, "PING");
    let pushes = reader.kept_pushes();
    pushes.iter().any(|push| {
        push[0].bytes() == b"invalidate" && push[1].items().iter().any(|key| key.bytes() == b"key")
    })
}

/// Servers from Redis 7.2 on count a read for the client that is being served.
fn reads_on_behalf(engine: &Engine) -> bool {
    engine.is_valkey() || engine.version() >= (7, 2)
}

#[test]
fn tracking_invalidates_a_value_served_to_a_waiter() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for mode in ["", "OPTIN", "OPTOUT", "NOLOOP"] {
            for way in WAYS {
                for change in [
                    &["CACHE.SET", "key", "new"][..],
                    &["CACHE.DEL", "key"],
                    &["DEL", "key"],
                    &["CACHE.INVALIDATE", "t"],
                ] {
                    let (answer, mut reader) = waited(&server, &mut client, mode, way);
                    let is_native = ["RENAME", "COPY", "RESTORE", "MOVE"].contains(&way);
                    if is_native && !reads_on_behalf(engine) {
                        assert!(answer.is_miss(), "{mode} {way}: {answer:?}");
                        continue; // There is nothing to keep.
                    }
                    assert!(answer.is_hit("v"), "{mode} {way}: {answer:?}");
                    client.call(change);
                    assert!(is_invalidated(&mut reader), "{mode} {way}, then {change:?}");
                }
            }
        }
    });
}

#[test]
fn a_miss_at_the_end_of_a_wait_is_tracked() {
    for_all_engines(|engine| {
        if !reads_on_behalf(engine) {
            return; // As the reference explains.
        }
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        for meanwhile in [
            "nothing",
            "deleted",
            "removed natively",
            "flushed",
            "CACHE.FLUSH",
        ] {
            call!(client, "FLUSHALL");
            lease(&mut client, "key");
            let mut first = Waiter::start(&server, "key", 600_000);
            let mut reader = server.raw().resp3();
            assert_eq!(call!(reader, "CLIENT", "TRACKING", "ON"), Reply::ok());
            let id = call!(reader, "CLIENT", "ID").int();
            let mut second = Waiter::start_on(&server, reader, "key", 600_000);
            match meanwhile {
                "deleted" | "removed natively" => {
                    let del = if meanwhile == "deleted" {
                        "CACHE.DEL"
                    } else {
                        "DEL"
                    };
                    call!(client, "MULTI");
                    call!(client, "CACHE.SET", "key", "v");
                    call!(client, del, "key");
                    call!(client, "EXEC");
                }
                "flushed" => drop(call!(client, "FLUSHALL")),
                "CACHE.FLUSH" => drop(call!(client, "CACHE.FLUSH")),
                _ => {}
            }
            if meanwhile != "nothing" {
                // The lease goes to the first caller; the second keeps waiting.
                let answer = first.answer();
                assert!(answer.is_miss_with_token(), "{meanwhile}: {answer:?}");
            }
            call!(client, "CLIENT", "UNBLOCK", id, "TIMEOUT");
            assert!(second.answer().is_miss(), "{meanwhile}");
            let mut reader = second.into_client();
            reader.kept_pushes();
            call!(client, "CACHE.SET", "key", "new");
            assert!(is_invalidated(&mut reader), "{meanwhile}");
        }
    });
}

#[test]
fn a_served_value_is_not_invalidated_before_it_changes() {
    for_all_engines(|engine| {
        if !reads_on_behalf(engine) {
            return; // There, the invalidation that the write caused follows the reply.
        }
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let (answer, mut reader) = waited(&server, &mut client, "", "SET");
        assert_eq!(answer.state, State::Hit);
        assert!(!is_invalidated(&mut reader));
        call!(client, "CACHE.SET", "unrelated", "v");
        assert!(!is_invalidated(&mut reader));
        // A caller without tracking costs no read on its behalf.
        let before = inspections(&mut client);
        lease(&mut client, "plain");
        let mut waiter = Waiter::start(&server, "plain", 600_000);
        call!(client, "CACHE.SET", "plain", "v");
        assert!(waiter.answer().is_hit("v"));
        assert_eq!(inspections(&mut client), before);
    });
}

/// The number of CACHE.INSPECT calls.
fn inspections(client: &mut RawClient) -> i64 {
    let stats = call!(client, "INFO", "commandstats").text();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_cache.inspect:calls="));
    line.map_or(0, |line| {
        line.split(',')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number")
    })
}
