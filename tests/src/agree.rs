//! Compares the module's reports of its index with the keyspace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::look::{Inspected, inspected, scan_page, tagscan};
use crate::reply::Reply;
use crate::resp::RawClient;
use crate::server::Server;
use crate::wait::slowed;
use crate::{args, call};

/// How long figures may take to agree: after a soft invalidation, an entry whose grace is over counts until the module
/// makes the server expire it, in the background.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// Compares the index with the keyspace in these databases: every entry is found through each of its tags, no tag finds
/// anything else, and all counts agree. No other client may write meanwhile; reclaiming may go on.
///
/// `tags` are checked in addition to those that entries carry: they must be empty.
///
/// # Panics
/// Panics if index and keyspace disagree.
pub fn assert_index_agrees(server: &Server, databases: &[u32], tags: &[&[u8]]) {
    let mut client = server.raw();
    // A replica in a cluster redirects otherwise; all other servers refuse this.
    call!(client, "READONLY");
    for &number in databases {
        assert_eq!(call!(client, "SELECT", number), Reply::ok());
        assert_database_agrees(&mut client, number, tags);
    }
}

fn assert_database_agrees(client: &mut RawClient, number: u32, more_tags: &[&[u8]]) {
    let of_tag = loop {
        let (keys, stats, before) = settled(client);
        match entries_agree(client, more_tags, &keys, &stats) {
            Ok(of_tag) => break of_tag,
            // The grace of an entry may end between two of the commands: then they describe different moments.
            Err(difference) => {
                assert_ne!(before, visible(client, &keys), "db {number}: {difference}");
            }
        }
    };
    let start = Instant::now();
    while let Err(difference) = memory_agrees(client, &of_tag) {
        let settling = start.elapsed() < slowed(SETTLED_WITHIN);
        assert!(settling, "db {number}: {difference}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The keys of each tag.
type OfTag = BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>;

/// A gone entry counts for its other tags until it is reclaimed: the figure is a bound until then, exact afterwards.
fn about(seen: i64, expected: i64, slack: i64, backlog: i64) -> bool {
    seen == expected || backlog > 0 && (expected..=expected + slack).contains(&seen)
}

/// Compares INSPECT of each key with the commands that count and list, and returns the difference.
fn entries_agree(
    client: &mut RawClient,
    more_tags: &[&[u8]],
    keys: &BTreeSet<Vec<u8>>,
    stats: &Reply,
) -> Result<OfTag, String> {
    let backlog = stats.field("reclaim_backlog").int();
    let mut of_tag = OfTag::new();
    let mut visible = 0;
    for (key, entry) in keys.iter().zip(inspect_all(client, keys)) {
        let Some(entry) = entry else {
            continue;
        };
        for tag in &entry.tags {
            of_tag.entry(tag.clone()).or_default().insert(key.clone());
        }
        visible += 1;
    }
    let check = |seen: i64, expected: i64, slack: i64, backlog: i64, what: &str| {
        if about(seen, expected, slack, backlog) {
            Ok(())
        } else {
            Err(format!(
                "{what}: {seen}, expected {expected} (backlog {backlog})"
            ))
        }
    };
    let seen = stats.field("entries").int();
    check(seen, visible, 0, 0, "STATS entries against INSPECT")?;
    let (seen, expected) = (keys.len() as i64, visible + backlog);
    check(seen, expected, 0, 0, "keys against entries and backlog")?;
    let (seen, in_use) = (stats.field("tags").int(), of_tag.len() as i64);
    let what = "STATS tags against INSPECT";
    check(seen, in_use, i64::MAX / 2, backlog, what)?;
    for tag in more_tags {
        of_tag.entry(tag.to_vec()).or_default();
    }
    for (tag, keys) in &of_tag {
        let name = tag.escape_ascii();
        let seen = tagscan(client, tag, 1000);
        if seen != *keys {
            return Err(format!("TAGSCAN of {name}: {seen:?}, by INSPECT {keys:?}"));
        }
        let info = call!(client, "CACHE.TAGINFO", tag);
        let seen = if info.is_null() {
            0
        } else {
            info.field("entries").int()
        };
        let count = keys.len() as i64;
        let what = format!("TAGINFO entries of {name}");
        check(seen, count, backlog, backlog, &what)?;
    }
    Ok(of_tag)
}

/// The reply of CACHE.INSPECT for each key.
fn inspect_all(client: &mut RawClient, keys: &BTreeSet<Vec<u8>>) -> Vec<Option<Inspected>> {
    let commands: Vec<_> = keys.iter().map(|key| args!["CACHE.INSPECT", key]).collect();
    let replies = client.pipeline(&commands);
    for (key, reply) in keys.iter().zip(&replies) {
        let key = key.escape_ascii();
        assert!(!reply.is_error(), "INSPECT of {key}: {reply:?}");
    }
    replies.iter().map(inspected).collect()
}

/// The keys whose entries are visible.
fn visible(client: &mut RawClient, keys: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let entries = inspect_all(client, keys);
    let entries = keys.iter().zip(entries);
    let visible = entries.filter(|(_, entry)| entry.is_some());
    visible.map(|(key, _)| key.clone()).collect()
}

/// Compares the sums of memory with the figures of each entry.
fn memory_agrees(client: &mut RawClient, of_tag: &OfTag) -> Result<(), String> {
    let (keys, stats) = keys_and_stats(client);
    let backlog = stats.field("reclaim_backlog").int();
    let entries = keys.iter().zip(inspect_all(client, &keys));
    let memory: BTreeMap<_, _> = entries
        .filter_map(|(key, entry)| Some((key, entry?.memory)))
        .collect();
    let difference = |what: &str, seen: i64, expected: i64| {
        let right = about(seen, expected, i64::MAX / 2, backlog);
        (!right).then(|| format!("{what}: {seen}, expected {expected} (backlog {backlog})"))
    };
    // Entries that INVALIDATEWHERE dropped count until they are reclaimed.
    let (seen, expected) = (stats.field("bytes").int(), memory.values().sum());
    if let Some(difference) = difference("STATS bytes against INSPECT", seen, expected) {
        return Err(difference);
    }
    for (tag, keys) in of_tag {
        let info = call!(client, "CACHE.TAGINFO", tag);
        if info.is_null() {
            continue;
        }
        let seen = info.field("bytes").int();
        let expected = keys.iter().filter_map(|key| memory.get(key)).sum();
        let what = format!("TAGINFO bytes of {} against INSPECT", tag.escape_ascii());
        if let Some(difference) = difference(&what, seen, expected) {
            return Err(difference);
        }
    }
    Ok(())
}

/// Keys, statistics and visible keys, once every entry that counts is visible, or after the deadline.
fn settled(client: &mut RawClient) -> (BTreeSet<Vec<u8>>, Reply, BTreeSet<Vec<u8>>) {
    let start = Instant::now();
    loop {
        let (keys, stats) = keys_and_stats(client);
        let visible = visible(client, &keys);
        let counted = stats.field("entries").int() as usize;
        if counted == visible.len() || start.elapsed() > slowed(SETTLED_WITHIN) {
            return (keys, stats, visible);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Keys and statistics of one moment: reclaiming cannot come between.
fn keys_and_stats(client: &mut RawClient) -> (BTreeSet<Vec<u8>>, Reply) {
    let transaction = [
        args!["MULTI"],
        // A COUNT beyond any test's keyspace: one page holds everything.
        args!["SCAN", 0, "COUNT", 100_000_000, "TYPE", "tagcache1"],
        args!["CACHE.STATS"],
        args!["EXEC"],
    ];
    let replies = client.pipeline(&transaction);
    let [page, stats] = replies[3].items() else {
        panic!("EXEC answers {:?}", replies[3])
    };
    let (cursor, keys) = scan_page(page);
    assert_eq!(cursor, b"0", "one page holds everything");
    (keys.into_iter().collect(), stats.clone())
}
