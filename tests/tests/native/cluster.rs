//! Cluster mode: tags are not keys, slots move with their entries.

use std::time::Duration;

use tagcache_tests::cluster::{add_replica, addresses, builder, info_of_cluster, node, pair};
use tagcache_tests::fetch::{fetch, lease, set_leased};
use tagcache_tests::look::{assert_index_agrees, info_text, inspect, stat, wait_reclaimed};
use tagcache_tests::state::{assert_same, wait_synchronised};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, args, call, command, for_all_engines, run,
    wait_until,
};

/// A node that owns all slots.
fn alone(engine: &Engine) -> Server {
    let server = node(engine);
    let mut client = server.raw();
    call!(client, "CLUSTER", "ADDSLOTSRANGE", 0, 16_383);
    wait_until("the cluster is up", DEADLINE, || {
        info_of_cluster(&mut client, "cluster_state") == "ok"
    });
    server
}

#[test]
fn tags_of_any_slot_are_invalidated_in_one_command() {
    for_all_engines(|engine| {
        let server = alone(engine);
        let mut client = server.raw();
        for n in 0..300 {
            let tags = [format!("one{}", n % 3), format!("two{n}")];
            assert_eq!(
                call!(client, "CACHE.SET", n, "v", "TAGS", 2, tags[0], tags[1]),
                Reply::ok()
            );
        }
        assert_eq!(
            run!(client, "CACHE.INVALIDATE one0 two1 two2 unknown"),
            Reply::Int(102)
        );
        assert_eq!(
            call!(client, "CACHE.TAGINFO", "one1").field("entries"),
            Reply::Int(99)
        );
        let crossing = call!(client, "CACHE.MGET", 1, 2, 3);
        assert!(
            crossing
                .error()
                .is_some_and(|e| e.starts_with("CROSSSLOT ")),
            "keys are keys: {crossing:?}"
        );
        assert!(!call!(client, "CACHE.MGET", "{x}1", "{x}2").is_error());
        assert_index_agrees(&server, &[0], &[b"one0"]);
    });
}

#[test]
fn multi_key_commands_are_routed_by_slot_and_need_a_common_one() {
    for_all_engines(|engine| {
        let (first, second) = pair(engine);
        let (mut here, mut there) = (first.raw(), second.raw());
        let mset = "CACHE.MSET 2 {a}one 1 {a}two 2 TAGS 1 t";
        let words: Vec<&str> = mset.split(' ').collect();
        assert_eq!(here.call(&words), Reply::Int(2));
        for command in [
            mset,
            "CACHE.EXISTS {a}one {a}two",
            "CACHE.MFETCH {a}one {a}two",
            "CACHE.RETAG {a}one TAGS 0",
            "CACHE.GETDEL {a}one",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            let reply = there.call(&words);
            assert!(
                reply.error().is_some_and(|e| e.starts_with("MOVED ")),
                "{command}: {reply:?}"
            );
        }
        for command in [
            "CACHE.MSET 2 a 1 b 2",
            "CACHE.MSET 3 {a}1 1 {a}2 2 b 3 NX",
            "CACHE.EXISTS a b",
            "CACHE.MFETCH a b",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            let reply = here.call(&words);
            assert!(
                reply.error().is_some_and(|e| e.starts_with("CROSSSLOT ")),
                "{command}: {reply:?}"
            );
        }
        assert_eq!(run!(here, "CACHE.HOLD 1 t"), Reply::ok());
        assert_eq!(run!(there, "CACHE.HOLD 1 t"), Reply::ok());
        assert_eq!(run!(here, "DBSIZE"), Reply::Int(2));
    });
}

