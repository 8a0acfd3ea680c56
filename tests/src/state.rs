//! State that must be the same on two servers, or before and after a restart.

use std::collections::{BTreeMap, BTreeSet};

use crate::call;
use crate::engine::Engine;
use crate::look::{Inspected, entry_keys, info_text, inspect, stat};
use crate::reply::Reply;
use crate::resp::RawClient;
use crate::server::Server;
use crate::wait::{DEADLINE, wait_until};

/// A primary and its replica, which has all of the primary's data.
///
/// # Panics
/// Panics if one of them does not start, or they do not synchronise.
pub fn replicated(engine: &Engine) -> (Server, Server) {
    let primary = Server::builder().engine(engine).start();
    let replica = Server::builder()
        .engine(engine)
        .replica_of(&primary)
        .start();
    wait_synchronised(&primary, &replica);
    (primary, replica)
}

/// The digest of the dataset and, for each database, its clock, its number of tags and its entries.
#[derive(Clone, Debug)]
pub struct State {
    digest: String,
    databases: BTreeMap<u32, Database>,
}

#[derive(Clone, Debug)]
struct Database {
    clock: i64,
    tags: i64,
    entries: BTreeMap<Vec<u8>, Inspected>,
}

/// Whether hits are part of a [`State`]: reads are not replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// Each entry's hits must be the same.
    Count,
    /// Hits may differ.
    Ignore,
}

impl State {
    /// Reads these databases, after their backlogs are reclaimed.
    ///
    /// # Panics
    /// Panics if a backlog is not reclaimed, or a reply violates the contract.
    pub fn of(server: &Server, databases: &[u32], hits: Hits) -> Self {
        let mut client = server.raw();
        settle(&mut client, databases);
        let mut look = |&number: &u32| {
            assert_eq!(call!(client, "SELECT", number), Reply::ok());
            let keys = entry_keys(&mut client);
            let mut inspect = |key: Vec<u8>| {
                let mut entry = inspect(&mut client, &key)?;
                // An entry's memory depends on when its TTL was set, and is not part of the dataset.
                entry.memory = 0;
                if hits == Hits::Ignore {
                    entry.hits = 0;
                }
                Some((key, entry))
            };
            let entries = keys.into_iter().filter_map(&mut inspect).collect();
            let (clock, tags) = (stat(&mut client, "clock"), stat(&mut client, "tags"));
            (
                number,
                Database {
                    clock,
                    tags,
                    entries,
                },
            )
        };
        let databases = databases.iter().map(&mut look).collect();
        Self {
            digest: call!(client, "DEBUG", "DIGEST").text(),
            databases,
        }
    }

    /// Compares this with an earlier state, or with another server's, and names the differences.
    ///
    /// # Panics
    /// Panics if something differs.
    pub fn must_equal(&self, expected: &Self, what: &str) {
        for (number, database) in &self.databases {
            let other = &expected.databases[number];
            let keys: BTreeSet<_> = database
                .entries
                .keys()
                .chain(other.entries.keys())
                .collect();
            for key in keys {
                let (seen, wanted) = (database.entries.get(key), other.entries.get(key));
                assert_eq!(
                    seen,
                    wanted,
                    "{what}: db {number}, entry {}",
                    key.escape_ascii()
                );
            }
            assert_eq!(database.clock, other.clock, "{what}: db {number}, clock");
            assert_eq!(
                database.tags, other.tags,
                "{what}: db {number}, number of tags"
            );
        }
        assert_eq!(
            self.digest, expected.digest,
            "{what}: the digest of the whole dataset"
        );
    }
}

fn settle(client: &mut RawClient, databases: &[u32]) {
    for number in databases {
        assert_eq!(call!(client, "SELECT", number), Reply::ok());
        crate::look::wait_reclaimed(client);
    }
}

/// Waits until the replica is connected, and has applied all that the primary has written until now.
///
/// # Panics
/// Panics if that does not happen.
pub fn wait_synchronised(primary: &Server, replica: &Server) {
    let (mut here, mut there) = (primary.raw(), replica.raw());
    wait_until("the replica is connected", DEADLINE * 2, || {
        info_text(&mut there, "role") == "slave"
            && info_text(&mut there, "master_link_status") == "up"
    });
    wait_until("the replica has everything", DEADLINE * 2, || {
        let offset = info_text(&mut here, "master_repl_offset");
        info_text(&mut there, "slave_repl_offset") == offset
    });
}

/// Waits until both have settled on the same digest, then compares all figures of their entries.
///
/// # Panics
/// Panics if the servers differ.
pub fn assert_same(primary: &Server, replica: &Server, databases: &[u32]) {
    wait_synchronised(primary, replica);
    let (mut here, mut there) = (primary.raw(), replica.raw());
    settle(&mut here, databases);
    settle(&mut there, databases);
    for number in databases {
        call!(here, "SELECT", number);
        // An expired key is removed when its primary comes across it, and then on its replica.
        call!(here, "SCAN", 0, "COUNT", 100_000_000);
    }
    let mut digests = (Reply::Null, Reply::Null);
    let same = crate::wait::holds(DEADLINE, || {
        digests = (
            call!(here, "DEBUG", "DIGEST"),
            call!(there, "DEBUG", "DIGEST"),
        );
        digests.0 == digests.1
    });
    if !same {
        describe_difference(&mut here, &mut there, databases);
    }
    let there = State::of(replica, databases, Hits::Ignore);
    there.must_equal(
        &State::of(primary, databases, Hits::Ignore),
        "the replica against its primary",
    );
}

/// Names the first key that differs, since a digest names none.
fn describe_difference(here: &mut RawClient, there: &mut RawClient, databases: &[u32]) -> ! {
    for number in databases {
        call!(here, "SELECT", number);
        call!(there, "SELECT", number);
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for client in [&mut *here, &mut *there] {
            let found = call!(client, "KEYS", "*");
            keys.extend(found.items().iter().map(|key| key.bytes().to_vec()));
        }
        for key in keys {
            let look = |client: &mut RawClient| {
                let digest = call!(client, "DEBUG", "DIGEST-VALUE", key);
                let inspected = call!(client, "CACHE.INSPECT", key);
                (
                    call!(client, "TYPE", key),
                    digest,
                    call!(client, "TTL", key).int() >= 0,
                    inspected,
                )
            };
            let (primary, replica) = (look(here), look(there));
            assert!(
                (&primary.0, &primary.1, primary.2) == (&replica.0, &replica.1, replica.2),
                "db {number}, key {}: the primary has {primary:?}, the replica {replica:?}",
                key.escape_ascii()
            );
        }
        // A replica hides expired keys until its primary deletes them; DEBUG OBJECT does not.
        for key in (0..crate::traffic::KEYS).map(|n| format!("key{n}")) {
            let replica = call!(there, "DEBUG", "OBJECT", key);
            let primary = call!(here, "DEBUG", "OBJECT", key);
            assert_eq!(
                primary.is_error(),
                replica.is_error(),
                "db {number}, {key}: the replica has {replica:?}"
            );
        }
        let sizes = (call!(here, "DBSIZE"), call!(there, "DBSIZE"));
        assert_eq!(
            sizes.0, sizes.1,
            "db {number}: number of keys of primary and replica"
        );
    }
    panic!("the digests of the datasets differ, those of the values do not");
}
