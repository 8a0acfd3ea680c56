//! The memory that an entry costs.

use std::ffi::c_void;
use std::sync::OnceLock;

use super::Context;
use crate::engine::UNIT;
use crate::entry::{self, Allocated, Entry};

/// How a server keeps a key, its name and its time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// An object, a string for the name, a row of a hash table for both, another for the time to live: Redis up to 8.0.
    Rows,
    /// An object, and a row that holds the name; another row for the time to live: Valkey 8.0.
    RowWithName,
    /// An object that holds name and time to live; no row, but a place in a hash table, which costs this much: Redis
    /// from 8.2 on, Valkey from 8.1 on.
    ObjectWithName { place: u64 },
}

/// A hash table of rows has between one and two buckets per row, each of them a pointer.
const BUCKET: u64 = 12;

/// A place in a hash table without rows: in Valkey 64 bytes for seven places; in Redis a bucket, and a row of 16 bytes
/// where two objects meet. The mean for a table that doubles: between 13.9 bytes when full and 19.4 when half full.
const PLACE_IN_VALKEY: u64 = 15;
const PLACE_IN_REDIS: u64 = 16;

/// A row that holds a name, without the name.
const ROW_WITH_NAME: usize = 21;

/// The sizes of an object and of what precedes a name in it.
const OBJECT: usize = 16;
const BEFORE_NAME: usize = 1;
const TTL_IN_OBJECT: usize = 8;

/// Up to this size, the allocator is asked once, at load, for the size that it really allocates.
const PROBED: usize = 512;
const STEP: usize = 8;

#[derive(Debug)]
struct Sizes {
    probed: [u16; PROBED / STEP + 1],
    layout: Layout,
    /// The cost of a key besides its name and its entry, without a TTL and with one.
    unnamed: [u64; 2],
    /// Whether MEMORY USAGE counts the name in addition to the size that the module returns.
    usage_counts_name: bool,
}

static SIZES: OnceLock<Sizes> = OnceLock::new();

/// Asks the allocator for its size classes, and the server for its version. Called once, by `load`.
pub(crate) fn probe(ctx: &Context<'_>) {
    let probed: [u16; PROBED / STEP + 1] = std::array::from_fn(|i| {
        // SAFETY: allocated, measured and freed at once.
        unsafe {
            let ptr = api!(RedisModule_Alloc(i.max(1) * STEP));
            let size = api!(RedisModule_MallocSize(ptr));
            api!(RedisModule_Free(ptr));
            size as u16
        }
    });
    let (redis, valkey) = (
        ctx.version(c"redis_version"),
        ctx.version(c"valkey_version"),
    );
    let with_name = |place| Layout::ObjectWithName { place };
    let layout = match (redis, valkey) {
        (_, Some(version)) if version >= (8, 1) => with_name(PLACE_IN_VALKEY),
        (_, Some(version)) if version >= (8, 0) => Layout::RowWithName,
        (Some(version), None) if version >= (8, 2) => with_name(PLACE_IN_REDIS),
        _ => Layout::Rows,
    };
    let usage_counts_name = valkey.is_none_or(|version| !((8, 1)..(9, 0)).contains(&version));
    let mut sizes = Sizes {
        probed,
        layout,
        unnamed: [0; 2],
        usage_counts_name,
    };
    sizes.unnamed = [false, true].map(|has_ttl| sizes.beside(has_ttl));
    let _ = SIZES.set(sizes);
}

fn sizes() -> &'static Sizes {
    SIZES.get().expect("`load` probes them first")
}

/// The size that the allocator allocates for this many bytes.
fn class(sizes: &Sizes, size: usize) -> u64 {
    if size <= PROBED {
        return u64::from(sizes.probed[size.div_ceil(STEP)]);
    }
    entry::class(size) as u64
}

/// The size that the allocator allocates for an entry.
fn classes(sizes: &Sizes, allocated: Allocated) -> u64 {
    let value = allocated.value.map_or(0, |value| class(sizes, value));
    class(sizes, allocated.entry) + value
}

/// The size of a string of the server, with header and terminator.
const fn string_size(len: usize) -> usize {
    len + 1
        + match len {
            0..32 => 1,
            32..256 => 3,
            256..65_536 => 5,
            _ => 9,
        }
}

impl Sizes {
    /// The memory that holds the key's name. MEMORY USAGE adds it to the size that the module returns.
    fn named(&self, key_len: usize, has_ttl: bool) -> u64 {
        /// The server counts the defined size of a row, not its allocated size.
        const ROW: u64 = 24;
        match self.layout {
            Layout::Rows => class(self, string_size(key_len)) + ROW,
            Layout::RowWithName => class(self, ROW_WITH_NAME + key_len),
            Layout::ObjectWithName { .. } => {
                let ttl = if has_ttl { TTL_IN_OBJECT } else { 0 };
                class(self, OBJECT + BEFORE_NAME + string_size(key_len) + ttl)
            }
        }
    }

    /// The other memory that the server uses for a key, as a multiple of the index's unit.
    fn beside(&self, has_ttl: bool) -> u64 {
        let (value, object) = (class(self, 16), class(self, OBJECT));
        let (row, times) = (class(self, 24) + BUCKET, u64::from(has_ttl));
        let bytes = match self.layout {
            Layout::Rows => object + row - 24 + times * row,
            Layout::RowWithName => object + BUCKET + times * row,
            Layout::ObjectWithName { place } => place + times * place,
        };
        (value + bytes).next_multiple_of(UNIT)
    }
}

/// The cost of an entry: its allocation, the key's name, and the server's bookkeeping for both.
///
/// It is always the same for the same key, value and TTL, so that sums kept by adding and subtracting stay exact. The
/// index itself is counted separately (`index_bytes`).
pub(crate) fn cost(entry: Entry<'_>) -> u64 {
    let extent = entry.extent();
    cost_of(entry.allocated(extent), extent.key_len(), entry.has_ttl())
}

/// [`cost`] of an entry of this size, whose key has `key_len` bytes.
#[inline(always)]
pub(crate) fn cost_of(size: Allocated, key_len: usize, has_ttl: bool) -> u64 {
    let sizes = sizes();
    classes(sizes, size) + sizes.named(key_len, has_ttl) + sizes.unnamed[usize::from(has_ttl)]
}

/// Whether an entry of the size `size` takes as much memory as this one and fits into its place.
pub(crate) fn fits(entry: Entry<'_>, allocated: Allocated, size: Allocated) -> bool {
    let sizes = sizes();
    // An entry may use less than its allocation, never more. Classes are computed; for growth, the allocator is asked.
    let has_room = |allocation: *mut c_void, before: usize, bytes: usize| {
        bytes == before
            || class(sizes, bytes) == class(sizes, before)
                // SAFETY: an entry and its value are allocations of the server's.
                && (bytes < before || unsafe { api!(RedisModule_MallocSize(allocation)) } >= bytes)
    };
    has_room(entry.handle().as_raw(), allocated.entry, size.entry)
        && match (entry.value_apart(), allocated.value, size.value) {
            (None, None, None) => true,
            (Some(value), Some(before), Some(bytes)) => {
                has_room(value.as_ptr().cast(), before, bytes)
            }
            _ => false,
        }
}

/// The size to return to the server so that its MEMORY USAGE shows [`cost`].
pub(crate) fn usage(entry: Entry<'_>) -> u64 {
    let sizes = sizes();
    if !sizes.usage_counts_name {
        return cost(entry);
    }
    classes(sizes, entry.allocated(entry.extent())) + sizes.unnamed[usize::from(entry.has_ttl())]
}
