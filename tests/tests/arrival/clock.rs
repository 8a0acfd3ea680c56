//! Tests while the server's clock is set back, and forward again.

use std::time::{SystemTime, UNIX_EPOCH};

use tagcache_tests::clock::Clock;
use tagcache_tests::fetch::{Waiter, fetched, wait_for_waiters};
use tagcache_tests::look::{assert_index_agrees, wait_reclaimed, wait_rewritten};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, command, for_all_engines, run, split,
    wait_until,
};

use crate::{assert_fresh, assert_gone, assert_never_visible, dumped, restore, unix_ms};

const HOUR_MS: i64 = 3_600_000;

/// Sets the server's clock, and waits until the server shows it: Valkey 9.1 reads it once per millisecond.
pub(crate) fn set(clock: &Clock, client: &mut RawClient, shift_ms: i64) {
    const CLOSE_MS: i64 = 100;
    clock.shift(shift_ms);
    wait_until("the server shows the time", DEADLINE, || {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("it is later than 1970");
        (unix_ms(client) - now.as_millis() as i64 - shift_ms).abs() < CLOSE_MS
    });
}

#[test]
fn after_a_clock_set_back_new_entries_are_accepted() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let server = clock.of(Server::builder().engine(engine)).start();
        let mut client = server.raw();
        let old = dumped(&mut client, &["t"]);
        run!(client, "CACHE.INVALIDATE t");
        set(&clock, &mut client, -HOUR_MS);
        let new = dumped(&mut client, &["t"]);
        assert_fresh(&mut client, &new, "written after the clock was set back");
        assert_gone(&mut client, &old, "written before the invalidation");
        run!(client, "CACHE.INVALIDATE t");
        assert_gone(
            &mut client,
            &new,
            "invalidated after the clock was set back",
        );
        let newest = dumped(&mut client, &["t"]);
        assert_fresh(&mut client, &newest, "written after both");
        // The clock is set right again, and beyond.
        for shift in [0, HOUR_MS] {
            set(&clock, &mut client, shift);
            assert_fresh(&mut client, &newest, "the clock is set forward");
            assert_gone(&mut client, &new, "the clock is set forward");
            assert_gone(&mut client, &old, "the clock is set forward");
        }
        run!(client, "CACHE.INVALIDATE t");
        assert_gone(&mut client, &newest, "invalidated at last");
        let last = dumped(&mut client, &["t"]);
        assert_fresh(&mut client, &last, "written at last");
        assert_index_agrees(&server, &[0], &[b"t"]);
    });
}

#[test]
fn a_clock_set_back_brings_no_entry_back_in_any_database() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        for (db, restarts, preamble) in [
            (0, true, "yes"),
            (0, true, "no"),
            (5, false, "yes"),
            (5, true, "yes"),
            (5, true, "no"),
        ] {
            clock.shift(HOUR_MS);
            let builder = Server::builder().engine(engine);
            let mut server = clock
                .of(builder)
                .arg("--appendonly", "yes")
                .arg("--aof-use-rdb-preamble", preamble)
                .start();
            let mut client = server.raw();
            let old = dumped(&mut client, &["t"]);
            set(&clock, &mut client, 0);
            if db == 0 {
                run!(client, "CACHE.INVALIDATE other");
            }
            run!(client, "CACHE.SET kept v");
            if restarts {
                run!(client, "BGREWRITEAOF");
                wait_rewritten(&mut client);
                server.restart();
                client = server.raw();
            }
            call!(client, "SELECT", db);
            run!(client, "CACHE.INVALIDATE t");
            for shift in [0, HOUR_MS, 2 * HOUR_MS] {
                set(&clock, &mut client, shift);
                assert_gone(&mut client, &old, preamble);
            }
        }
    });
}

