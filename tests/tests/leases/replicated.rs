//! Leases belong to the node: replicas grant none, none are replicated, a failover voids them.

use tagcache_tests::fetch::{Waiter, fetch, fetch_lease, fetched, lease, set_leased, waiters};
use tagcache_tests::look::{info_text, stat};
use tagcache_tests::state::{assert_same, replicated, wait_synchronised};
use tagcache_tests::stream::{ReplicationStream, words};
use tagcache_tests::{
    DEADLINE, Reply, Server, call, for_all_engines, for_each_engine, run, wait_until,
};

fn names_lease(command: &[String]) -> bool {
    command
        .iter()
        .any(|word| word.eq_ignore_ascii_case("LEASE"))
}

#[test]
fn on_a_replica_fetch_grants_no_lease_and_does_not_wait() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let (mut client, mut reader) = (primary.raw(), replica.raw());
        call!(client, "CACHE.SET", "there", "v", "TAGS", 1, "a");
        let stale = [
            "CACHE.SET",
            "stale",
            "v",
            "GRACE",
            "100000",
            "TAGS",
            "1",
            "s",
        ];
        client.call(&stale);
        call!(client, "CACHE.REVALIDATE", "s");
        lease(&mut client, "key");
        wait_synchronised(&primary, &replica);
        for key in ["key", "missing"] {
            let miss = call!(reader, "CACHE.FETCH", key, "LEASE", 60_000, "WAIT", 600_000);
            assert!(fetched(&miss).is_miss(), "{key}: {miss:?}");
        }
        assert!(fetch_lease(&mut reader, "there", 1000).is_hit("v"));
        let answer = fetch_lease(&mut reader, "stale", 1000);
        assert!(answer.is_stale("v") && answer.token == 0, "{answer:?}");
        assert_eq!(stat(&mut reader, "leases"), 0);
        assert_eq!(waiters(&mut reader), 0);
        let release = call!(reader, "CACHE.RELEASE", "key", 1);
        assert!(
            release == Reply::Int(0) || release.error().is_some_and(|e| e.starts_with("READONLY")),
            "{release:?}"
        );
    });
}

#[test]
fn a_leased_set_replicates_as_a_plain_set_if_it_is_not_refused() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--repl-diskless-sync", "no")
            .start();
        let mut client = server.raw();
        let mut stream = ReplicationStream::attach(&server);
        let refused = lease(&mut client, "refused");
        let token = lease(&mut client, "key");
        fetch(&mut client, "key");
        let mut waiter = Waiter::start(&server, "key", 600_000);
        call!(client, "CACHE.INVALIDATE", "a");
        assert!(!set_leased(&mut client, "refused", "old", refused, &["a"]));
        assert!(set_leased(&mut client, "key", "new", token, &["b"]));
        assert!(waiter.answer().is_hit("new"));
        let second = lease(&mut client, "second");
        call!(client, "CACHE.RELEASE", "second", second);
        let third = lease(&mut client, "third");
        run!(client, "CACHE.SET third v LEASE {third} GRACE 500 EX 1000");
        let seen: Vec<_> = stream.commands(&server).iter().map(words).collect();
        assert_eq!(seen[0], ["cache.invalidate", "a"]);
        assert_eq!(seen[1][..3], ["cache.set", "key", "new"]);
        assert!(seen[1].ends_with(&["TAGS", "1", "b"].map(str::to_owned)));
        assert_eq!(seen[2][..3], ["cache.set", "third", "v"]);
        assert!(seen.iter().all(|command| !names_lease(command)), "{seen:?}");
        assert_eq!(seen.len(), 3, "{seen:?}");
    });
}

#[test]
fn a_set_refused_for_its_lease_is_on_no_node() {
    for_each_engine(|engine| {
        let (primary, replica) = replicated(engine);
        let mut client = primary.raw();
        for n in 0..100 {
            let key = format!("key{n}");
            let token = lease(&mut client, &key);
            if n % 2 == 0 {
                call!(client, "CACHE.INVALIDATE", "a");
            }
            assert_eq!(
                set_leased(&mut client, &key, "v", token, &["a"]),
                n % 2 == 1
            );
        }
        assert_same(&primary, &replica, &[0]);
        // Each invalidation dropped the entry that was written before it.
        assert_eq!(stat(&mut replica.raw(), "entries"), 1);
    });
}

#[test]
fn a_token_of_the_old_primary_is_refused_by_the_new_one() {
    for_all_engines(|engine| {
        let (mut primary, replica) = replicated(engine);
        let (mut client, mut there) = (primary.raw(), replica.raw());
        let old: Vec<_> = (0..20)
            .map(|n| lease(&mut client, &format!("key{n}")))
            .collect();
        primary.kill_9();
        assert_eq!(call!(there, "REPLICAOF", "NO", "ONE"), Reply::ok());
        let new = lease(&mut there, "key0");
        for (n, token) in old.iter().enumerate() {
            assert!(!set_leased(
                &mut there,
                &format!("key{n}"),
                "old",
                *token,
                &[]
            ));
        }
        assert!(set_leased(&mut there, "key0", "new", new, &[]));
        assert_eq!(stat(&mut there, "leases_refused"), 20);
    });
}

#[test]
fn a_demoted_primary_releases_waiters_and_forgets_leases() {
    for_all_engines(|engine| {
        let (primary, other) = (
            Server::builder().engine(engine).start(),
            Server::builder().engine(engine).start(),
        );
        let mut client = primary.raw();
        let token = lease(&mut client, "key");
        let mut waiter = Waiter::start(&primary, "key", 600_000);
        let role = call!(client, "REPLICAOF", "127.0.0.1", other.port());
        assert_eq!(role, Reply::ok());
        let reply = waiter.reply();
        assert!(
            reply.error().is_some_and(|e| e.starts_with("UNBLOCKED ")) || fetched(&reply).is_miss(),
            "{reply:?}"
        );
        wait_until("it follows", DEADLINE, || {
            info_text(&mut client, "master_link_status") == "up"
        });
        assert_eq!(waiters(&mut client), 0);
        assert_eq!(stat(&mut client, "leases"), 0);
        call!(client, "REPLICAOF", "NO", "ONE");
        assert!(
            !set_leased(&mut client, "key", "old", token, &[]),
            "it was granted before two changes of role"
        );
        let token = lease(&mut client, "key");
        assert!(set_leased(&mut client, "key", "new", token, &[]));
    });
}

#[test]
fn leases_are_not_written_to_the_append_only_file() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--appendonly", "yes")
            .start();
        let mut client = server.raw();
        let token = lease(&mut client, "key");
        assert!(set_leased(&mut client, "key", "v", token, &["a"]));
        let held = lease(&mut client, "held");
        let old = lease(&mut client, "refused");
        call!(client, "CACHE.INVALIDATE", "a");
        assert!(!set_leased(&mut client, "refused", "old", old, &["a"]));
        assert_eq!(call!(client, "DEBUG", "LOADAOF"), Reply::ok());
        assert!(fetch(&mut client, "key").value.is_none());
        assert!(fetch(&mut client, "refused").value.is_none());
        call!(client, "CACHE.RELEASE", "held", held);
        let commands = tagcache_tests::stream::aof_commands(server.dir(), ".incr.aof");
        let seen: Vec<_> = commands.iter().map(words).collect();
        let names: Vec<_> = seen.iter().map(|command| command[0].as_str()).collect();
        assert_eq!(names, ["cache.set", "cache.invalidate"], "{seen:?}");
        assert!(!names_lease(&seen[0]), "{seen:?}");
    });
}
