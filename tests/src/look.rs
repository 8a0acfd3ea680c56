//! Reads the state of the module through its own commands.

use std::collections::{BTreeMap, BTreeSet};

use crate::call;
use crate::reply::Reply;
use crate::resp::RawClient;
use crate::server::Server;
use crate::wait::{DEADLINE, wait_until};

pub use crate::agree::assert_index_agrees;

/// The fields of `CACHE.STATS`, in the contract's order.
pub const STATS_FIELDS: [&str; 21] = [
    "entries",
    "tags",
    "bytes",
    "index_bytes",
    "hits",
    "misses",
    "stale_hits",
    "hit_rate",
    "sets",
    "deletes",
    "expired",
    "evicted",
    "invalidations",
    "invalidated",
    "reclaim_backlog",
    "reclaimed",
    "reclaim_max_us",
    "leases",
    "lease_waiters",
    "leases_refused",
    "clock",
];

/// One integer of `CACHE.STATS` of the selected database.
pub fn stat(client: &mut RawClient, name: &str) -> i64 {
    call!(client, "CACHE.STATS").field(name).int()
}

/// One integer of `INFO`.
///
/// # Panics
/// Panics if there is no such field, or it is no integer.
pub fn info(client: &mut RawClient, name: &str) -> i64 {
    let value = info_text(client, name);
    value
        .parse()
        .unwrap_or_else(|_| panic!("INFO {name} is no integer: {value}"))
}

/// One field of `INFO`.
///
/// # Panics
/// Panics if there is no such field.
pub fn info_text(client: &mut RawClient, name: &str) -> String {
    let text = call!(client, "INFO", "everything").text();
    let found = text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(':')
            .map(str::to_owned)
    });
    found.unwrap_or_else(|| panic!("no field {name} in INFO:\n{text}"))
}

/// Waits until no memory of gone entries is left in the selected database.
pub fn wait_reclaimed(client: &mut RawClient) {
    wait_until("the backlog is reclaimed", DEADLINE * 2, || {
        stat(client, "reclaim_backlog") == 0
    });
}

/// Waits until the append-only file is rewritten. A rewrite waits for the server's other child processes.
pub fn wait_rewritten(client: &mut RawClient) {
    wait_until("the log is rewritten", DEADLINE, || {
        info(client, "aof_rewrite_scheduled") == 0 && info(client, "aof_rewrite_in_progress") == 0
    });
}

/// All keys of a tag, by `CACHE.TAGSCAN` until its cursor is 0 again.
///
/// # Panics
/// Panics if the reply does not have SCAN's form, or the scan does not end.
pub fn tagscan(client: &mut RawClient, tag: &[u8], count: usize) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    for _ in 0..1_000_000 {
        let reply = call!(client, "CACHE.TAGSCAN", tag, cursor, "COUNT", count);
        let (next, page) = scan_page(&reply);
        keys.extend(page);
        if next == b"0" {
            return keys;
        }
        cursor = next;
    }
    panic!("TAGSCAN of {} does not end", tag.escape_ascii());
}

/// The next cursor and the keys of a reply of SCAN or TAGSCAN.
///
/// # Panics
/// Panics if the reply does not have that form.
pub fn scan_page(reply: &Reply) -> (Vec<u8>, Vec<Vec<u8>>) {
    let [Reply::Bulk(cursor), Reply::Array(keys)] = reply.items() else {
        panic!("not a page: {reply:?}")
    };
    (
        cursor.clone(),
        keys.iter().map(|key| key.bytes().to_vec()).collect(),
    )
}

/// The reply of `CACHE.INSPECT` for an entry, without the fields that change with time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// `fresh` or `stale`
    pub state: String,
    /// In the order of the SET.
    pub tags: Vec<Vec<u8>>,
    /// Reads that found the entry.
    pub hits: i64,
    /// Length of the value.
    pub bytes: i64,
    /// Its total cost.
    pub memory: i64,
    /// Whether it expires.
    pub expires: bool,
}