#[test]
fn transactions_and_scripts_see_entries_of_all_slots() {
    for_all_engines(|engine| {
        let server = alone(engine);
        let mut client = server.raw();
        for n in 0..50 {
            call!(client, "CACHE.SET", n, "v", "TAGS", 1, "tag");
            call!(client, "CACHE.GET", n);
        }
        let block = [
            "MULTI",
            "CACHE.GET 1",
            "CACHE.TAGSCAN tag 0 COUNT 100",
            "CACHE.TOP 100",
            "EXEC",
        ];
        let replies = client.pipeline(&block.map(tagcache_tests::split));
        let [_, scanned, top] = replies[4].items() else {
            panic!("{replies:?}")
        };
        assert_eq!(scanned.items()[1].items().len(), 50);
        assert_eq!(top.items().len(), 50);
        let script = "redis.call('CACHE.GET', KEYS[1])
            return #redis.call('CACHE.TAGSCAN', 'tag', '0', 'COUNT', '100')[2]";
        assert_eq!(call!(client, "EVAL", script, 1, 1), Reply::Int(50));
    });
}

#[test]
fn writes_during_a_backlog_leave_no_gone_keys_of_other_slots() {
    for_all_engines(|engine| {
        let server = builder(engine)
            .module_args(&["reclaim-inline", "0", "reclaim-budget-us", "50"])
            .start();
        let mut client = server.raw();
        call!(client, "CLUSTER", "ADDSLOTSRANGE", 0, 16_383);
        wait_until("the cluster is up", DEADLINE, || {
            info_of_cluster(&mut client, "cluster_state") == "ok"
        });
        let set = |n: usize, tag: &str| args!["CACHE.SET", format!("key{n}"), n, "TAGS", 1, tag];
        let sets: Vec<_> = (0..5_000).map(|n| set(n, "gone")).collect();
        client.pipeline(&sets);
        let writes: Vec<_> = std::iter::once(args!["CACHE.INVALIDATE", "gone"])
            .chain((5_000..5_500).map(|n| set(n, "kept")))
            .collect();
        client.pipeline(&writes);
        wait_reclaimed(&mut client);
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(500));
        assert_index_agrees(&server, &[0], &[b"gone"]);
    });
}

#[test]
fn a_slot_moved_key_by_key_keeps_its_entries() {
    for_all_engines(|engine| {
        let (first, second) = pair(engine);
        let (mut here, mut there) = (first.raw(), second.raw());
        for n in 0..200 {
            let reply = call!(
                here,
                "CACHE.SET",
                format!("{{x}}{n}"),
                n,
                "EX",
                10_000,
                "TAGS",
                2,
                "a",
                "b"
            );
            assert_eq!(reply, Reply::ok());
        }
        call!(here, "CACHE.SET", "elsewhere", "v", "TAGS", 1, "a");
        let slot = call!(here, "CLUSTER", "KEYSLOT", "{x}1").int();
        let ((source, _), (target, _)) = (addresses(&mut here), addresses(&mut there));
        assert_eq!(
            call!(there, "CLUSTER", "SETSLOT", slot, "IMPORTING", source),
            Reply::ok()
        );
        assert_eq!(
            call!(here, "CLUSTER", "SETSLOT", slot, "MIGRATING", target),
            Reply::ok()
        );
        loop {
            let keys = call!(here, "CLUSTER", "GETKEYSINSLOT", slot, 50);
            if keys.items().is_empty() {
                break;
            }
            let mut migrate = args!["MIGRATE", "127.0.0.1", second.port(), "", 0, 20_000, "KEYS"];
            migrate.extend(keys.items().iter().map(|key| key.bytes().to_vec()));
            assert_eq!(here.call(&migrate), Reply::ok());
        }
        for client in [&mut there, &mut here] {
            assert_eq!(
                call!(client, "CLUSTER", "SETSLOT", slot, "NODE", target),
                Reply::ok()
            );
        }
        assert_index_agrees(&first, &[0], &[b"b"]);
        assert_index_agrees(&second, &[0], &[]);
        assert_eq!(
            (stat(&mut here, "entries"), stat(&mut there, "entries")),
            (1, 200)
        );
        assert_eq!(call!(there, "CACHE.GET", "{x}42"), Reply::bulk("42"));
        assert!(inspect(&mut there, "{x}42").unwrap().expires);
        assert_eq!(call!(there, "CACHE.INVALIDATE", "b"), Reply::Int(200));
        assert_eq!(call!(here, "CACHE.INVALIDATE", "a"), Reply::Int(1));
    });
}

