//! WITHTAGS of CACHE.FETCH: an entry is judged by tags that it does not carry.

use std::time::{Duration, Instant};

use tagcache_tests::fetch::{Fetched, fetch, fetched};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, for_all_engines, on_both_protocols, run,
    wait_until,
};

use super::unix_ms;

fn fetch_with(client: &mut RawClient, key: &str, tags: &[&str]) -> Fetched {
    let mut command = args!["CACHE.FETCH", key, "WITHTAGS", tags.len()];
    command.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    fetched(&client.call(&command))
}

#[test]
fn an_entry_is_a_miss_if_a_withtags_tag_was_invalidated_later() {
    on_both_protocols(|_, client| {
        // Repeated within one millisecond: the order of execution counts.
        for n in 0..500 {
            let key = format!("key{}", n % 7);
            call!(client, "CACHE.INVALIDATE", "soft:1", "soft:2");
            call!(client, "CACHE.SET", key, n, "TAGS", 1, "own");
            assert!(fetch_with(client, &key, &["soft:1"]).is_hit(n.to_string()));
            assert!(fetch_with(client, &key, &["other", "soft:2"]).is_hit(n.to_string()));
            call!(client, "CACHE.INVALIDATE", "soft:2");
            assert!(fetch_with(client, &key, &["other", "soft:2"]).is_miss());
            assert!(fetch_with(client, &key, &["soft:1", "other"]).is_hit(n.to_string()));
            assert!(fetch(client, &key).is_hit(n.to_string()));
        }
    });
}

#[test]
fn withtags_follows_the_order_of_pipelined_commands() {
    on_both_protocols(|_, client| {
        let mut commands = Vec::new();
        for n in 0..300 {
            commands.extend([
                args!["CACHE.SET", "key", n],
                args!["CACHE.FETCH", "key", "WITHTAGS", 1, "s"],
                args!["CACHE.INVALIDATE", "s"],
                args!["CACHE.FETCH", "key", "WITHTAGS", 1, "s"],
            ]);
        }
        for (n, replies) in client.pipeline(&commands).chunks(4).enumerate() {
            assert!(fetched(&replies[1]).is_hit(n.to_string()), "round {n}");
            assert!(fetched(&replies[3]).is_miss(), "round {n}");
        }
    });
}

#[test]
fn a_soft_invalidation_of_a_withtags_tag_makes_an_entry_stale() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET graced v GRACE 100000");
        run!(client, "CACHE.SET plain v");
        assert!(fetch_with(client, "plain", &[]).is_hit("v"));
        run!(client, "CACHE.REVALIDATE s");
        assert!(fetch_with(client, "graced", &["s"]).is_stale("v"));
        assert!(fetch_with(client, "plain", &["s"]).is_miss());
        assert!(fetch(client, "graced").is_hit("v"));
        run!(client, "CACHE.INVALIDATE s");
        assert!(fetch_with(client, "graced", &["s"]).is_miss());
    });
}

#[test]
fn an_additional_tag_does_not_bring_back_an_ended_entry() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key v GRACE 300");
        run!(client, "CACHE.REVALIDATE first");
        wait_until("its grace is over", DEADLINE, || {
            run!(client, "CACHE.REVALIDATE last");
            fetch_with(client, "key", &["first"]).is_miss()
        });
        assert!(fetch_with(client, "key", &["first", "last"]).is_miss());
    });
}

#[test]
fn alternating_writes_never_make_an_entry_without_grace_stale() {
    on_both_protocols(|_, client| {
        for _ in 0..200 {
            run!(client, "CACHE.SET key v");
            run!(client, "CACHE.REVALIDATE s");
            assert!(fetch_with(client, "key", &["s"]).is_miss());
            run!(client, "CACHE.SET limited v GRACE 60000 TAGS 1 t");
            run!(client, "CACHE.INVALIDATEWHERE ALL 1 t SOFT GRACE 0");
            assert!(fetch(client, "limited").is_miss());
        }
    });
}

