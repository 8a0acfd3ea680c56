//! Maps two limits, entries and bytes, to the one limit of `quick_cache`.
//!
//! An entry costs the larger of its two shares: one entry's share of `max_entries`, or its bytes' share of `max_bytes`.
//! While the costs add up to at most one cache, neither limit is exceeded. The disadvantage: a mix of light and heavy
//! entries may fill the cache before either limit is reached, at worst at half of both.

use quick_cache::{OptionsBuilder, Weighter};

use super::stored::Handle;

/// Cost of an entry that is not heavy: large enough that rounding up the cost of the others wastes little.
const ENTRY_COST: u64 = 1 << 10;

/// Above this, the number of entries is bounded by memory anyway.
const MAX_ENTRIES: u64 = 1 << 40;

/// Entries that a shard should have room for: hashing distributes keys unevenly, and a shard for few entries would be
/// full long before the cache.
const SHARD_ENTRIES: u64 = 512;

/// Bytes that the cache itself needs for an entry, besides the text of its key, its tags and its value: see
/// `bytes_estimate_what_the_allocator_gives` in the tests.
pub(super) const ENTRY_BYTES: u64 = 192;

/// A heavier entry counts as this weight, so that sums of weights cannot overflow: a tebibyte.
pub(super) const MAX_WEIGHT: u64 = 1 << 40;

pub(super) const TAG_BYTES: u64 = 16;

#[derive(Debug, Clone)]
pub(super) struct Bounds {
    max_entries: u64,
    max_bytes: Option<u64>,
    shards: u64,
    cost_of_byte: f64,
}

impl Bounds {
    pub(super) fn new(max_entries: usize, max_bytes: Option<u64>, shards: Option<usize>) -> Self {
        let max_entries = (max_entries as u64).min(MAX_ENTRIES);
        let likely = max_entries.min(max_bytes.map_or(MAX_ENTRIES, |bytes| bytes / ENTRY_BYTES));
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let shards = match shards {
            // A shard without room for an entry would reject all entries.
            Some(shards) => (shards as u64).min(likely).clamp(1, 1 << 10),
            None => (likely / SHARD_ENTRIES).clamp(1, 4 * threads),
        };
        // Rounded down to a power of two: quick_cache would round up, to smaller shards.
        let shards = 1 << shards.ilog2();
        let whole = (max_entries * ENTRY_COST) as f64;
        Self {
            max_entries,
            max_bytes,
            shards,
            cost_of_byte: max_bytes.map_or(0.0, |bytes| whole / bytes.max(1) as f64),
        }
    }

    pub(super) fn max_entries(&self) -> usize {
        self.max_entries as usize
    }

    pub(super) fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    fn shard_cost(&self) -> u64 {
        self.max_entries * ENTRY_COST / self.shards
    }

    /// Share of a shard for hot entries; also the share that one entry may have. A shard with room for one entry cannot
    /// reserve anything for new keys.
    fn hot_allocation(&self) -> f64 {
        if self.shard_cost() < 2 * ENTRY_COST {
            1.0
        } else {
            0.97
        }
    }

    pub(super) fn max_entry_bytes(&self) -> u64 {
        let Some(max_bytes) = self.max_bytes else {
            return if self.max_entries == 0 { 0 } else { u64::MAX };
        };
        let cost = (self.shard_cost() as f64 * self.hot_allocation()) as u64;
        if cost < ENTRY_COST || max_bytes == 0 {
            return 0;
        }
        ((cost - 1) as f64 / self.cost_of_byte) as u64
    }

    pub(super) fn options(&self) -> quick_cache::Options {
        let per_shard = (self.max_entries / self.shards).max(1);
        let likely = self.max_bytes.map_or(per_shard, |bytes| {
            per_shard.min(bytes / self.shards / ENTRY_BYTES)
        });
        // The number of shards is kept only if this figure gives each room for 32 entries. It also sets how many
        // evicted keys are remembered.
        let items = likely.clamp(32, 1 << 20) * self.shards;
        OptionsBuilder::new()
            .shards(self.shards as usize)
            .estimated_items_capacity(items as usize)
            .weight_capacity(self.shard_cost() * self.shards)
            .hot_allocation(self.hot_allocation())
            .build()
            .expect("both capacities are set")
    }
}

impl<V> Weighter<Handle, V> for Bounds {
    fn weight(&self, key: &Handle, _value: &V) -> u64 {
        // Rounded up, so that the sum of the costs errs on the safe side. A cost above the whole cache is cut off
        // there, so that sums of costs cannot overflow.
        let cost = (key.stored().weight as f64 * self.cost_of_byte) as u64;
        cost.saturating_add(1)
            .clamp(ENTRY_COST, self.max_entries * ENTRY_COST + ENTRY_COST)
    }
}