/// Moves a slot without keys.
fn move_slot(slot: i64, from: &mut RawClient, to: &mut RawClient) {
    let ((source, _), (target, _)) = (addresses(from), addresses(to));
    let importing = call!(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", source);
    assert_eq!(importing, Reply::ok());
    let migrating = call!(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", target);
    assert_eq!(migrating, Reply::ok());
    for client in [&mut *to, &mut *from] {
        let moved = call!(client, "CLUSTER", "SETSLOT", slot, "NODE", target);
        assert_eq!(moved, Reply::ok());
    }
}

#[test]
fn a_lease_does_not_survive_the_move_of_its_slot() {
    for_all_engines(|engine| {
        let (first, second) = pair(engine);
        let (mut here, mut there) = (first.raw(), second.raw());
        let token = lease(&mut here, "key");
        let slot = call!(here, "CLUSTER", "KEYSLOT", "key").int();
        move_slot(slot, &mut here, &mut there);
        assert!(
            !set_leased(&mut there, "key", "old", token, &[]),
            "a lease of the node that had the slot before"
        );
        let own = lease(&mut there, "key");
        assert!(set_leased(&mut there, "key", "new", own, &[]));
        // Deleted at the slot's present node: the first node cannot know.
        assert_eq!(call!(there, "CACHE.DEL", "key"), Reply::Int(1));
        move_slot(slot, &mut there, &mut here);
        assert!(
            !set_leased(&mut here, "key", "old", token, &[]),
            "a lease from before the slot went away and came back"
        );
        let new = lease(&mut here, "key");
        assert!(set_leased(&mut here, "key", "new", new, &[]));
    });
}

#[test]
fn an_entry_that_migrates_keeps_state_and_grace() {
    for_all_engines(|engine| {
        let (first, second) = pair(engine);
        let (mut here, mut there) = (first.raw(), second.raw());
        for (key, tag) in [("{x}stale", "soft"), ("{x}fresh", "other")] {
            let set = command!("CACHE.SET {key} v EX 10000 GRACE 1000000 TAGS 1 {tag}");
            assert_eq!(here.call(&set), Reply::ok());
        }
        assert_eq!(call!(here, "CACHE.REVALIDATE", "soft"), Reply::Int(1));
        let slot = call!(here, "CLUSTER", "KEYSLOT", "{x}stale").int();
        let ((source, _), (target, _)) = (addresses(&mut here), addresses(&mut there));
        call!(there, "CLUSTER", "SETSLOT", slot, "IMPORTING", source);
        call!(here, "CLUSTER", "SETSLOT", slot, "MIGRATING", target);
        let migrate = args![
            "MIGRATE",
            "127.0.0.1",
            second.port(),
            "",
            0,
            20_000,
            "KEYS",
            "{x}stale",
            "{x}fresh"
        ];
        assert_eq!(here.call(&migrate), Reply::ok());
        for client in [&mut there, &mut here] {
            call!(client, "CLUSTER", "SETSLOT", slot, "NODE", target);
        }
        assert!(fetch(&mut there, "{x}stale").is_stale("v"));
        assert!(fetch(&mut there, "{x}fresh").is_hit("v"));
        let grace = call!(there, "CACHE.INSPECT", "{x}stale").field("grace");
        assert_eq!(grace, Reply::Int(1_000_000));
        assert_index_agrees(&second, &[0], &[b"soft"]);
    });
}

#[test]
fn a_slot_moved_as_a_whole_keeps_its_entries() {
    for_all_engines(|engine| {
        let (first, second) = pair(engine);
        let (mut here, mut there) = (first.raw(), second.raw());
        if !(engine.is_valkey() && engine.version() >= (9, 0)) {
            return;
        }
        for n in 0..500 {
            let reply = call!(
                here,
                "CACHE.SET",
                format!("{{x}}{n}"),
                n,
                "EX",
                10_000,
                "TAGS",
                2,
                "a",
                "b"
            );
            assert_eq!(reply, Reply::ok());
            call!(here, "CACHE.GET", format!("{{x}}{n}"));
        }
        call!(here, "CACHE.SET", "elsewhere", "v", "TAGS", 1, "a");
        let slot = call!(here, "CLUSTER", "KEYSLOT", "{x}1").int();
        let (target, _) = addresses(&mut there);
        let moved = run!(
            here,
            "CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {target}"
        );
        assert_eq!(moved, Reply::ok());
        wait_until("the slot has moved", DEADLINE, || {
            call!(there, "CACHE.GET", "{x}42") == Reply::bulk("42")
        });
        wait_until("the source has let go of it", DEADLINE, || {
            call!(here, "DBSIZE") == Reply::Int(1)
        });
        assert_index_agrees(&first, &[0], &[b"b"]);
        assert_index_agrees(&second, &[0], &[]);
        let entry = inspect(&mut there, "{x}43").unwrap();
        assert_eq!((entry.hits, entry.expires), (1, true));
        assert_eq!(call!(there, "CACHE.INVALIDATE", "b"), Reply::Int(500));
        assert_eq!(info_text(&mut there, "cluster_enabled"), "1");
    });
}

#[test]
fn a_slot_that_returns_without_a_new_epoch_ends_its_leases() {
    for_all_engines(|engine| {
        let (first, _second) = pair(engine);
        let mut here = first.raw();
        let (id, _) = addresses(&mut here);
        let slot = call!(here, "CLUSTER", "KEYSLOT", "key").int().to_string();
        for back in [
            &["cluster", "addslots", &slot][..],
            &["CLUSTER", "ADDSLOTSRANGE", &slot, &slot],
            &["CLUSTER", "SETSLOT", &slot, "NODE", &id],
        ] {
            let token = lease(&mut here, "key");
            assert_eq!(call!(here, "CLUSTER", "DELSLOTS", slot), Reply::ok());
            // Changes of the key happen on another node meanwhile.
            assert_eq!(here.call(back), Reply::ok());
            let is_written = set_leased(&mut here, "key", "old", token, &[]);
            assert!(!is_written, "{back:?}");
            let token = lease(&mut here, "key");
            assert!(set_leased(&mut here, "key", "new", token, &[]));
            call!(here, "CACHE.DEL", "key");
        }
        // Queued before the lease is granted, and run after it.
        let mut admin = first.raw();
        call!(admin, "MULTI");
        call!(admin, "CLUSTER", "DELSLOTS", slot);
        call!(admin, "CLUSTER", "ADDSLOTS", slot);
        // No lease is left, and the server's cron has noticed it.
        std::thread::sleep(Duration::from_millis(300));
        lease(&mut here, "other");
        let token = lease(&mut here, "key");
        call!(admin, "EXEC");
        assert!(!set_leased(&mut here, "key", "old", token, &[]));
    });
}

#[test]
fn queued_slot_changes_end_leases_granted_before_exec() {
    for_all_engines(|engine| {
        let (first, _second) = pair(engine);
        let mut here = first.raw();
        if info_text(&mut here, "redis_version").starts_with("7.0.") {
            return; // This server does not identify the command's client.
        }
        let slot = call!(here, "CLUSTER", "KEYSLOT", "key").int().to_string();
        let mut queued = [("DELSLOTS", first.raw()), ("ADDSLOTS", first.raw())];
        for (command, admin) in &mut queued {
            call!(admin, "MULTI");
            call!(admin, "CLUSTER", *command, slot);
        }
        let token = lease(&mut here, "key");
        let idle = lease(&mut here, "other");
        // No lease ends by commands that are only queued, nor by an EXEC without MULTI.
        let block = ["MULTI", "CLUSTER INFO", "DBSIZE", "EXEC", "EXEC"];
        here.pipeline(&block.map(tagcache_tests::split));
        assert!(set_leased(&mut here, "other", "v", idle, &[]));
        // Changes of the key in between happen on another node.
        for (_, admin) in &mut queued {
            let reply = call!(admin, "EXEC");
            assert_eq!(reply.items(), [Reply::ok()]);
        }
        assert!(!set_leased(&mut here, "key", "old", token, &[]));
        let token = lease(&mut here, "key");
        assert!(set_leased(&mut here, "key", "new", token, &[]));
    });
}

#[test]
fn leased_writes_do_not_query_cluster_info() {
    for_all_engines(|engine| {
        let server = alone(engine);
        let mut client = server.raw();
        let mut load = |count: i64| {
            for n in 0..count {
                let token = lease(&mut client, &format!("key{n}"));
                // Commands that cluster clients send regularly end no lease.
                if n % 50 == 0 {
                    call!(client, "CLUSTER", "SLOTS");
                    call!(client, "CLUSTER", "NODES");
                    call!(client, "CLUSTER", "MYID");
                }
                assert!(set_leased(&mut client, &format!("key{n}"), "v", token, &[]));
            }
            call!(client, "CACHE.FLUSH");
            let stats = call!(client, "INFO", "commandstats").text();
            let calls = stats.lines().find_map(|line| {
                let rest = line.strip_prefix("cmdstat_cluster|info:calls=")?;
                rest.split(',').next()?.parse::<i64>().ok()
            });
            calls.expect("the cron asked for it")
        };
        let before = load(100);
        // The server's cron queries the cluster while there are leases, ten times per second.
        let calls = load(5_000) - before;
        assert!(calls < 1_000, "{calls} calls for 5,000 writes");
    });
}

/// A replica hides expired keys from all but its primary's commands, and the primary sends no DEL for keys that it
/// reclaimed before.
#[test]
fn a_replica_reclaims_gone_entries_that_expire_meanwhile() {
    const ENTRIES: usize = 3_000;
    for_all_engines(|engine| {
        let primary = alone(engine);
        let mut client = primary.raw();
        call!(client, "CONFIG", "SET", "repl-ping-replica-period", 1);
        let replica = node(engine);
        add_replica(&primary, &replica, &[]);
        let deadline = unix_ms(&mut client) + 1_000;
        // The first to be reclaimed.
        call!(client, "CACHE.SET", "native", "v", "TAGS", 1, "t");
        call!(client, "PEXPIREAT", "native", deadline);
        let set = |n| args!["CACHE.SET", n, "v", "PXAT", deadline, "TAGS", 1, "t"];
        client.pipeline(&(0..ENTRIES).map(set).collect::<Vec<_>>());
        wait_synchronised(&primary, &replica);
        replica.pause();
        call!(client, "CACHE.INVALIDATE", "t");
        wait_reclaimed(&mut client);
        wait_until("the entries would have expired", DEADLINE, || {
            unix_ms(&mut client) > deadline
        });
        replica.resume();
        let mut reader = replica.raw();
        wait_until("the replica has reclaimed them", DEADLINE, || {
            call!(reader, "DBSIZE") == Reply::Int(0) && stat(&mut reader, "reclaim_backlog") == 0
        });
        assert_same(&primary, &replica, &[0]);
    });
}

/// A server is no replica yet while it loads its file, although the cluster lists it as one.
#[test]
fn with_drop_a_cluster_replica_keeps_the_entries_of_its_file() {
    for_all_engines(|engine| {
        let drops = |engine| builder(engine).module_args(&["after-restart", "drop"]);
        let primary = drops(engine).start();
        let mut replica = drops(engine).start();
        let mut client = primary.raw();
        call!(client, "CLUSTER", "ADDSLOTSRANGE", 0, 16_383);
        wait_until("the cluster is up", DEADLINE, || {
            info_of_cluster(&mut client, "cluster_state") == "ok"
        });
        add_replica(&primary, &replica, &[]);
        for n in 0..100 {
            run!(client, "CACHE.SET {n} v TAGS 1 t");
        }
        wait_synchronised(&primary, &replica);
        assert_eq!(run!(replica.raw(), "SAVE"), Reply::ok());
        replica.kill_9();
        replica.restart();
        wait_until("the replica follows again", DEADLINE, || {
            info_text(&mut replica.raw(), "role") == "slave"
                && info_text(&mut replica.raw(), "master_link_status") == "up"
        });
        wait_synchronised(&primary, &replica);
        let digest = |server: &Server| call!(server.raw(), "DEBUG", "DIGEST");
        assert_eq!(digest(&replica), digest(&primary));
        assert_eq!(stat(&mut replica.raw(), "entries"), 100);
        let log = replica.log();
        assert!(log.contains("Successful partial"), "{log}");
    });
}

fn unix_ms(client: &mut RawClient) -> i64 {
    let time = call!(client, "TIME");
    time.items()[0].text().parse::<i64>().expect("seconds") * 1_000
        + time.items()[1].text().parse::<i64>().expect("microseconds") / 1_000
}

/// Valkey and Redis 8.2 ask modules for the keys of their commands on I/O threads, if the module declared such a command.
/// That call corrupted the server's state, and the server stopped on an assertion.
#[test]
fn mset_works_in_a_cluster_with_io_threads() {
    for_all_engines(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--cluster-enabled", "yes")
            .arg("--appendonly", "yes")
            .arg("--io-threads", "4")
            .start();
        let mut client = server.raw();
        run!(client, "CLUSTER ADDSLOTSRANGE 0 16383");
        wait_until("the cluster is up", DEADLINE, || {
            call!(client, "CLUSTER", "INFO")
                .text()
                .contains("cluster_state:ok")
        });
        // Servers use I/O threads only for many clients, and the calls must coincide with others.
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let mut client = server.raw();
                std::thread::spawn(move || {
                    let mset = format!("CACHE.MSET 2 {{t{n}}}a v {{t{n}}}b w PX 1 TAGS 1 t");
                    let set = format!("SET n{n} v PX 1");
                    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
                    let lines: [Vec<String>; 2] = [words(&mset), words(&set)];
                    for _ in 0..3_000 {
                        let replies = client.pipeline(&lines);
                        assert_eq!(replies, [Reply::Int(2), Reply::ok()]);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("the server lives");
        }
        assert_eq!(call!(client, "PING").text(), "PONG");
    });
}

/// A user's key patterns apply to all keys of CACHE.MSET, also where the server knows only the first one.
#[test]
fn mset_checks_key_permissions_in_a_cluster() {
    for_all_engines(|engine| {
        let (server, _other) = pair(engine);
        let mut client = server.raw();
        run!(client, "ACL SETUSER half on nopass ~{{a}}1 ~t +@all");
        run!(client, "AUTH half x");
        assert_eq!(
            run!(client, "CACHE.MSET 1 {{a}}1 v TAGS 1 t"),
            Reply::Int(1)
        );
        let refused = run!(client, "CACHE.MSET 2 {{a}}1 v {{a}}2 w");
        assert!(
            refused.error().is_some_and(|e| e.starts_with("NOPERM ")),
            "{refused:?}"
        );
    });
}

/// Otherwise a key would be written on one node and then overwritten by the older one that comes from the other.
#[test]
fn mset_replies_tryagain_while_its_keys_are_on_two_nodes() {
    for_all_engines(|engine| {
        let (first, second) = pair(engine);
        let (mut here, mut there) = (first.raw(), second.raw());
        let mset = ["CACHE.MSET", "2", "{x}1", "new", "{x}2", "new"];
        for key in ["{x}1", "{x}2"] {
            call!(here, "CACHE.SET", key, "old");
        }
        let slot = call!(here, "CLUSTER", "KEYSLOT", "{x}1").int();
        let ((source, _), (target, _)) = (addresses(&mut here), addresses(&mut there));
        call!(there, "CLUSTER", "SETSLOT", slot, "IMPORTING", source);
        call!(here, "CLUSTER", "SETSLOT", slot, "MIGRATING", target);
        assert_eq!(here.call(&mset), Reply::Int(2), "all keys are here");
        let migrate = |key| args!["MIGRATE", "127.0.0.1", second.port(), key, 0, 20_000];
        let is_refused = |reply: Reply| reply.error().is_some_and(|e| e.starts_with("TRYAGAIN "));
        assert_eq!(here.call(&migrate("{x}2")), Reply::ok());
        assert!(is_refused(here.call(&mset)));
        run!(there, "ASKING");
        assert!(is_refused(there.call(&mset)));
        assert_eq!(here.call(&migrate("{x}1")), Reply::ok());
        run!(there, "ASKING");
        assert_eq!(there.call(&mset), Reply::Int(2));
    });
}
