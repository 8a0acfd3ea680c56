//! An invalidation of any size is visible at once, and its memory is reclaimed.

mod exact;
mod figures;
mod memory;
mod visible;

use tagcache_tests::{RawClient, Reply, args};

/// Sets this many entries `prefix0`, `prefix1` … with this tag.
fn fill(client: &mut RawClient, prefix: &str, count: usize, value: &[u8], tag: &str) {
    let numbers: Vec<usize> = (0..count).collect();
    for numbers in numbers.chunks(10_000) {
        let set = |n: &usize| args!["CACHE.SET", format!("{prefix}{n}"), value, "TAGS", 1, tag];
        let commands: Vec<_> = numbers.iter().map(set).collect();
        assert!(
            client
                .pipeline(&commands)
                .iter()
                .all(|reply| *reply == Reply::ok())
        );
    }
}
