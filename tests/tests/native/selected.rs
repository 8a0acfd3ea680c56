//! A native command that writes to another database leaves its client in the one that it had selected.

use std::collections::BTreeSet;

use tagcache_tests::look::wait_rewritten;
use tagcache_tests::state::{assert_same, wait_synchronised};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, for_all_engines, run, send, split, wait_until,
};

const HOME: i64 = 3;

fn selected(client: &mut RawClient) -> i64 {
    let info = call!(client, "CLIENT", "INFO").text();
    let mut fields = info.split(' ');
    let number = fields.find_map(|field| field.strip_prefix("db="));
    number.expect("a database").parse().expect("a number")
}

/// Runs a line, which must leave the client at home.
fn stay(client: &mut RawClient, line: &str) -> Reply {
    let reply = client.call(&split(line));
    assert_eq!(selected(client), HOME, "{line}");
    reply
}

fn keys(client: &mut RawClient, database: i64) -> BTreeSet<String> {
    call!(client, "SELECT", database);
    let keys = call!(client, "KEYS", "*");
    keys.items().iter().map(Reply::text).collect()
}

/// Copies and moves in all ways. Each later write goes to a key of its own, `here` and a number.
fn copy_and_move(client: &mut RawClient, other: &mut RawClient) {
    for client in [&mut *client, &mut *other] {
        run!(client, "SELECT {HOME}");
    }
    run!(client, "SET string v");
    run!(client, "CACHE.SET entry v EX 10000 TAGS 1 t");
    for key in ["string", "entry"] {
        stay(client, &format!("COPY absent {key} DB 1"));
        assert_eq!(
            stay(client, &format!("COPY {key} {key} DB 1")),
            Reply::Int(1)
        );
        assert_eq!(
            stay(client, &format!("COPY {key} {key} DB 1")),
            Reply::Int(0)
        );
        stay(client, &format!("COPY {key} {key} DB 1 REPLACE"));
        stay(client, &format!("COPY {key} here-{key}"));
        stay(client, &format!("COPY {key} moved-{key}"));
        assert_eq!(stay(client, &format!("MOVE moved-{key} 1")), Reply::Int(1));
        assert!(stay(client, &format!("COPY {key} {key} DB 99")).is_error());
        // In a transaction, between commands of another client.
        for queued in [
            "MULTI".to_owned(),
            format!("COPY {key} exec-{key} DB 1"),
            format!("SET here-1-{key} v"),
            "SELECT 5".to_owned(),
            format!("SET five-{key} v"),
        ] {
            client.call(&split(&queued));
        }
        stay(other, &format!("COPY {key} other-{key} DB 1"));
        for queued in [
            format!("COPY five-{key} five-{key} DB 1"),
            format!("SET five-again-{key} v"),
            "EXEC".to_owned(),
        ] {
            client.call(&split(&queued));
        }
        assert_eq!(selected(client), 5);
        run!(client, "SELECT {HOME}");
        // A SELECT that was discarded has no effect.
        for queued in ["MULTI", "SELECT 6", "COPY string string DB 1", "DISCARD"] {
            client.call(&split(queued));
        }
        stay(client, &format!("COPY {key} again-{key} DB 1"));
        let script = "redis.call('COPY', KEYS[1], 'lua-' .. KEYS[1], 'DB', 1)
            redis.call('SET', 'here-2-' .. KEYS[1], 'v')
            redis.call('SELECT', 6)
            redis.call('SET', 'six-' .. KEYS[1], 'v')
            redis.call('COPY', 'six-' .. KEYS[1], 'six-' .. KEYS[1], 'DB', 1)
            redis.call('SET', 'six-again-' .. KEYS[1], 'v')";
        for _ in 0..2 {
            call!(client, "EVAL", script, 1, key);
            assert_eq!(selected(client), HOME);
        }
        let replies = client.pipeline(&[
            args!["MULTI"],
            args!["EVAL", script, 1, key],
            args!["SET", format!("here-3-{key}"), "v"],
            args!["EXEC"],
        ]);
        assert!(!replies[3].is_error());
        assert_eq!(selected(client), HOME);
    }
}

