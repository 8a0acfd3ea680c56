//! WITHTAGS of CACHE.FETCH: an entry judged by tags that it does not carry.

use tagcache_tests::fetch::{Fetched, fetch, fetched};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    RawClient, Reply, Server, args, call, for_all_engines, on_both_protocols, run,
};

fn fetch_with(client: &mut RawClient, key: &str, tags: &[&str]) -> Fetched {
    let mut command = args!["CACHE.FETCH", key, "WITHTAGS", tags.len()];
    command.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    fetched(&client.call(&command))
}

#[test]
fn an_entry_is_gone_if_such_a_tag_was_invalidated_after_it() {
    on_both_protocols(|_, client| {
        // Many times in the same millisecond: the order of execution counts.
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
fn pipelined_commands_are_judged_in_their_order() {
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
fn a_soft_invalidation_of_such_a_tag_makes_it_stale_within_its_grace() {
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
fn a_lease_and_a_wait_go_by_the_same_judgement() {
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
fn the_judgement_survives_reload_log_and_failover() {
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
