//! Threads that load, change and read at random: no reader gets a value that was invalidated before the read began.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tagcache_tests::fetch::{State, fetched};
use tagcache_tests::{RawClient, Reply, Rng, Server, args, call, for_each_engine, run};

const KEYS: usize = 4;
const READERS: usize = 5;
const WRITERS: usize = 2;
const CHANGES: usize = 1500;

/// The database that is cached: a version of each key, and the oldest version that may still be served as fresh.
#[derive(Default)]
struct Database {
    versions: [Mutex<u64>; KEYS],
    /// Raised when the reply to the invalidation after a change has arrived.
    floors: [AtomicU64; KEYS],
    /// The same for invalidations that leave nothing stale either.
    hard_floors: [AtomicU64; KEYS],
}

/// The way in which a writer reports its change to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Invalidate,
    /// The tag of all keys.
    InvalidateAll,
    Revalidate,
    Del,
    Flush,
    Transaction,
}

fn write(client: &mut RawClient, database: &Database, rng: &mut Rng) {
    let key = rng.below(KEYS);
    let way = rng.pick(&[
        Way::Invalidate,
        Way::Invalidate,
        Way::InvalidateAll,
        Way::Revalidate,
        Way::Revalidate,
        Way::Del,
        Way::Flush,
        Way::Transaction,
    ]);
    let version = {
        let mut version = database.versions[key]
            .lock()
            .expect("no writer panics with it");
        *version += 1;
        *version
    };
    let tag = format!("tag{key}");
    let name = format!("key{key}");
    let reply = match way {
        Way::Invalidate => call!(client, "CACHE.INVALIDATE", tag),
        Way::InvalidateAll => call!(client, "CACHE.INVALIDATE", "all", "unknown"),
        Way::Revalidate => call!(client, "CACHE.REVALIDATE", tag),
        Way::Del => call!(client, "CACHE.DEL", name),
        Way::Flush => call!(client, "CACHE.FLUSH"),
        Way::Transaction => {
            let queued = [
                args!["MULTI"],
                args!["CACHE.GET", name],
                args!["CACHE.INVALIDATE", tag],
                args!["EXEC"],
            ];
            client.pipeline(&queued).remove(3)
        }
    };
    assert!(!reply.is_error(), "{way:?}: {reply:?}");
    database.floors[key].fetch_max(version, Ordering::SeqCst);
    if way != Way::Revalidate {
        database.hard_floors[key].fetch_max(version, Ordering::SeqCst);
    }
}

fn version_of(value: &[u8]) -> u64 {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("values are versions")
}

/// Reads as an application does, and loads when it gets the lease. Returns how many values it loaded.
fn read(client: &mut RawClient, database: &Database, rng: &mut Rng) -> usize {
    let key = rng.below(KEYS);
    let name = format!("key{key}");
    let floor = database.floors[key].load(Ordering::SeqCst);
    let hard_floor = database.hard_floors[key].load(Ordering::SeqCst);
    if rng.one_in(4) {
        let value = call!(client, "CACHE.GET", name);
        if !value.is_null() {
            let version = version_of(value.bytes());
            assert!(version >= floor, "GET {name}: {version}, floor {floor}");
        }
        return 0;
    }
    let lease = rng.pick(&[2, 5, 60_000]);
    let answer = fetched(&run!(client, "CACHE.FETCH {name} LEASE {lease} WAIT 60000"));
    if let Some(value) = &answer.value {
        let version = version_of(value);
        let least = if answer.state == State::Stale {
            hard_floor
        } else {
            floor
        };
        assert!(
            version >= least,
            "FETCH {name}: {:?} {version}, floor {floor}, hard floor {hard_floor}",
            answer.state
        );
    }
    if answer.token == 0 {
        return 0;
    }
    if rng.one_in(10) {
        call!(client, "CACHE.RELEASE", name, answer.token);
        return 0;
    }
    let version = *database.versions[key]
        .lock()
        .expect("no writer panics with it");
    // The database was read, and some time passes before the value is written.
    for _ in 0..rng.below(4) {
        call!(client, "PING");
    }
    let tag = format!("tag{key}");
    let reply = call!(
        client,
        "CACHE.SET",
        name,
        version,
        "LEASE",
        answer.token,
        "GRACE",
        60_000,
        "TAGS",
        2,
        tag,
        "all"
    );
    assert!(reply == Reply::ok() || reply.is_null(), "{reply:?}");
    usize::from(!reply.is_null())
}

#[test]
fn no_reader_gets_a_value_invalidated_before_its_read() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let database = Database::default();
        let seed = Rng::from_env(51).next_u64();
        let loads = AtomicU64::new(0);
        let writing = AtomicU64::new(WRITERS as u64);
        std::thread::scope(|scope| {
            let (server, database, loads, writing) = (&server, &database, &loads, &writing);
            for number in 0..WRITERS {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed + number as u64);
                    let mut client = server.raw();
                    // Counted down also if an assertion ends the thread, so that the readers end.
                    let _done = CountDown(writing);
                    for _ in 0..CHANGES {
                        write(&mut client, database, &mut rng);
                        for _ in 0..rng.below(8) {
                            call!(client, "PING");
                        }
                    }
                });
            }
            for number in 0..READERS {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed + 100 + number as u64);
                    let mut client = server.raw();
                    let mut loaded = 0;
                    while writing.load(Ordering::SeqCst) > 0 {
                        loaded += read(&mut client, database, &mut rng);
                    }
                    loads.fetch_add(loaded as u64, Ordering::SeqCst);
                });
            }
        });
        let mut client = server.raw();
        let refused = tagcache_tests::look::stat(&mut client, "leases_refused");
        let loads = loads.load(Ordering::SeqCst);
        println!("{loads} loads, {refused} refused");
        assert!(loads > 100, "only {loads} loads: hardly anything was tried");
        assert!(
            refused > 0,
            "no load was ever too late: the race was not run"
        );
        // In the end, every cached value is the latest.
        for key in 0..KEYS {
            let value = call!(client, "CACHE.GET", format!("key{key}"));
            let version = *database.versions[key].lock().unwrap();
            assert!(value.is_null() || version_of(value.bytes()) == version);
        }
    });
}

struct CountDown<'a>(&'a AtomicU64);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
