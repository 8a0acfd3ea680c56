//! A key that was vacant when a command was logged is vacant when the log is loaded: a gone entry in its place would
//! cost the value of another type that the command wrote.

use tagcache_tests::look::wait_rewritten;
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    Engine, RawClient, Reply, Server, ServerBuilder, args, call, for_all_engines, run, split,
};

fn logging(engine: &Engine) -> ServerBuilder {
    Server::builder()
        .engine(engine)
        .arg("--appendonly", "yes")
        .arg("--appendfsync", "always")
}

fn assert_list(client: &mut RawClient) {
    let expected = Reply::Array(vec![Reply::bulk("member")]);
    assert_eq!(run!(client, "LRANGE key 0 -1"), expected);
}

/// Starts a server, makes the entry under `key` gone by `vacate`, stores a list in its place, and loads the log.
fn assert_list_survives(engine: &Engine, vacate: impl Fn(&mut RawClient)) {
    let mut server = logging(engine).start();
    let mut client = server.raw();
    vacate(&mut client);
    assert_eq!(run!(client, "LPUSH key member"), Reply::Int(1));
    server.kill_9();
    server.restart();
    assert_list(&mut server.raw());
}

#[test]
fn on_replay_a_stale_entry_without_grace_leaves_its_key_vacant() {
    for_all_engines(|engine| {
        assert_list_survives(engine, |client| {
            run!(client, "CACHE.SET key v GRACE 100000 TAGS 1 tag");
            run!(client, "CACHE.REVALIDATE tag");
            run!(client, "CACHE.TOUCH key PX 1000000 GRACE 0");
        });
    });
}

#[test]
fn on_replay_an_emptied_database_leaves_its_keys_vacant() {
    for_all_engines(|engine| {
        assert_list_survives(engine, |client| {
            run!(client, "CACHE.SET key v");
            run!(client, "SELECT 1");
            run!(client, "CACHE.REPLAY EMPTY 0");
            run!(client, "SELECT 0");
        });
    });
}

#[test]
fn on_replay_a_payload_dumped_while_gone_leaves_its_key_vacant() {
    for_all_engines(|engine| {
        assert_list_survives(engine, |client| {
            run!(client, "CACHE.SET other v TAGS 1 tag");
            let commands = ["MULTI", "CACHE.INVALIDATE tag", "DUMP other", "EXEC"].map(split);
            let replies = client.pipeline(&commands);
            let payload = replies[3].items()[1].bytes().to_vec();
            call!(client, "RESTORE", "key", 0, payload);
        });
    });
}

/// The replica must not have removed the entry when its primary reports that it was refused: otherwise the report would
/// change nothing there, and not be logged.
#[test]
fn on_replay_by_a_replica_a_refused_entry_leaves_its_key_vacant() {
    for_all_engines(|engine| {
        let mut primary = logging(engine).start();
        let mut replica = logging(engine).replica_of(&primary).start();
        let (mut client, mut reader) = (primary.raw(), replica.raw());
        wait_synchronised(&primary, &replica);
        wait_rewritten(&mut reader); // Its log begins with the data of the first resync.
        run!(client, "CACHE.SET other v TAGS 1 tag");
        let payload = run!(client, "DUMP other").bytes().to_vec();
        run!(client, "CACHE.INVALIDATE tag");
        client.pipeline(&[
            args!["RESTORE", "key", 0, payload],
            split("CLIENT PAUSE 60000 WRITE"),
        ]);
        wait_synchronised(&primary, &replica);
        assert_eq!(run!(reader, "CACHE.GET key"), Reply::Null);
        run!(reader, "LLEN key");
        run!(client, "CLIENT UNPAUSE");
        assert_eq!(run!(client, "LPUSH key member"), Reply::Int(1));
        wait_synchronised(&primary, &replica);
        assert_list(&mut reader);
        primary.kill_9();
        replica.kill_9();
        replica.restart();
        assert_list(&mut replica.raw());
    });
}