/// The visible entry of a key.
///
/// # Panics
/// Panics if the reply violates the contract.
pub fn inspect<K: AsRef<[u8]> + ?Sized>(client: &mut RawClient, key: &K) -> Option<Inspected> {
    inspected(&call!(client, "CACHE.INSPECT", key.as_ref()))
}

/// Reads a reply of `CACHE.INSPECT`.
///
/// # Panics
/// Panics if the reply violates the contract.
pub fn inspected(reply: &Reply) -> Option<Inspected> {
    if reply.is_null() {
        return None;
    }
    Some(Inspected {
        state: reply.field("state").text(),
        tags: reply
            .field("tags")
            .items()
            .iter()
            .map(|tag| tag.bytes().to_vec())
            .collect(),
        hits: reply.field("hits").int(),
        bytes: reply.field("bytes").int(),
        memory: reply.field("memory").int(),
        expires: reply.field("pttl").int() >= 0,
    })
}

/// Everything that a command could change, to show that a command changed nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    digest: Vec<u8>,
    changes: i64,
    keys: usize,
    databases: Vec<Database>,
}

#[derive(Clone, Debug, PartialEq)]
struct Database {
    number: u32,
    stats: Vec<(String, Reply)>,
    entries: BTreeMap<Vec<u8>, Inspected>,
    tags: BTreeMap<Vec<u8>, (Reply, BTreeSet<Vec<u8>>)>,
}

impl Snapshot {
    /// Reads these databases, and these tags in addition to those that entries carry.
    ///
    /// # Panics
    /// Panics if a reply violates the contract.
    pub fn take(server: &Server, databases: &[u32], tags: &[&[u8]]) -> Self {
        let mut client = server.raw();
        let digest = call!(client, "DEBUG", "DIGEST").bytes().to_vec();
        let mut keys = 0;
        let mut look = |client: &mut RawClient, number: u32| {
            let selected = call!(client, "SELECT", number);
            assert_eq!(selected, Reply::ok());
            keys += call!(client, "DBSIZE").int() as usize;
            let stats = call!(client, "CACHE.STATS").pairs();
            let entries: BTreeMap<_, _> = entry_keys(client)
                .into_iter()
                .filter_map(|key| inspect(client, &key).map(|entry| (key, entry)))
                .collect();
            let mut names: BTreeSet<Vec<u8>> = entries
                .values()
                .flat_map(|entry| entry.tags.clone())
                .collect();
            names.extend(tags.iter().map(|tag| tag.to_vec()));
            let mut look_at_tag = |tag: Vec<u8>| {
                let seen = (
                    call!(client, "CACHE.TAGINFO", tag),
                    tagscan(client, &tag, 100),
                );
                (tag, seen)
            };
            let tags = names.into_iter().map(&mut look_at_tag).collect();
            Database {
                number,
                stats,
                entries,
                tags,
            }
        };
        let databases = databases
            .iter()
            .map(|&number| look(&mut client, number))
            .collect();
        Self {
            digest,
            changes: info(&mut client, "rdb_changes_since_last_save"),
            keys,
            databases,
        }
    }

    /// Leaves out the digest, which covers the whole server, to compare only these databases.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        self.digest.clear();
        self.changes = 0;
        self
    }

    /// Takes over the figures that only grow, after something was changed and undone.
    pub fn forget_changes(&mut self, other: &Self) {
        self.changes = other.changes;
        for (mine, theirs) in self.databases.iter_mut().zip(&other.databases) {
            mine.stats.clone_from(&theirs.stats);
        }
    }
}

/// The keys of type `tagcache1` in the selected database, also those that are gone and not yet reclaimed.
pub fn entry_keys(client: &mut RawClient) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    loop {
        let reply = call!(client, "SCAN", cursor, "COUNT", 10_000, "TYPE", "tagcache1");
        let (next, page) = scan_page(&reply);
        keys.extend(page);
        if next == b"0" {
            return keys;
        }
        cursor = next;
    }
}