#[test]
fn a_clock_set_back_does_not_prolong_grace() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let server = clock.of(Server::builder().engine(engine)).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET key value GRACE 60000 TAGS 1 t");
        assert_eq!(run!(client, "CACHE.REVALIDATE t"), Reply::Int(1));
        let untouched = dumped(&mut client, &["untouched"]);
        set(&clock, &mut client, -HOUR_MS);
        let state = |client: &mut RawClient| call!(client, "CACHE.FETCH", "key").items()[0].text();
        assert_eq!(state(&mut client), "STALE");
        // The module reads the clock when an entry arrives, and otherwise ten times per second.
        assert_fresh(&mut client, &untouched, "of another tag");
        set(&clock, &mut client, -HOUR_MS + 61_000);
        assert_eq!(state(&mut client), "MISS", "its grace is over");
        wait_until("its memory is given back", DEADLINE, || {
            run!(client, "EXISTS key") == Reply::Int(0)
        });
    });
}

#[test]
fn entries_older_than_a_clock_set_back_obey_invalidations() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let server = clock.of(Server::builder().engine(engine)).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET key value TAGS 1 t");
        set(&clock, &mut client, -HOUR_MS);
        let payload = call!(client, "DUMP", "key").bytes().to_vec();
        assert_eq!(run!(client, "CACHE.INVALIDATE t"), Reply::Int(1));
        assert_eq!(run!(client, "CACHE.GET key"), Reply::Null);
        assert_gone(&mut client, &payload, "dumped before the invalidation");
        set(&clock, &mut client, 0);
        assert_gone(&mut client, &payload, "the clock is right again");
        let new = dumped(&mut client, &["t"]);
        assert_fresh(&mut client, &new, "written afterwards");
    });
}

/// The states that FETCH … WITHTAGS with the tag `soft` returns for these keys.
fn judged(client: &mut RawClient, keys: &[&str]) -> Vec<String> {
    let fetched = keys.iter().map(|key| {
        let reply = run!(client, "CACHE.FETCH {key} WITHTAGS 1 soft");
        reply.items()[0].text()
    });
    fetched.collect()
}

#[test]
fn a_small_clock_step_back_preserves_the_order() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        for back_ms in [150, 300, 450] {
            clock.shift(0);
            let primary = clock.of(Server::builder().engine(engine)).start();
            let builder = clock.of(Server::builder().engine(engine));
            let replica = builder.replica_of(&primary).start();
            let mut client = primary.raw();
            run!(client, "CACHE.SET old v");
            let old = dumped(&mut client, &["t"]);
            run!(client, "CACHE.INVALIDATE followed");
            wait_synchronised(&primary, &replica);
            set(&clock, &mut client, -back_ms);
            run!(replica.raw(), "REPLICAOF NO ONE");
            for server in [&primary, &replica] {
                let mut client = server.raw();
                run!(client, "CACHE.INVALIDATE soft");
                run!(client, "CACHE.SET new v");
                assert_eq!(judged(&mut client, &["old", "new"]), ["MISS", "HIT"]);
                run!(client, "CACHE.INVALIDATE t");
                assert_gone(&mut client, &old, "dumped before the invalidation");
                let new = dumped(&mut client, &["t"]);
                assert_fresh(&mut client, &new, "written after it");
            }
        }
    });
}

#[test]
fn after_a_clock_set_back_replica_and_log_keep_the_order() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        for back_ms in [300, 10_000, 90_000, HOUR_MS] {
            clock.shift(0);
            let builder = clock.of(Server::builder().engine(engine));
            let primary = builder.arg("--appendonly", "yes").start();
            let builder = Server::builder().engine(engine);
            let replica = builder.replica_of(&primary).start();
            let mut client = primary.raw();
            wait_synchronised(&primary, &replica);
            run!(client, "CACHE.SET old v");
            let check = |client: &mut RawClient, what: &str| {
                let expected = ["MISS", "HIT"];
                assert_eq!(
                    judged(client, &["old", "new"]),
                    expected,
                    "{what} {back_ms}"
                );
            };
            set(&clock, &mut client, -back_ms);
            run!(client, "CACHE.INVALIDATE soft");
            run!(client, "CACHE.SET new v");
            check(&mut client, "at once");
            wait_synchronised(&primary, &replica);
            check(&mut replica.raw(), "on the replica");
            run!(client, "DEBUG LOADAOF");
            run!(client, "SELECT 0"); // Valkey 8.1 leaves the client in another database.
            check(&mut client, "from the log");
        }
    });
}

