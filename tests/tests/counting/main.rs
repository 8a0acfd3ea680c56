//! Access counts: CACHE.TOP, CACHE.HITS, and how counts are carried.

mod hits;
mod kept;
mod nodes;
mod top;

use tagcache_tests::{RawClient, Reply, call};

/// The pairs of a reply of `CACHE.TOP`, after a check of its form.
fn top_of(reply: &Reply) -> Vec<(String, i64)> {
    let Reply::Array(rows) = reply else {
        panic!("TOP answers an array: {reply:?}")
    };
    let row = |row: &Reply| {
        let Reply::Array(row) = row else {
            panic!("a row is [key, hits]: {row:?}")
        };
        let [Reply::Bulk(key), Reply::Int(hits)] = &row[..] else {
            panic!("a row is [key, hits]: {row:?}")
        };
        (key.escape_ascii().to_string(), *hits)
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    assert!(
        rows.windows(2).all(|pair| pair[0].1 >= pair[1].1),
        "most hits first: {rows:?}"
    );
    rows
}

/// `CACHE.TOP count`.
fn top(client: &mut RawClient, count: usize) -> Vec<(String, i64)> {
    top_of(&call!(client, "CACHE.TOP", count))
}

/// Reads a key `times` times.
fn read(client: &mut RawClient, key: &str, times: usize) {
    let gets = vec![tagcache_tests::args!["CACHE.GET", key]; times];
    client.pipeline(&gets);
}
