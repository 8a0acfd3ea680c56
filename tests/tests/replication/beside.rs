//! `repl-diskless-load swapdb`: a replica serves its data while it loads the data of its primary.

use tagcache_tests::fetch::{fetch, fetched};
use tagcache_tests::look::{assert_index_agrees, info_text, stat, wait_reclaimed};
use tagcache_tests::state::{assert_same, wait_synchronised};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, ServerBuilder, args, call, for_all_engines,
    panic_module_path, run, wait_until,
};

const OLD: usize = 400;
const NEW: usize = 3_000;
const TAGS: [&[u8]; 3] = [b"old", b"new", b"both"];

fn write(client: &mut RawClient, what: &str, count: usize, padding: usize) {
    let value = format!("{what}{}", " ".repeat(padding));
    let sets = (0..count).map(|n| {
        args![
            "CACHE.SET",
            format!("{what}{n}"),
            value,
            "GRACE",
            1_000_000,
            "TAGS",
            2,
            what,
            "both"
        ]
    });
    client.pipeline(&sets.collect::<Vec<_>>());
}

/// Where the module asks the server not to load in this way, it does not: Redis before 7.4 reports database 0 for
/// everything that it loads, and 8.0 and 8.1 end themselves if a load breaks off in the header of a module's value.
fn loads_beside(engine: &Engine) -> bool {
    engine.is_valkey() || !matches!(engine.version(), (7, 0 | 2) | (8, 0 | 1))
}

/// A primary, and a replica in the middle of a full resync, since it missed more than the backlog.
fn loading(engine: &Engine, padding: usize) -> (Server, Server) {
    let replica = Server::builder().engine(engine);
    loading_by(replica, engine, padding)
}

fn loading_by(replica: ServerBuilder, engine: &Engine, padding: usize) -> (Server, Server) {
    let primary = Server::builder()
        .engine(engine)
        .arg("--repl-diskless-sync", "yes")
        .arg("--repl-diskless-sync-delay", "0")
        .arg("--repl-backlog-size", "16384")
        .start();
    let replica = replica
        .arg("--repl-diskless-load", "swapdb")
        .arg("--loading-process-events-interval-bytes", "1024")
        .replica_of(&primary)
        .start();
    let (mut here, mut there) = (primary.raw(), replica.raw());
    write(&mut here, "old", OLD, 0);
    run!(here, "CACHE.REVALIDATE none");
    wait_synchronised(&primary, &replica);
    call!(there, "CONFIG", "SET", "key-load-delay", 1_000);
    // The replica cannot reconnect before the backlog is overrun.
    replica.pause();
    run!(here, "CLIENT KILL TYPE replica");
    run!(here, "CACHE.INVALIDATE old");
    write(&mut here, "new", NEW, padding);
    replica.resume();
    wait_until("the replica loads beside what it serves", DEADLINE, || {
        info_text(&mut there, "async_loading") == "1"
    });
    (primary, replica)
}

/// Checks the old data, in one transaction. Returns false and asserts nothing if it is no longer served.
fn serves_the_old_data(client: &mut RawClient) -> bool {
    let looks = [
        args!["CACHE.FETCH", "old7"],
        args!["CACHE.GET", "new7"],
        args!["CACHE.TAGINFO", "old"],
        args!["CACHE.TAGINFO", "new"],
        args!["CACHE.STATS"],
        args!["INFO", "persistence"],
    ];
    let mut commands = vec![args!["MULTI"]];
    commands.extend(looks);
    commands.push(args!["EXEC"]);
    let replies = client.pipeline(&commands);
    let seen = replies.last().expect("a reply per command").items();
    if !seen[5].text().contains("async_loading:1") {
        return false;
    }
    assert!(fetched(&seen[0]).is_hit("old"));
    assert!(seen[1].is_null() && seen[3].is_null());
    assert_eq!(seen[2].field("entries").int(), OLD as i64);
    assert_eq!(seen[4].field("entries").int(), OLD as i64);
    let refused = run!(client, "CACHE.SET old7 x");
    assert!(refused.is_error(), "a replica is read only: {refused:?}");
    true
}

#[test]
fn a_replica_serves_the_old_data_while_it_loads_the_new() {
    for_all_engines(|engine| {
        if !loads_beside(engine) {
            return;
        }
        let (primary, replica) = loading(engine, 0);
        let mut client = replica.raw();
        let mut looks = 0;
        while looks < 50 && serves_the_old_data(&mut client) {
            looks += 1;
        }
        assert!(looks > 5, "{looks} looks");
        // Commands count as those of clients meanwhile, with the rights of their users.
        let mut tenant = replica.raw();
        run!(client, "ACL SETUSER tenant on nopass ~tenant:* +@all");
        run!(tenant, "AUTH tenant x");
        let refused = run!(tenant, "CACHE.TAGINFO old");
        let is_loading = info_text(&mut client, "async_loading") == "1";
        assert!(
            refused.error().is_some_and(|e| e.starts_with("NOPERM ")),
            "loading: {is_loading}, {refused:?}"
        );
        call!(client, "CONFIG", "SET", "key-load-delay", 0);
        assert_same(&primary, &replica, &[0]);
        assert!(fetch(&mut client, "new7").is_hit("new"));
        assert!(fetch(&mut client, "old7").is_miss());
        assert_index_agrees(&replica, &[0], &TAGS);
        let mut here = primary.raw();
        assert_eq!(run!(here, "CACHE.INVALIDATE both"), Reply::Int(NEW as i64));
        assert_same(&primary, &replica, &[0]);
        wait_reclaimed(&mut client);
        assert_index_agrees(&replica, &[0], &TAGS);
    });
}

