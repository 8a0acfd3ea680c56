//! Everything at once, by many connections that come and go: no caller is left waiting, nothing is left behind.

use std::sync::atomic::{AtomicBool, Ordering};

use tagcache_tests::fetch::{fetch, waiters};
use tagcache_tests::look::{assert_index_agrees, info, stat, wait_reclaimed};
use tagcache_tests::{
    DEADLINE, RawClient, Reply, Rng, Server, args, call, command, for_each_engine, wait_until,
};

const KEYS: usize = 12;
const DATABASES: [u32; 2] = [0, 1];
const CALLERS: usize = 6;
const ROUNDS: usize = 1200;

fn key(rng: &mut Rng) -> String {
    format!("key{}", rng.below(KEYS))
}

/// An application's use of leases, correct or not.
fn caller_step(client: &mut RawClient, rng: &mut Rng) -> std::io::Result<()> {
    let key = key(rng);
    let tag = format!("tag{}", rng.below(3));
    let (lease, wait) = (rng.pick(&[1, 3, 20, 1000]), rng.pick(&[0, 1, 10, 50]));
    let command = match rng.below(8) {
        0..5 => args!["CACHE.FETCH", key, "LEASE", lease, "WAIT", wait],
        5 => args!["CACHE.FETCH", key, "WAIT", wait],
        6 => args!["CACHE.FETCH", key],
        _ => args!["SELECT", rng.below(DATABASES.len())],
    };
    let answer = client.try_call(&command)?;
    let token = match &answer {
        Reply::Array(items) => items[3].int(),
        _ => 0,
    };
    if token == 0 {
        return Ok(());
    }
    let set = match rng.below(6) {
        0 => args!["CACHE.RELEASE", key, token],
        1 => return Ok(()), // The caller forgets its lease.
        2 => args!["CACHE.SET", key, "v", "LEASE", token, "NX", "PX", 5],
        _ => command!("CACHE.SET {key} v LEASE {token} GRACE 20 PX 30 TAGS 1 {tag}"),
    };
    client.try_call(&set).map(drop)
}

/// Other events on the server.
fn other_event(client: &mut RawClient, rng: &mut Rng) {
    let key = key(rng);
    let other = format!("key{}", rng.below(KEYS));
    let tag = format!("tag{}", rng.below(3));
    let command = match rng.below(30) {
        0..4 => args!["CACHE.INVALIDATE", tag],
        4..7 => args!["CACHE.REVALIDATE", tag],
        7 => args!["CACHE.INVALIDATEWHERE", "NONE", 1, tag],
        8..11 => args!["CACHE.DEL", key, other],
        11 => args!["CACHE.FLUSH"],
        12 => args!["DEL", key],
        13 => args!["RENAME", key, other],
        14 => args!["COPY", key, other, "REPLACE"],
        15 => args!["MOVE", key, 1],
        16 => args!["SET", key, "native", "PX", 3],
        17 => args!["CACHE.SET", key, "v", "TAGS", 1, tag],
        18 => args!["SWAPDB", 0, 1],
        19 => args!["FLUSHDB", rng.pick(&["SYNC", "ASYNC"])],
        20 => args!["CLIENT", "PAUSE", 5, rng.pick(&["WRITE", "ALL"])],
        21 if rng.one_in(10) => args!["DEBUG", "RELOAD"],
        22 => args!["CACHE.RESETSTATS"],
        23 => args!["EXPIRE", key, 0],
        24 => args!["SELECT", rng.below(DATABASES.len())],
        25 if rng.one_in(5) => args!["CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes"],
        26 => args![
            "CONFIG",
            "SET",
            "tagcache.lease-max-ms",
            rng.pick(&[1, 5, 60_000])
        ],
        27 => {
            let queued = [
                args!["MULTI"],
                args!["CACHE.FETCH", key, "LEASE", 5, "WAIT", 100],
                args!["CACHE.SET", other, "v", "TAGS", 1, tag],
                args!["CACHE.INVALIDATE", tag],
                args!["EXEC"],
            ];
            client.pipeline(&queued);
            return;
        }
        _ => args!["CACHE.STATS"],
    };
    client.call(&command);
    if rng.one_in(6) {
        unblock_one_client(client, rng);
    }
}

/// Ends the wait of one of the callers, or its connection.
fn unblock_one_client(client: &mut RawClient, rng: &mut Rng) {
    // Some servers stop on an assertion of their own when a client is unblocked that waits only for the end of a pause.
    call!(client, "CLIENT", "UNPAUSE");
    let list = call!(client, "CLIENT", "LIST", "TYPE", "NORMAL").text();
    let blocked = list
        .lines()
        .filter(|line| line.contains(" flags=b"))
        .filter_map(|line| line.split([' ', '=']).nth(1));
    let blocked: Vec<&str> = blocked.collect();
    if blocked.is_empty() {
        return;
    }
    let id = rng.pick(&blocked);
    match rng.below(3) {
        0 => call!(client, "CLIENT", "UNBLOCK", id, "TIMEOUT"),
        1 => call!(client, "CLIENT", "UNBLOCK", id, "ERROR"),
        _ => call!(client, "CLIENT", "KILL", "ID", id),
    };
}

fn assert_calm(server: &Server, client: &mut RawClient) {
    wait_until("nobody waits", DEADLINE, || {
        waiters(client) == 0 && info(client, "blocked_clients") == 0
    });
    assert_eq!(call!(client, "SELECT", 0), Reply::ok());
    for database in DATABASES {
        call!(client, "SELECT", database);
        wait_until("all leases have run out", DEADLINE * 3, || {
            stat(client, "leases") == 0
        });
        // All entries with a TTL expire soon.
        wait_until("what expires has expired", DEADLINE, || {
            let keys = call!(client, "KEYS", "*");
            let expires = |key: &Reply| call!(client, "PTTL", key.bytes()).int() >= 0;
            !keys.items().iter().any(expires)
        });
        wait_reclaimed(client);
        // Leases then work as before.
        call!(client, "CACHE.DEL", "calm");
        let token = tagcache_tests::fetch::lease(client, "calm");
        assert!(tagcache_tests::fetch::set_leased(
            client,
            "calm",
            "v",
            token,
            &["a"]
        ));
        assert!(fetch(client, "calm").is_hit("v"));
    }
    assert_index_agrees(server, &DATABASES, &[b"tag0", b"tag1", b"tag2"]);
}

#[test]
fn random_callers_leave_no_waiter_and_no_lease_behind() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let seed = Rng::from_env(95).next_u64();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for number in 0..CALLERS {
                let (server, over) = (&server, &over);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed + number as u64);
                    let mut client = server.raw();
                    while !over.load(Ordering::SeqCst) {
                        // Killed, or disconnecting by itself in the middle of a wait.
                        if rng.one_in(40) {
                            client.send(&["CACHE.FETCH", "key1", "LEASE", "5", "WAIT", "1000"]);
                            client = server.raw();
                        }
                        if caller_step(&mut client, &mut rng).is_err() {
                            client = server.raw();
                        }
                    }
                });
            }
            let mut rng = Rng::new(seed + 1000);
            let mut client = server.raw();
            // The callers also end if an assertion ends this thread.
            let _over = Over(&over);
            for _ in 0..ROUNDS {
                other_event(&mut client, &mut rng);
            }
        });
        let mut client = server.raw();
        call!(client, "CONFIG", "SET", "tagcache.lease-max-ms", 60_000);
        assert_calm(&server, &mut client);
    });
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