#[test]
fn a_log_that_begins_before_a_clock_set_back_keeps_the_order() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let builder = clock.of(Server::builder().engine(engine));
        let server = builder.arg("--appendonly", "yes").start();
        let mut client = server.raw();
        run!(client, "CACHE.SET old v");
        run!(client, "BGREWRITEAOF");
        wait_rewritten(&mut client);
        set(&clock, &mut client, -10_000);
        run!(client, "CACHE.INVALIDATE soft");
        run!(client, "CACHE.SET new v");
        run!(client, "DEBUG LOADAOF");
        run!(client, "SELECT 0"); // Valkey 8.1 leaves the client in another database.
        assert_eq!(judged(&mut client, &["old", "new"]), ["MISS", "HIT"]);
    });
}

#[test]
fn a_replica_with_its_clock_behind_does_not_prolong_grace() {
    let Some(behind) = Clock::new() else { return };
    behind.shift(-5 * 60_000);
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let builder = behind.of(Server::builder().engine(engine));
        let replica = builder.replica_of(&primary).start();
        wait_synchronised(&primary, &replica);
        let (mut client, mut other) = (primary.raw(), replica.raw());
        run!(client, "CACHE.SET key v GRACE 300");
        run!(client, "CACHE.REVALIDATE soft");
        wait_synchronised(&primary, &replica);
        wait_until("the grace is over", DEADLINE, || {
            judged(&mut other, &["key"]) == ["MISS"]
        });
    });
}

/// An entry that is looked at late has not left yet when its grace is over, nor has one that is judged by a tag of the reader's.
#[test]
fn a_clock_set_back_makes_no_ended_entry_stale_again() {
    const MINUTE_MS: i64 = 60_000;
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let server = clock.of(Server::builder().engine(engine)).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET first v GRACE {MINUTE_MS} TAGS 1 t");
        run!(client, "CACHE.SET entry v GRACE 61000 TAGS 1 t");
        run!(client, "CACHE.SET other v GRACE 61000");
        run!(client, "CACHE.REVALIDATE t");
        set(&clock, &mut client, MINUTE_MS + 500);
        // With it, all of the tag were looked at, and will be some seconds later.
        wait_until("the first one left", DEADLINE, || {
            run!(client, "DBSIZE") == Reply::Int(2)
        });
        set(&clock, &mut client, MINUTE_MS + 2_000);
        let fetches = ["CACHE.FETCH entry", "CACHE.FETCH other WITHTAGS 1 t"];
        for shift_ms in [MINUTE_MS + 2_000, 40_000, -HOUR_MS] {
            set(&clock, &mut client, shift_ms);
            wait_until("the clock was looked at", DEADLINE, || {
                fetches
                    .iter()
                    .all(|line| fetched(&client.call(&split(line))).is_miss())
            });
        }
    });
}

#[test]
fn a_clock_set_back_delays_no_timer() {
    const KEYS: usize = 20_000;
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let slow = ["reclaim-budget-us", "50", "reclaim-inline", "0"];
        let builder = Server::builder().engine(engine).module_args(&slow);
        let server = clock.of(builder).start();
        let mut client = server.raw();
        for then_ms in [-HOUR_MS, 0] {
            set(&clock, &mut client, 0);
            let sets = (0..KEYS).map(|key| command!("CACHE.SET {key} v TAGS 1 t"));
            client.pipeline(&sets.collect::<Vec<_>>());
            call!(client, "CACHE.FETCH", "key", "LEASE", 500);
            let mut waiter = Waiter::start(&server, "key", 600_000);
            wait_for_waiters(&mut client, 1);
            run!(client, "CACHE.INVALIDATE t");
            set(&clock, &mut client, -HOUR_MS);
            clock.shift(then_ms);
            wait_reclaimed(&mut client);
            assert!(waiter.answer().is_miss_with_token());
            run!(client, "CACHE.DEL key");
        }
    });
}

