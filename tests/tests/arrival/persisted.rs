//! Arrivals after restarts: from an RDB, from an append-only file as it was written, and rewritten with and without RDB
//! preamble.

use tagcache_tests::look::{assert_index_agrees, info_text, wait_rewritten};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::stream::{aof_commands, is};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, ServerBuilder, for_all_engines, run, split,
    wait_until,
};

use crate::{
    WAYS, assert_fresh, assert_gone, assert_never_visible, dumped, dumped_of, restore,
    within_the_allowance,
};

/// The way in which a server is saved and restarted.
#[derive(Clone, Copy, Debug)]
enum Restart {
    Rdb,
    Log,
    RewrittenLog { preamble: &'static str },
}

const RESTARTS: [Restart; 4] = [
    Restart::Rdb,
    Restart::Log,
    Restart::RewrittenLog { preamble: "yes" },
    Restart::RewrittenLog { preamble: "no" },
];

impl Restart {
    fn builder(self, engine: &Engine) -> ServerBuilder {
        let builder = Server::builder().engine(engine);
        let preamble = match self {
            Self::Rdb => return builder,
            Self::Log => "yes",
            Self::RewrittenLog { preamble } => preamble,
        };
        builder
            .arg("--appendonly", "yes")
            .arg("--appendfsync", "always")
            .arg("--aof-use-rdb-preamble", preamble)
            .arg("--auto-aof-rewrite-percentage", "0")
    }

    fn run(self, server: &mut Server) -> RawClient {
        let mut client = server.raw();
        match self {
            Self::Rdb => wait_until("it is saved", DEADLINE, || {
                run!(client, "SAVE") == Reply::ok() // Fails while the server saves for a replica.
            }),
            Self::Log => {}
            Self::RewrittenLog { .. } => {
                run!(client, "BGREWRITEAOF");
                wait_rewritten(&mut client);
                assert_eq!(info_text(&mut client, "aof_last_bgrewrite_status"), "ok");
            }
        }
        server.kill_9();
        server.restart();
        server.raw()
    }
}

#[test]
fn an_old_entry_arrives_gone_after_each_kind_of_restart() {
    for_all_engines(|engine| {
        for restart in RESTARTS {
            let mut server = restart.builder(engine).start();
            let mut client = server.raw();
            for db in 0..WAYS.len() {
                run!(client, "SELECT {db}");
                // An append-only file without preamble holds invalidations in front of its first entry.
                run!(client, "CACHE.SET held v TAGS 1 untouched");
            }
            run!(client, "SELECT 0");
            let old = dumped(&mut client, &["t", "both"]);
            let untouched = dumped(&mut client, &["untouched"]);
            for (db, way) in (0..).zip(WAYS) {
                run!(client, "SELECT {db}");
                client.call(&split(way));
            }
            let mut client = restart.run(&mut server);
            for (db, way) in (0..).zip(WAYS) {
                let what = format!("{restart:?}: {way}");
                run!(client, "SELECT {db}");
                assert_gone(&mut client, &old, &what);
                if way != "CACHE.FLUSH" && !way.contains("NONE") {
                    assert_fresh(&mut client, &untouched, &what);
                }
            }
            let databases: Vec<u32> = (0..WAYS.len() as u32).collect();
            assert_index_agrees(&server, &databases, &[b"t", b"both"]);
        }
    });
}

#[test]
fn foreign_entries_keep_their_allowance_after_each_restart() {
    for_all_engines(|engine| {
        let check = |client: &mut RawClient, what: &str| {
            let judged = ["old", "new"].map(|key| {
                let reply = run!(client, "CACHE.FETCH {key} WITHTAGS 1 t");
                reply.items()[0].text()
            });
            assert_eq!(judged, ["MISS", "HIT"], "{what}");
        };
        for restart in RESTARTS {
            let mut server = restart.builder(engine).start();
            let mut client = server.raw();
            let old = within_the_allowance(engine, &mut client);
            run!(client, "SELECT 1");
            restore(&mut client, "old", &old);
            assert_eq!(run!(client, "CACHE.RETAG old TAGS 0"), Reply::Int(1));
            assert_eq!(run!(client, "MOVE old 0"), Reply::Int(1));
            run!(client, "SELECT 0");
            run!(client, "CACHE.SET new v");
            check(&mut client, "at once");
            let replica = Server::builder().engine(engine).replica_of(&server).start();
            wait_synchronised(&server, &replica);
            check(&mut replica.raw(), "on a replica");
            check(&mut restart.run(&mut server), &format!("{restart:?}"));
        }
    });
}

#[test]
fn a_refused_arrival_stays_refused_after_a_power_cut() {
    for_all_engines(|engine| {
        for restart in RESTARTS {
            if matches!(restart, Restart::Rdb) {
                continue;
            }
            let builder = restart.builder(engine).arg("--appendfsync", "always");
            let mut server = builder.start();
            let mut client = server.raw();
            let old = dumped(&mut client, &["t"]);
            run!(client, "CACHE.INVALIDATE t");
            restore(&mut client, "key", &old);
            assert_never_visible(&mut client, "key", "at once");
            server.kill_9();
            server.restart();
            assert_never_visible(&mut server.raw(), "key", "after the power cut");
            let mut client = restart.run(&mut server);
            assert_never_visible(&mut client, "key", &format!("{restart:?}"));
            assert_index_agrees(&server, &[0], &[b"t"]);
        }
    });
}

#[test]
fn many_refused_arrivals_are_removed_in_small_batches() {
    const COUNT: usize = 500;
    const AT_ONCE: usize = 128;
    for_all_engines(|engine| {
        let builder = Restart::Log.builder(engine);
        let server = builder.arg("--appendfsync", "always").start();
        let mut client = server.raw();
        let old = dumped(&mut client, &["t"]);
        run!(client, "CACHE.INVALIDATE t");
        run!(client, "MULTI");
        for n in 0..COUNT {
            let name = format!("key:{n}");
            client.call(&[b"RESTORE", name.as_bytes(), b"0", &old]);
        }
        run!(client, "EXEC");
        let log = server.dir().join("appendonlydir/appendonly.aof.1.incr.aof");
        let read = || {
            let bytes = std::fs::read(&log).expect("the log");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let removed = |text: &str| text.matches("\r\nUNLINK\r\n").count();
        wait_until("their removal is logged", DEADLINE, || {
            removed(&read()) == COUNT
        });
        // Entries that are removed in one go form one transaction.
        for block in read().split("\r\nEXEC\r\n") {
            assert!(removed(block) <= AT_ONCE);
        }
    });
}

#[test]
fn an_arrival_refused_by_the_allowance_is_removed_from_the_log() {
    for_all_engines(|engine| {
        let builder = Restart::Log.builder(engine);
        let mut server = builder.arg("--appendfsync", "always").start();
        let other = Server::builder().engine(engine).start();
        let mut client = server.raw();
        run!(client, "CACHE.INVALIDATE t");
        let info = run!(client, "CACHE.TAGINFO t");
        let within = info.field("last_invalidated").int() + 500;
        let payload = dumped_of(&mut other.raw(), within);
        restore(&mut client, "key", &payload);
        wait_until("its removal is logged", DEADLINE, || {
            let commands = aof_commands(server.dir(), ".incr.aof");
            commands.iter().any(|command| is(command, "unlink"))
        });
        server.kill_9();
        server.restart();
        assert_never_visible(&mut server.raw(), "key", "after the power cut");
        assert_index_agrees(&server, &[0], &[b"t"]);
    });
}