/// A replica that may be written to runs commands between the load of an entry and the event that announces it, now and then.
#[test]
fn copies_during_a_load_do_not_affect_loaded_entries() {
    for_all_engines(|engine| {
        if !loads_beside(engine) {
            return;
        }
        let writable = Server::builder().engine(engine);
        let writable = writable.arg("--replica-read-only", "no");
        let (primary, replica) = loading_by(writable, engine, 300);
        let mut client = replica.raw();
        run!(client, "CONFIG SET key-load-delay 20");
        let copies = vec![args!["COPY", "old7", "copied", "REPLACE"]; 20];
        while info_text(&mut client, "async_loading") == "1" {
            client.pipeline(&copies);
        }
        wait_synchronised(&primary, &replica);
        // Until it is found, or known, whether its primary prolongs it or not.
        wait_until("the index knows all entries", DEADLINE, || {
            call!(client, "DBSIZE") == Reply::Int(stat(&mut client, "entries"))
        });
    });
}

#[test]
fn loaded_entries_keep_their_database() {
    for_all_engines(|engine| {
        let primary = Server::builder()
            .engine(engine)
            .arg("--repl-diskless-sync", "yes")
            .start();
        let mut here = [primary.raw(), primary.raw()];
        run!(here[1], "SELECT 1");
        run!(here[0], "SET key native");
        run!(here[1], "CACHE.SET key v TAGS 1 old");
        run!(here[1], "CACHE.SET other v TAGS 1 new");
        let replica = Server::builder()
            .engine(engine)
            .arg("--repl-diskless-load", "swapdb")
            .replica_of(&primary)
            .start();
        wait_synchronised(&primary, &replica);
        let mut there = [replica.raw(), replica.raw()];
        run!(there[1], "SELECT 1");
        let entries = there.each_mut().map(|client| stat(client, "entries"));
        assert_eq!(entries, [0, 2]);
        run!(here[1], "CACHE.INVALIDATE new");
        run!(here[0], "CACHE.INVALIDATE old");
        assert_same(&primary, &replica, &[0, 1]);
        assert_index_agrees(&replica, &[0, 1], &TAGS);
        assert!(run!(there[1], "CACHE.GET other").is_null());
        assert_eq!(run!(there[1], "CACHE.GET key"), Reply::bulk("v"));
        assert_eq!(run!(there[0], "GET key"), Reply::bulk("native"));
    });
}

#[test]
fn an_aborted_load_keeps_the_old_data() {
    for_all_engines(|engine| {
        if !loads_beside(engine) {
            return;
        }
        // More data than is in transit in buffers when the primary ends.
        let (primary, replica) = loading(engine, 5_000);
        let mut client = replica.raw();
        drop(primary);
        wait_until("the load is given up", DEADLINE, || {
            info_text(&mut client, "async_loading") == "0"
        });
        assert!(fetch(&mut client, "old7").is_hit("old"));
        assert!(run!(client, "CACHE.TAGINFO new").is_null());
        assert_eq!(stat(&mut client, "entries"), OLD as i64);
        assert_index_agrees(&replica, &[0], &TAGS);
        run!(client, "REPLICAOF NO ONE");
        assert_eq!(run!(client, "CACHE.INVALIDATE old"), Reply::Int(OLD as i64));
        write(&mut client, "new", 50, 0);
        assert_index_agrees(&replica, &[0], &TAGS);
    });
}

#[test]
fn entries_whose_loading_panicked_are_in_no_database() {
    let Some(module) = panic_module_path() else {
        eprintln!("TAGCACHE_MODULE_PANIC is not set: SKIPPED");
        return;
    };
    for_all_engines(|engine| {
        if !loads_beside(engine) {
            return;
        }
        let replica = Server::builder()
            .engine(engine)
            .module(&module)
            .expect_complaints();
        let (primary, replica) = loading_by(replica, engine, 0);
        let mut client = replica.raw();
        // The panic hits the event of some keys in the middle.
        assert_eq!(run!(client, "CACHE.PANIC event"), Reply::ok());
        wait_until("a handler has panicked", DEADLINE, || {
            replica.log().contains("internal error in Event")
        });
        assert_eq!(info_text(&mut client, "async_loading"), "1");
        call!(client, "CONFIG", "SET", "key-load-delay", 0);
        wait_synchronised(&primary, &replica);
        wait_until("none is left", DEADLINE, || {
            run!(client, "DBSIZE") == Reply::Int(0)
        });
        assert_index_agrees(&replica, &[0], &TAGS);
        write(&mut primary.raw(), "new", 50, 0);
        wait_synchronised(&primary, &replica);
        assert_eq!(stat(&mut client, "entries"), 50);
        assert_eq!(run!(client, "DBSIZE"), Reply::Int(50));
    });
}