/// Copies `key`, with the tag `t`, to database 1, where everything was flushed before the key was written. A replica
/// may refuse entries by mistake, but holds an entry where and as long as its primary does.
fn assert_copied(primary: &Server, replica: &Server) {
    let mut client = primary.raw();
    let touch = "CACHE.TOUCH key PX 9000000 GRACE 9000000";
    assert_eq!(client.call(&split(touch)), Reply::Int(1));
    assert_eq!(run!(client, "COPY key key DB 1"), Reply::Int(1));
    run!(client, "SELECT 1");
    run!(client, "MSET copied old renamed old");
    assert_eq!(run!(client, "COPY key copied REPLACE"), Reply::Int(1));
    assert_eq!(run!(client, "COPY key stale"), Reply::Int(1));
    assert_eq!(run!(client, "RENAME key renamed"), Reply::ok());
    assert_eq!(run!(client, "CACHE.EXISTS copied renamed"), Reply::Int(2));
    wait_synchronised(primary, replica);
    let mut there = replica.raw();
    run!(there, "SELECT 1");
    for key in ["copied", "renamed"] {
        assert_eq!(call!(there, "TYPE", key).text(), "tagcache1", "{key}");
    }
    assert_eq!(run!(there, "EXISTS key"), Reply::Int(0));
    assert_eq!(run!(client, "CACHE.RETAG copied TAGS 1 u"), Reply::Int(1));
    wait_synchronised(primary, replica);
    assert_eq!(run!(there, "CACHE.EXISTS copied"), Reply::Int(1));
    assert_eq!(run!(client, "CACHE.REVALIDATE t"), Reply::Int(2));
    assert_eq!(run!(client, "CACHE.RETAG stale TAGS 1 u"), Reply::Int(1));
    wait_synchronised(primary, replica);
    for client in [&mut client, &mut there] {
        assert_eq!(judged(client, &["stale"]), ["STALE"]);
    }
    assert_eq!(run!(client, "CACHE.INVALIDATE t"), Reply::Int(1));
    assert_eq!(run!(client, "SETNX renamed new"), Reply::Int(1));
    wait_synchronised(primary, replica);
    assert_eq!(run!(there, "GET renamed"), Reply::bulk("new"));
}

#[test]
fn after_a_clock_set_back_the_replica_equals_its_primary() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let primary = clock.of(Server::builder().engine(engine)).start();
        let builder = Server::builder().engine(engine);
        let replica = builder.replica_of(&primary).start();
        wait_synchronised(&primary, &replica);
        let mut client = primary.raw();
        let refused = dumped(&mut client, &["t"]);
        run!(client, "CACHE.INVALIDATE t");
        run!(client, "SELECT 1");
        run!(client, "CACHE.FLUSH");
        run!(client, "SELECT 0");
        set(&clock, &mut client, -HOUR_MS);
        // The primary notices the entry now, and its replica at the next invalidation.
        assert_gone(&mut client, &refused, "written before the invalidation");
        for command in ["CACHE.SET key v TAGS 1 t", "CACHE.INVALIDATE other"] {
            let now = unix_ms(&mut client);
            wait_until("time passes", DEADLINE, || unix_ms(&mut client) > now);
            client.call(&split(command));
        }
        assert_copied(&primary, &replica);
        // Replicas cannot be notified of a refused entry while clients are paused.
        let commands = [
            args!["RESTORE", "refused", 0, refused],
            split("CLIENT PAUSE 60000 WRITE"),
        ];
        client.pipeline(&commands);
        let mut there = replica.raw();
        wait_until("the replica has it", DEADLINE, || {
            run!(there, "EXISTS refused") == Reply::Int(1)
        });
        assert_never_visible(&mut there, "refused", "refused by the primary");
    });
}

#[test]
fn after_an_arrival_from_a_clock_ahead_replicas_keep_the_order() {
    let Some(ahead) = Clock::new() else { return };
    ahead.shift(450);
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let builder = Server::builder().engine(engine);
        let replica = builder.replica_of(&primary).start();
        let other = ahead.of(Server::builder().engine(engine)).start();
        wait_synchronised(&primary, &replica);
        let mut client = primary.raw();
        let payload = dumped(&mut other.raw(), &[]);
        run!(client, "CACHE.SET before v");
        restore(&mut client, "arrived", &payload);
        run!(client, "CACHE.INVALIDATE soft");
        run!(client, "CACHE.SET key v");
        wait_synchronised(&primary, &replica);
        let keys = ["before", "key"];
        assert_eq!(judged(&mut client, &keys), ["MISS", "HIT"]);
        assert_eq!(judged(&mut replica.raw(), &keys), ["MISS", "HIT"]);
    });
}

