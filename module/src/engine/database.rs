//! One database: its index, its clock, its counters.

use super::clock::Clock;
use super::index::Index;
use super::stats::Counters;

/// Everything the module knows about one Redis database.
#[derive(Debug)]
pub(crate) struct Database<E> {
    pub(crate) index: Index<E>,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
}

impl<E> Default for Database<E> {
    fn default() -> Self {
        Self {
            index: Index::default(),
            clock: Clock::default(),
            counters: Counters::default(),
        }
    }
}

impl<E: Copy + PartialEq> Database<E> {
    /// Drops all entries that carry one of these tags, and returns how many (entry, tag) pairs. O(tags).
    pub(crate) fn invalidate<'a>(
        &mut self,
        tags: impl Iterator<Item = &'a [u8]>,
        now_ms: u64,
    ) -> u64 {
        self.clock.tick();
        let dropped = tags.map(|tag| self.index.invalidate(tag, now_ms)).sum();
        self.counters.invalidations += 1;
        self.counters.invalidated += dropped;
        dropped
    }

    /// Drops all entries, and returns how many. O(1).
    pub(crate) fn flush(&mut self) -> u64 {
        self.clock.tick();
        let dropped = self.index.flush();
        self.counters.invalidations += 1;
        self.counters.invalidated += dropped;
        dropped
    }

    /// Takes the whole index out, for a native flush, which empties the keyspace by itself. The clock goes on: it
    /// tells later reads from what was written before.
    pub(crate) fn take_index(&mut self) -> Index<E> {
        std::mem::take(&mut self.index)
    }

    /// Whether anything here is worth a line in INFO.
    pub(crate) fn is_in_use(&self) -> bool {
        self.index.len() > 0 || self.clock.reading() > 0
    }
}
