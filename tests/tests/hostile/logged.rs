//! After a panic on a replica or while a file is loaded: what the log of a node holds, and what it serves after a restart.

use tagcache_tests::look::{stat, wait_rewritten};
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Server, args, call, panic_module_path, run, wait_until,
};

use super::panics::{logged, with_panicking_module};

/// Makes a server follow a primary, also if it did before, with all of the primary's data in its log.
fn follow(replica: &Server, primary: &Server) {
    let mut client = replica.raw();
    run!(client, "REPLICAOF NO ONE");
    run!(primary.raw(), "DEBUG CHANGE-REPL-ID");
    call!(client, "REPLICAOF", "127.0.0.1", primary.port());
    wait_synchronised(primary, replica);
    wait_rewritten(&mut client);
}

/// Runs the test with a replica that has a log, and starts as a primary from this log.
fn with_logging_replica(test: impl Fn(&Server, &mut RawClient, &mut Server)) {
    with_panicking_module(|primary, client| {
        let mut replica = Server::builder()
            .engine(primary.engine())
            .module(panic_module_path().expect("the primary has it"))
            .arg("--appendonly", "yes")
            .expect_complaints()
            .start();
        test(primary, client, &mut replica);
    });
}

/// Starts a server from its log.
fn restarted(server: &mut Server) -> RawClient {
    logged(server);
    server.kill_9();
    server.restart();
    server.raw()
}

#[test]
fn invalidation_that_panicked_on_a_replica_is_logged() {
    with_logging_replica(|primary, client, replica| {
        run!(client, "CACHE.SET key old TAGS 1 tag");
        let payload = run!(client, "DUMP key").bytes().to_vec();
        follow(replica, primary);
        run!(replica.raw(), "CACHE.PANIC next-command");
        assert_eq!(run!(client, "CACHE.INVALIDATE tag"), Reply::Int(1));
        run!(client, "CACHE.SET later new TAGS 1 other");
        wait_synchronised(primary, replica);
        for is_restarted in [false, true] {
            let mut there = if is_restarted {
                restarted(replica)
            } else {
                replica.raw()
            };
            assert!(run!(there, "CACHE.GET key").is_null());
            assert_eq!(run!(there, "CACHE.GET later"), Reply::bulk("new"));
            assert_eq!(run!(there, "GET string"), Reply::bulk("value"));
        }
        // The replica does not know which tags were invalidated.
        let mut there = replica.raw();
        call!(there, "RESTORE", "key", 0, payload);
        assert!(run!(there, "CACHE.GET key").is_null());
    });
}

#[test]
fn entries_lost_on_a_replica_stay_gone_after_its_restart() {
    with_logging_replica(|primary, client, replica| {
        run!(client, "CACHE.SET key old");
        run!(client, "CACHE.SET other old");
        follow(replica, primary);
        let mut there = replica.raw();
        run!(there, "CACHE.PANIC change");
        assert_eq!(run!(client, "DEL other"), Reply::Int(1));
        wait_until("the replica removes what it lost", DEADLINE, || {
            run!(there, "DBSIZE") == Reply::Int(1)
        });
        // The replica finds nothing to delete, so the server does not log this.
        assert_eq!(run!(client, "DEL key"), Reply::Int(1));
        run!(client, "CACHE.SET later new");
        wait_synchronised(primary, replica);
        let mut there = restarted(replica);
        assert!(run!(there, "CACHE.GET key").is_null());
        assert_eq!(run!(there, "CACHE.GET later"), Reply::bulk("new"));
        assert_eq!(run!(there, "GET string"), Reply::bulk("value"));
    });
}

#[test]
fn panic_while_loading_a_file_loses_no_native_key() {
    with_logging_replica(|primary, client, replica| {
        run!(client, "CACHE.SET key old TAGS 1 tag");
        let payload = run!(client, "DUMP key").bytes().to_vec();
        follow(replica, primary);
        // In a file with a history, what panics is its load. Otherwise it is the load of one entry.
        for has_history in [false, true] {
            if has_history {
                run!(client, "CACHE.INVALIDATE tag");
            }
            run!(replica.raw(), "CACHE.PANIC load");
            follow(replica, primary);
            logged(replica);
            let mut there = replica.raw();
            assert_eq!(run!(there, "GET string"), Reply::bulk("value"));
            let left = stat(&mut there, "entries");
            // Redis 7.0 saves a history even if it is empty.
            assert!(left <= i64::from(!has_history), "{left} of two");
            wait_until("the other keys are removed", DEADLINE, || {
                run!(there, "DBSIZE") == Reply::Int(1 + left)
            });
        }
        let mut there = replica.raw();
        run!(there, "REPLICAOF NO ONE");
        call!(there, "RESTORE", "key", 0, payload);
        assert!(run!(there, "CACHE.GET key").is_null());

        run!(client, "CACHE.PANIC load");
        assert_eq!(run!(client, "DEBUG RELOAD"), Reply::ok());
        run!(client, "SELECT 0"); // Valkey 8.1 leaves the client in another database.
        logged(primary);
        wait_until("the entries are removed", DEADLINE, || {
            run!(client, "DBSIZE") == Reply::Int(1)
        });
        assert_eq!(run!(client, "GET string"), Reply::bulk("value"));
        run!(client, "CACHE.SET kept value TAGS 1 kept");
    });
}

#[test]
fn entry_obeys_its_new_database_after_a_panic_in_move() {
    with_panicking_module(|server, client| {
        run!(client, "CACHE.SET key old TAGS 1 tag");
        run!(client, "SELECT 3");
        run!(client, "CACHE.INVALIDATE tag");
        run!(client, "SELECT 0");
        run!(client, "CACHE.PANIC event");
        run!(client, "MOVE key 3");
        logged(server);
        run!(client, "SELECT 3");
        assert!(run!(client, "CACHE.GET key").is_null());
        run!(client, "SELECT 0");
    });
}

#[test]
fn value_obeys_a_flush_after_a_panic_in_swapdb() {
    with_panicking_module(|server, client| {
        run!(client, "CACHE.SET key old");
        let payload = run!(client, "DUMP key").bytes().to_vec();
        run!(client, "SELECT 3");
        run!(client, "CACHE.FLUSH");
        let replies = client.pipeline(&[args!["CACHE.PANIC", "event"], args!["SWAPDB", 0, 3]]);
        assert_eq!(replies, [Reply::ok(), Reply::ok()]);
        logged(server);
        run!(client, "SELECT 0");
        call!(client, "RESTORE", "key", 0, payload);
        assert!(run!(client, "CACHE.GET key").is_null());
        run!(client, "SWAPDB 0 3");
        run!(client, "CACHE.SET kept value TAGS 1 kept");
    });
}