fn assert_each_in_its_own(server: &Server) {
    let mut client = server.raw();
    let of = |name: &str| ["string", "entry"].map(|key| name.replace('*', key));
    let expect = |names: &[&str]| {
        names
            .iter()
            .flat_map(|name| of(name))
            .collect::<BTreeSet<_>>()
    };
    let home = expect(&["*", "here-*", "here-1-*", "here-2-*", "here-3-*"]);
    assert_eq!(keys(&mut client, HOME), home);
    assert_eq!(keys(&mut client, 5), expect(&["five-*", "five-again-*"]));
    assert_eq!(keys(&mut client, 6), expect(&["six-*", "six-again-*"]));
    let copies = [
        "*", "moved-*", "exec-*", "five-*", "other-*", "again-*", "lua-*", "six-*",
    ];
    assert_eq!(keys(&mut client, 1), expect(&copies));
    assert!(keys(&mut client, 0).is_empty());
}

/// Two clients whose COPY waits for the end of a pause, from different databases.
#[test]
fn a_delayed_copy_leaves_its_client_in_its_database() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let mut waiting = [2, 5].map(|database| {
            let mut client = server.raw();
            call!(client, "SELECT", database);
            call!(client, "SET", "key", database);
            client
        });
        run!(client, "CLIENT PAUSE 100000000 WRITE");
        for (n, waiting) in waiting.iter_mut().enumerate() {
            send!(waiting, "COPY", "key", n, "DB", 1);
        }
        wait_until("both wait", DEADLINE, || {
            let clients = call!(client, "CLIENT", "LIST").text();
            clients.matches(" flags=b ").count() == 2
        });
        run!(client, "CLIENT UNPAUSE");
        for (waiting, database) in waiting.iter_mut().zip([2, 5]) {
            assert_eq!(waiting.read(), Reply::Int(1));
            assert_eq!(selected(waiting), database);
        }
    });
}

#[test]
fn copy_to_another_database_keeps_the_selected_database() {
    for_all_engines(|engine| {
        let builder = || {
            let builder = Server::builder().engine(engine).arg("--appendonly", "yes");
            builder.arg("--appendfsync", "always")
        };
        let mut primary = builder().start();
        let mut replica = builder().replica_of(&primary).start();
        wait_synchronised(&primary, &replica);
        wait_rewritten(&mut replica.raw());
        copy_and_move(&mut primary.raw(), &mut primary.raw());
        assert_each_in_its_own(&primary);
        assert_same(&primary, &replica, &[0, 1, 2, HOME as u32, 5, 6]);
        // Each server loads its own log.
        primary.stop();
        for server in [&mut replica, &mut primary] {
            server.restart();
            assert_each_in_its_own(server);
        }
        let mut client = primary.raw();
        run!(client, "SELECT {HOME}");
        stay(&mut client, "DEBUG RELOAD");
        stay(&mut client, "DEBUG LOADAOF");
    });
}

#[test]
fn cache_replay_changes_no_other_clients_database() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut admin, mut client) = (server.raw(), server.raw());
        run!(client, "SELECT {HOME}");
        run!(client, "SET key v");
        run!(client, "CACHE.SET entry v");
        for key in ["key", "entry"] {
            run!(admin, "CACHE.REPLAY SELECTED");
            stay(&mut client, &format!("COPY {key} copy-{key}"));
        }
    });
}

/// A log is loaded in portions, between which the server refuses clients' commands.
#[test]
fn a_command_refused_while_loading_keeps_the_logs_database() {
    const KEYS: i64 = 4_000;
    for_all_engines(|engine| {
        let builder = Server::builder().engine(engine).arg("--appendonly", "yes");
        let server = builder
            .arg("--key-load-delay", "200")
            .arg("--loading-process-events-interval-bytes", "1024")
            .start();
        let (mut client, mut other) = (server.raw(), server.raw());
        // Each command that names a key removes it, perhaps while the log is still in the key's database.
        let names = || (0..50).map(|n| format!("gone{n}"));
        for name in names() {
            call!(client, "CACHE.SET", name, "", "GONE");
        }
        run!(client, "SELECT {HOME}");
        let set = |n: i64| args!["SET", n, vec![0; 100]];
        client.pipeline(&(0..KEYS).map(set).collect::<Vec<_>>());
        send!(client, "DEBUG", "LOADAOF");
        wait_until("commands are refused", DEADLINE, || {
            call!(other, "INCR", "other").is_error()
        });
        for name in names() {
            call!(other, "INCR", name);
        }
        assert_eq!(client.read(), Reply::ok());
        assert_eq!(call!(client, "DBSIZE"), Reply::Int(KEYS));
    });
}
