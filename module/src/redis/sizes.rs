//! What an entry costs in memory.

use std::sync::OnceLock;

use crate::entry::Entry;

/// Hash tables of the server have between one and two buckets, a pointer each, for a row.
const BUCKET: u64 = 12;

/// Up to this size the allocator is asked once, at load, what it really hands out.
const PROBED: usize = 512;
const STEP: usize = 8;

#[derive(Debug)]
struct Sizes {
    probed: [u16; PROBED / STEP + 1],
    /// What the server keeps for every key beside name and value.
    fixed: u64,
    /// What it keeps for a time to live.
    ttl: u64,
}

static SIZES: OnceLock<Sizes> = OnceLock::new();

/// Asks the allocator for its size classes. Called once, by `load`.
pub(crate) fn probe() {
    let probed: [u16; PROBED / STEP + 1] = std::array::from_fn(|i| {
        // SAFETY: allocated, measured and freed at once.
        unsafe {
            let ptr = api!(RedisModule_Alloc(i.max(1) * STEP));
            let size = api!(RedisModule_MallocSize(ptr));
            api!(RedisModule_Free(ptr));
            size as u16
        }
    });
    let class = |size: usize| u64::from(probed[size.div_ceil(STEP)]);
    // An object and the value's type and pointer, 16 bytes each; a row of a hash table, 24 bytes, and its bucket.
    let _ = SIZES.set(Sizes {
        probed,
        fixed: 2 * class(16) + class(24) + BUCKET,
        ttl: class(24) + BUCKET,
    });
}

/// What the allocator hands out for so many bytes: jemalloc has four classes between powers of two.
fn class(sizes: &Sizes, size: usize) -> u64 {
    if size <= PROBED {
        return u64::from(sizes.probed[size.div_ceil(STEP)]);
    }
    size.next_multiple_of(1 << ((size - 1).ilog2() - 2)) as u64
}

/// Header and terminator of the server's strings.
const fn string_size(len: usize) -> usize {
    len + 1
        + match len {
            0..32 => 1,
            32..256 => 3,
            256..65_536 => 5,
            _ => 9,
        }
}

/// All that an entry costs: its allocation, the key's name, and the server's bookkeeping for both.
///
/// The same for the same key, value and TTL at any time, so that sums kept by adding and subtracting stay exact.
/// The index itself is counted apart (`index_bytes`).
pub(crate) fn cost(entry: Entry<'_>) -> u64 {
    let Some(sizes) = SIZES.get() else { return 0 };
    class(sizes, entry.allocated())
        + class(sizes, string_size(entry.key().len()))
        + sizes.fixed
        + if entry.has_ttl() { sizes.ttl } else { 0 }
}

/// What the server must be told so that its MEMORY USAGE says [`cost`]: it adds the key's name and its row in the
/// keyspace by itself, and nothing else.
pub(crate) fn usage(entry: Entry<'_>) -> u64 {
    let Some(sizes) = SIZES.get() else { return 0 };
    // It counts the row as it is defined, not as it is allocated.
    let added = class(sizes, string_size(entry.key().len())) + 24;
    cost(entry) - added
}
