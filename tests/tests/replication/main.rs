//! Primary and replicas hold the same data, whatever happens in between.

mod beside;
mod divergence;
mod quiet;
mod ranges;
mod resync;
mod stream;
mod times;

use tagcache_tests::{RawClient, args};

/// Sets `count` entries `prefix0`, `prefix1` … with this tag.
fn fill(client: &mut RawClient, prefix: &str, count: usize, tag: &str) {
    let set = |n| {
        args![
            "CACHE.SET",
            format!("{prefix}{n}"),
            n,
            "TAGS",
            2,
            tag,
            "all"
        ]
    };
    let commands: Vec<_> = (0..count).map(set).collect();
    for reply in client.pipeline(&commands) {
        assert!(!reply.is_error(), "{reply:?}");
    }
}
