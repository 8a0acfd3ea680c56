//! Replicas and append-only files follow the primary.

use tagcache_tests::look::{assert_index_agrees, stat, tagscan};
use tagcache_tests::state::{Hits, State, assert_same, wait_synchronised};
use tagcache_tests::{Engine, RawClient, Reply, Server, args, call, for_each_engine};

use crate::{LONG, Where};

fn fill(client: &mut RawClient, count: usize) {
    let sets: Vec<_> = (0..count)
        .map(|n| {
            let grace = if n % 2 == 0 { 0 } else { LONG };
            let tags = [format!("a{}", n % 3), format!("b{}", n % 5)];
            args![
                "CACHE.SET",
                format!("key{n}"),
                n,
                "GRACE",
                grace,
                "TAGS",
                2,
                tags[0],
                tags[1]
            ]
        })
        .collect();
    assert!(client.pipeline(&sets).iter().all(|r| *r == Reply::ok()));
}

fn run_all(client: &mut RawClient) {
    fill(client, 3000);
    assert_eq!(Where::all(&["a0", "b0"]).run(client, &[]), 200);
    assert_eq!(Where::all(&["a1", "b1"]).run(client, &["SOFT"]), 200);
    assert_eq!(
        Where::any(&["a2"]).and_none(&["b4"]).run(client, &["SOFT"]),
        800
    );
    assert_eq!(Where::none(&["x"]).run(client, &["DRYRUN"]), 2300);
    fill(client, 50);
    let queued = [
        args!["MULTI"],
        args!["CACHE.SET", "in", "v", "TAGS", 2, "a0", "b4"],
        Where::all(&["a0", "b4"]).command(&[]),
        args!["CACHE.SET", "in", "w", "TAGS", 2, "a0", "b4"],
        args!["EXEC"],
    ];
    assert!(!client.pipeline(&queued)[4].is_error());
    let script = "redis.call('CACHE.INVALIDATEWHERE', 'SOFT', 'ANY', 1, 'b3')";
    assert!(!call!(client, "EVAL", script, 0).is_error());
}

fn pair(engine: &Engine, module_args: &[&str]) -> (Server, Server) {
    let primary = Server::builder()
        .engine(engine)
        .module_args(module_args)
        .start();
    let replica = Server::builder()
        .engine(engine)
        .replica_of(&primary)
        .start();
    wait_synchronised(&primary, &replica);
    (primary, replica)
}

#[test]
fn a_replica_equals_its_primary_after_all_conditions() {
    for_each_engine(|engine| {
        let slow = ["reclaim-inline", "0", "reclaim-budget-us", "50"];
        for module_args in [&[][..], &slow] {
            let (primary, replica) = pair(engine, module_args);
            run_all(&mut primary.raw());
            assert_same(&primary, &replica, &[0]);
            assert_index_agrees(&replica, &[0], &[b"a0", b"b3"]);
            let refused = replica.raw().call(&Where::all(&["a1"]).command(&[]));
            assert!(refused.error().is_some_and(|e| e.starts_with("READONLY ")));
        }
    });
}

#[test]
fn writes_between_slices_are_replicated_in_order() {
    for_each_engine(|engine| {
        let (primary, replica) = pair(engine, &["reclaim-budget-us", "50"]);
        let mut client = primary.raw();
        let mut runner = primary.raw();
        for round in 0..2 {
            fill(&mut client, 12_000);
            runner.send(&Where::any(&["a0", "b1", "b2"]).command(&[]));
            for n in 0..200 {
                let key = format!("key{}", (n * 7919 + round) % 12_000);
                call!(client, "CACHE.SET", key, "new", "TAGS", 2, "a0", "b1");
            }
            runner.read();
            assert!(tagscan(&mut client, b"b2", 10_000).is_empty());
            assert_same(&primary, &replica, &[0]);
        }
    });
}

#[test]
fn an_append_only_file_restores_the_same_state() {
    for_each_engine(|engine| {
        let mut server = Server::builder()
            .engine(engine)
            .arg("--appendonly", "yes")
            .arg("--aof-use-rdb-preamble", "no")
            .start();
        run_all(&mut server.raw());
        let before = State::of(&server, &[0], Hits::Ignore);
        server.stop();
        server.restart();
        State::of(&server, &[0], Hits::Ignore).must_equal(&before, "after the restart");
        assert_index_agrees(&server, &[0], &[b"a0", b"b3"]);
        assert!(stat(&mut server.raw(), "entries") > 0);
    });
}