#[test]
fn rapid_commands_keep_stamps_close_to_the_present() {
    on_both_protocols(|_, client| {
        let commands: Vec<_> = (0..5_000)
            .flat_map(|_| {
                [
                    args!["CACHE.SET", "other", "v"],
                    args!["CACHE.INVALIDATE", "x"],
                ]
            })
            .collect();
        client.pipeline(&commands);
        // Whatever the stamps are, the grace of an entry that is softened now begins now.
        run!(client, "CACHE.SET key v GRACE 100 TAGS 1 t");
        run!(client, "CACHE.REVALIDATE t");
        run!(client, "CACHE.INVALIDATE x");
        let last = run!(client, "CACHE.TAGINFO x")
            .field("last_invalidated")
            .int();
        let hard = run!(client, "CACHE.TAGTIMES x").items()[0].items()[0].int();
        let soft = run!(client, "CACHE.TAGTIMES t").items()[0].items()[1].int();
        let softened = Instant::now();
        let now = unix_ms(client) + 1_000;
        assert!(
            last <= now && hard <= now && soft <= now,
            "{last} {hard} {soft} {now}"
        );
        wait_until("the grace is over", DEADLINE, || {
            let waited = softened.elapsed();
            let is_gone = fetch(client, "key").is_miss();
            // On a slow machine the entry may be found gone late, but is never stale a second later.
            assert!(
                is_gone || waited < Duration::from_millis(900),
                "after {waited:?}"
            );
            is_gone
        });
    });
}

#[test]
fn a_withtags_tag_can_complete_a_condition() {
    on_both_protocols(|_, client| {
        for condition in [
            "ALL 2 own reader",
            "ALL 2 reader own",
            "ALL 1 own ANY 1 reader",
        ] {
            run!(client, "CACHE.SET key v TAGS 1 own");
            let words = format!("CACHE.INVALIDATEWHERE {condition}");
            let words: Vec<&str> = words.split(' ').collect();
            assert_eq!(client.call(&words), Reply::Int(0), "it carries one of them");
            assert!(
                fetch_with(client, "key", &["reader"]).is_miss(),
                "{condition}"
            );
            assert!(fetch(client, "key").is_hit("v"));
        }
    });
}

#[test]
fn lease_and_wait_respect_withtags() {
    on_both_protocols(|server, client| {
        run!(client, "CACHE.SET key old");
        run!(client, "CACHE.INVALIDATE s");
        let reply = run!(client, "CACHE.FETCH key LEASE 60000 WITHTAGS 1 s");
        let loader = fetched(&reply);
        assert!(loader.is_miss_with_token());
        let mut second = server.raw();
        second.send(&["CACHE.FETCH", "key", "WAIT", "60000", "WITHTAGS", "1", "s"]);
        tagcache_tests::fetch::wait_for_waiters(client, 1);
        let set = call!(client, "CACHE.SET", "key", "new", "LEASE", loader.token);
        assert_eq!(set, Reply::ok());
        assert!(fetched(&second.read()).is_hit("new"));
    });
}

#[test]
fn withtags_works_the_same_after_reload_log_and_failover() {
    for_all_engines(|engine| {
        let primary = Server::builder().engine(engine).start();
        let replica = Server::builder()
            .engine(engine)
            .replica_of(&primary)
            .start();
        let mut client = primary.raw();
        run!(client, "CACHE.SET before v GRACE 100000");
        run!(client, "CACHE.INVALIDATE hard");
        run!(client, "CACHE.REVALIDATE soft");
        run!(client, "CACHE.SET after v");
        let check = |client: &mut RawClient, when: &str| {
            assert!(fetch_with(client, "before", &["hard"]).is_miss(), "{when}");
            assert!(
                fetch_with(client, "before", &["soft"]).is_stale("v"),
                "{when}"
            );
            assert!(
                fetch_with(client, "after", &["hard", "soft"]).is_hit("v"),
                "{when}"
            );
        };
        check(&mut client, "at once");
        wait_synchronised(&primary, &replica);
        let mut other = replica.raw();
        check(&mut other, "on the replica");
        run!(client, "DEBUG RELOAD");
        check(&mut client, "after a reload");
        run!(other, "REPLICAOF NO ONE");
        check(&mut other, "promoted");
        run!(other, "CACHE.INVALIDATE late");
        assert!(fetch_with(&mut other, "after", &["late"]).is_miss());
    });
}
