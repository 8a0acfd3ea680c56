//! Leases and the marks of invalidated tags use bounded memory, and release it.

use tagcache_tests::look::{info, stat, wait_reclaimed};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Server, args, call, for_each_engine, send, wait_until,
};

fn used(client: &mut RawClient) -> i64 {
    info(client, "used_memory")
}

/// Sends a command for each number, in pipelines.
fn each(client: &mut RawClient, count: usize, command: impl Fn(usize) -> Vec<Vec<u8>>) {
    let numbers: Vec<usize> = (0..count).collect();
    for numbers in numbers.chunks(10_000) {
        let commands: Vec<_> = numbers.iter().map(|n| command(*n)).collect();
        for reply in client.pipeline(&commands) {
            assert!(!reply.is_error(), "{reply:?}");
        }
    }
}

/// The memory of a fresh server once its connection's buffers have grown.
fn start(client: &mut RawClient) -> i64 {
    each(client, 10_000, |n| {
        args!["CACHE.FETCH", format!("a key that nobody loads {n}")]
    });
    used(client)
}

#[test]
fn short_waits_beside_a_long_wait_leave_no_memory() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut client, mut other) = (server.raw(), server.raw());
        call!(client, "CACHE.FETCH", "long", "LEASE", 60_000);
        let mut waiter = server.raw();
        send!(waiter, "CACHE.FETCH", "long", "WAIT", 600_000);
        wait_until("it waits", DEADLINE, || {
            stat(&mut client, "lease_waiters") == 1
        });
        let mut waits = |count| {
            for _ in 0..count {
                call!(client, "CACHE.FETCH", "short", "LEASE", 1);
                call!(other, "CACHE.FETCH", "short", "LEASE", 1, "WAIT", 60_000);
            }
            used(&mut client)
        };
        let before = waits(200);
        let grown = waits(600) - before;
        assert!(grown < 20_000, "{grown} bytes");
    });
}

#[test]
fn the_memory_of_200_000_leases_is_freed_when_they_run_out() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let before = start(&mut client);
        let fetch = |n: usize| {
            args![
                "CACHE.FETCH",
                format!("key that nobody loads {n}"),
                "LEASE",
                2000
            ]
        };
        each(&mut client, 200_000, fetch);
        let full = used(&mut client);
        assert!(stat(&mut client, "leases") <= 200_000);
        assert!(
            full < before + 200_000 * 600,
            "{} bytes a lease",
            (full - before) / 200_000
        );
        wait_until("they have run out", DEADLINE * 2, || {
            stat(&mut client, "leases") == 0
        });
        call!(client, "CACHE.FLUSH");
        wait_reclaimed(&mut client);
        let bound = before + (full - before) / 20;
        wait_until("their memory is back", DEADLINE * 3, || {
            used(&mut client) <= bound
        });
    });
}

#[test]
fn used_released_and_deleted_leases_leave_no_memory() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let before = start(&mut client);
        let mut full = 0;
        for round in 0..3 {
            let fetch = |n: usize| args!["CACHE.FETCH", format!("key{n}"), "LEASE", 60_000];
            let numbers: Vec<usize> = (0..30_000).collect();
            let commands: Vec<_> = numbers.iter().map(|n| fetch(*n)).collect();
            let tokens: Vec<i64> = client
                .pipeline(&commands)
                .iter()
                .map(|reply| reply.items()[3].int())
                .collect();
            assert!(tokens.iter().all(|token| *token > 0));
            full = full.max(used(&mut client));
            each(&mut client, 30_000, |n| match (n + round) % 3 {
                0 => args!["CACHE.SET", format!("key{n}"), "v", "LEASE", tokens[n]],
                1 => args!["CACHE.RELEASE", format!("key{n}"), tokens[n]],
                _ => args!["CACHE.DEL", format!("key{n}")],
            });
            assert_eq!(stat(&mut client, "leases"), 0);
            assert_eq!(stat(&mut client, "entries"), 10_000);
            call!(client, "CACHE.FLUSH");
            wait_reclaimed(&mut client);
        }
        let bound = before + (full - before) / 10;
        wait_until("the memory is back", DEADLINE * 3, || {
            used(&mut client) <= bound
        });
    });
}