#[test]
fn a_replica_with_its_clock_behind_equals_its_primary() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let primary = clock.of(Server::builder().engine(engine)).start();
        let other = clock.of(Server::builder().engine(engine)).start();
        let builder = Server::builder().engine(engine);
        let replica = builder.replica_of(&primary).start();
        wait_synchronised(&primary, &replica);
        let mut client = primary.raw();
        run!(client, "SELECT 1");
        run!(client, "CACHE.FLUSH");
        run!(client, "SELECT 0");
        set(&clock, &mut client, HOUR_MS);
        let payload = dumped(&mut other.raw(), &["t"]);
        restore(&mut client, "key", &payload);
        assert_copied(&primary, &replica);
    });
}

#[test]
fn an_arrival_from_the_future_obeys_later_invalidations() {
    let (Some(clock), Some(ahead)) = (Clock::new(), Clock::new()) else {
        return;
    };
    ahead.shift(5_000);
    for_all_engines(|engine| {
        clock.shift(0);
        let primary = clock.of(Server::builder().engine(engine)).start();
        let builder = clock.of(Server::builder().engine(engine));
        let replica = builder.replica_of(&primary).start();
        wait_synchronised(&primary, &replica);
        let other = ahead.of(Server::builder().engine(engine)).start();
        let payload = dumped(&mut other.raw(), &["t"]);
        let mut client = primary.raw();
        restore(&mut client, "restored", &payload);
        let written_ms = unix_ms(&mut other.raw());
        run!(client, "CACHE.SET sent v CREATED {written_ms}");
        let inspected = run!(client, "CACHE.INSPECT restored");
        assert_eq!(inspected.field("age").int(), 0, "nothing is known of it");
        run!(client, "CACHE.INVALIDATE soft");
        wait_synchronised(&primary, &replica);
        set(&clock, &mut client, 10_000);
        for server in [&primary, &replica] {
            let judged = judged(&mut server.raw(), &["restored", "sent"]);
            assert_eq!(judged, ["MISS", "MISS"]);
        }
    });
}

#[test]
fn an_arrival_obeys_invalidations_after_a_small_clock_step_back() {
    let (Some(clock), Some(ahead)) = (Clock::new(), Clock::new()) else {
        return;
    };
    for_all_engines(|engine| {
        clock.shift(0);
        ahead.shift(950); // Within the allowance.
        let server = clock.of(Server::builder().engine(engine)).start();
        let other = ahead.of(Server::builder().engine(engine)).start();
        let mut client = server.raw();
        let payload = dumped(&mut other.raw(), &["t"]);
        restore(&mut client, "arrived", &payload);
        let now = unix_ms(&mut client);
        set(&clock, &mut client, -450);
        run!(client, "CACHE.INVALIDATE soft");
        // A stamp that lies too far ahead shows nothing.
        wait_until("the clock shows that time again", DEADLINE, || {
            unix_ms(&mut client) > now
        });
        assert_eq!(judged(&mut client, &["arrived"]), ["MISS"]);
    });
}

#[test]
fn small_clock_steps_back_are_noticed_when_they_add_up() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let server = clock.of(Server::builder().engine(engine)).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET old v");
        for step in 1..=10 {
            set(&clock, &mut client, -400 * step);
            run!(client, "CACHE.INVALIDATE other");
        }
        run!(client, "CACHE.INVALIDATE soft");
        run!(client, "CACHE.SET new v");
        for shift in [-4_000, 0, HOUR_MS] {
            set(&clock, &mut client, shift);
            assert_eq!(judged(&mut client, &["old", "new"]), ["MISS", "HIT"]);
        }
    });
}

#[test]
fn after_a_clock_set_back_withtags_keeps_the_order() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let server = clock.of(Server::builder().engine(engine)).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET old v");
        set(&clock, &mut client, -HOUR_MS);
        // In the order of the server's execution, from the first command on.
        run!(client, "CACHE.INVALIDATE soft");
        run!(client, "CACHE.SET new v");
        assert_eq!(judged(&mut client, &["old", "new"]), ["MISS", "HIT"]);
        run!(client, "CACHE.INVALIDATE soft");
        run!(client, "CACHE.SET newer v");
        let keys = ["old", "new", "newer"];
        for shift in [-HOUR_MS, 0, HOUR_MS] {
            set(&clock, &mut client, shift);
            assert_eq!(judged(&mut client, &keys), ["MISS", "MISS", "HIT"]);
        }
    });
}

#[test]
fn a_clock_set_back_after_a_failover_brings_no_entry_back() {
    let (Some(clock), Some(ahead)) = (Clock::new(), Clock::new()) else {
        return;
    };
    ahead.shift(30_000);
    for_all_engines(|engine| {
        clock.shift(0);
        let primary = ahead.of(Server::builder().engine(engine)).start();
        let builder = clock.of(Server::builder().engine(engine));
        let replica = builder.replica_of(&primary).start();
        run!(primary.raw(), "CACHE.INVALIDATE followed");
        wait_synchronised(&primary, &replica);
        let mut client = replica.raw();
        run!(client, "REPLICAOF NO ONE");
        // The stamp continues after that of the former primary.
        run!(client, "CACHE.SET old v");
        set(&clock, &mut client, -20_000);
        run!(client, "CACHE.INVALIDATE soft");
        run!(client, "CACHE.SET new v");
        for shift in [-20_000, 60_000] {
            set(&clock, &mut client, shift);
            assert_eq!(judged(&mut client, &["old", "new"]), ["MISS", "HIT"]);
        }
    });
}

#[test]
fn a_reload_after_a_clock_set_back_brings_no_entry_back() {
    let Some(clock) = Clock::new() else { return };
    for_all_engines(|engine| {
        clock.shift(0);
        let server = clock.of(Server::builder().engine(engine)).start();
        let mut client = server.raw();
        run!(client, "CACHE.SET old v");
        set(&clock, &mut client, -HOUR_MS);
        run!(client, "CACHE.INVALIDATE soft");
        run!(client, "CACHE.SET new v");
        run!(client, "DEBUG RELOAD");
        assert_eq!(judged(&mut client, &["old", "new"]), ["MISS", "HIT"]);
    });
}

#[test]
fn a_start_or_failover_with_the_clock_behind_keeps_the_order() {
    let Some(ahead) = Clock::new() else { return };
    for_all_engines(|engine| {
        ahead.shift(HOUR_MS);
        let primary = ahead.of(Server::builder().engine(engine)).start();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        let (mut client, mut other) = (primary.raw(), replica.raw());
        run!(client, "CACHE.SET old v");
        run!(client, "CACHE.INVALIDATE soft");
        run!(client, "CACHE.HOLD 60000 held");
        wait_synchronised(&primary, &replica);
        run!(other, "REPLICAOF NO ONE");
        let check = |client: &mut RawClient| {
            run!(client, "CACHE.SET new v TAGS 1 held");
            assert_eq!(judged(client, &["old", "new"]), ["MISS", "HIT"]);
            let pttl = run!(client, "PTTL new").int();
            assert!((1..=120_000).contains(&pttl), "{pttl}");
            run!(client, "CACHE.INVALIDATE soft");
            run!(client, "CACHE.SET newer v");
            let keys = ["old", "new", "newer"];
            assert_eq!(judged(client, &keys), ["MISS", "MISS", "HIT"]);
        };
        check(&mut other);
        wait_until("it is saved", DEADLINE, || {
            run!(client, "SAVE") == Reply::ok() // Fails while the server saves for the replica.
        });
        let file = primary.dir().join("dump.rdb");
        let restarted = Server::builder().engine(engine).rdb(file).start();
        check(&mut restarted.raw());
    });
}