#[test]
fn the_marks_of_invalidated_tags_are_bounded() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let before = start(&mut client);
        let mut most = 0;
        for part in 0..4 {
            each(&mut client, 120_000, |n| {
                let command = if n % 2 == 0 {
                    "CACHE.INVALIDATE"
                } else {
                    "CACHE.REVALIDATE"
                };
                args![command, format!("a tag without any entry {part} {n}")]
            });
            let now = used(&mut client);
            if part == 0 {
                most = now + (now - before) / 2;
            }
            assert!(now <= most, "part {part}: {before} {now}, at most {most}");
        }
    });
}

#[test]
fn a_forgotten_invalidation_still_voids_earlier_leases() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let token = tagcache_tests::fetch::lease(&mut client, "key");
        let other = tagcache_tests::fetch::lease(&mut client, "other");
        call!(client, "CACHE.INVALIDATE", "mine");
        // Enough invalidations for the first ones to be forgotten.
        each(&mut client, 400_000, |n| {
            args!["CACHE.INVALIDATE", format!("tag{n}")]
        });
        assert!(
            !tagcache_tests::fetch::set_leased(&mut client, "key", "old", token, &["mine"]),
            "what is not known to be new is refused"
        );
        assert!(
            tagcache_tests::fetch::set_leased(&mut client, "other", "v", other, &[]),
            "a value without tags has no tag that was invalidated"
        );
    });
}

#[test]
fn leases_of_large_keys_are_bounded_in_bytes() {
    for_each_engine(|engine| {
        bounded_in_bytes(engine, &[]);
        bounded_in_bytes(engine, &["TOKEN", "5"]);
    });
}

fn bounded_in_bytes(engine: &Engine, options: &[&str]) {
    let server = Server::builder().engine(engine).start();
    let mut client = server.raw();
    call!(client, "CONFIG", "SET", "tagcache.lease-orphan-ms", 0);
    let fetch = |n: usize| {
        let key = [format!("{n} ").into_bytes(), vec![b'x'; 500_000]].concat();
        let mut command = args!["CACHE.FETCH", key, "LEASE", 60_000];
        command.extend(options.iter().map(|word| word.as_bytes().to_vec()));
        command
    };
    let mut holder = server.raw();
    let granted = |client: &mut RawClient, n: usize| {
        // In several databases: the bound applies to all of them together.
        call!(client, "SELECT", n % 4);
        tagcache_tests::fetch::fetched(&client.call(&fetch(n))).token > 0
    };
    let before = used(&mut client);
    let count = (0..400).filter(|&n| granted(&mut holder, n)).count();
    assert!((120..140).contains(&count), "{count} were granted");
    drop(holder);
    wait_until("they have run out", DEADLINE, || {
        info(&mut client, "tagcache_leases") == 0
    });
    let full = used(&mut client);
    assert!(full - before < 80 << 20, "{} bytes", full - before);
    // Leases that have run out make room, although they are still remembered.
    for n in 400..500 {
        assert!(granted(&mut client, n), "{n}");
    }
    let full = used(&mut client);
    assert!(full - before < 80 << 20, "{} bytes", full - before);
    call!(client, "FLUSHALL");
    let bound = before + (full - before) / 10;
    wait_until("their memory is back", DEADLINE, || {
        used(&mut client) <= bound
    });
}

#[test]
fn leases_are_bounded_in_number() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let numbers: Vec<usize> = (0..100_010).collect();
        let mut granted = 0;
        for numbers in numbers.chunks(10_000) {
            let fetch = |n: &usize| args!["CACHE.FETCH", format!("key{n}"), "LEASE", 60_000];
            let commands: Vec<_> = numbers.iter().map(fetch).collect();
            let replies = client.pipeline(&commands);
            granted += replies.iter().filter(|r| r.items()[3].int() > 0).count();
        }
        assert_eq!(granted, 100_000);
        assert_eq!(stat(&mut client, "leases"), 100_000);
        // At the bound a caller gets a reply at once, and the key can be written.
        let miss = call!(client, "CACHE.FETCH", "another", "LEASE", 5, "WAIT", 60_000);
        assert!(tagcache_tests::fetch::fetched(&miss).is_miss());
        call!(client, "CACHE.SET", "another", "v");
        call!(client, "CACHE.RELEASE", "key7", 1);
    });
}
