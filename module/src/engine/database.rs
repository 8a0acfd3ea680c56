//! One database: its index, its clock, its leases, its counters.

use super::clock::Clock;
use super::index::{Condition, Effect, Index, Moment};
use super::lease::{Leases, Token};
use super::stats::Counters;

/// A tag is remembered for its last invalidation at least so long, also when nothing carries it.
pub(crate) const REMEMBER_TAG_MS: u64 = 60_000;

/// Everything the module knows about one Redis database.
#[derive(Debug)]
pub(crate) struct Database<E> {
    pub(crate) index: Index<E>,
    pub(crate) clock: Clock,
    pub(crate) leases: Leases,
    pub(crate) counters: Counters,
}

impl<E> Default for Database<E> {
    fn default() -> Self {
        Self {
            index: Index::default(),
            clock: Clock::default(),
            leases: Leases::default(),
            counters: Counters::default(),
        }
    }
}

impl<E: Copy + PartialEq> Database<E> {
    /// The next tick of the clock. `lease_max_ms`: no lease lasts longer, so tags need not be remembered longer either.
    fn tick(&mut self, now_ms: u64, lease_max_ms: u64) -> Moment {
        Moment {
            now_ms,
            clock: self.clock.tick(),
            remember_until_ms: now_ms.saturating_add(lease_max_ms.max(REMEMBER_TAG_MS)),
        }
    }

    /// Counts an invalidating command that dropped so much, and returns that.
    fn count(&mut self, dropped: u64) -> u64 {
        self.counters.invalidations += 1;
        self.counters.invalidated += dropped;
        dropped
    }

    /// Drops all entries that carry one of these tags, or makes them stale, and returns how many (entry, tag) pairs.
    /// O(tags).
    pub(crate) fn invalidate<'a>(
        &mut self,
        tags: impl Iterator<Item = &'a [u8]>,
        effect: Effect,
        now_ms: u64,
        lease_max_ms: u64,
    ) -> u64 {
        let moment = self.tick(now_ms, lease_max_ms);
        let index = &mut self.index;
        let dropped = match effect {
            Effect::Gone => tags.map(|tag| index.invalidate(tag, moment)).sum(),
            Effect::Stale => tags.map(|tag| index.revalidate(tag, moment)).sum(),
        };
        self.count(dropped)
    }

    /// Drops the entries that a condition selects, or makes them stale, and returns how many.
    pub(crate) fn invalidate_where(
        &mut self,
        condition: Condition<'_>,
        effect: Effect,
        now_ms: u64,
        lease_max_ms: u64,
    ) -> u64 {
        let moment = self.tick(now_ms, lease_max_ms);
        let dropped = self.index.invalidate_where(condition, effect, moment);
        self.count(dropped)
    }

    /// Drops all entries, and returns how many. O(lists in the backlog). The caller ends the leases.
    pub(crate) fn flush(&mut self) -> u64 {
        self.clock.tick();
        let dropped = self.index.flush();
        self.count(dropped)
    }

    /// Whether what was loaded under this lease may still be written with these tags: the lease is the last one that
    /// was granted for the key, and no tag was invalidated since.
    pub(crate) fn may_write<'a>(
        &self,
        key: &[u8],
        token: Token,
        mut tags: impl Iterator<Item = &'a [u8]>,
    ) -> bool {
        self.leases.granted_at(key, token).is_some_and(|clock| {
            !tags.any(|tag| self.index.is_invalidated_after(tag, clock))
                && !self.index.is_invalidated_by_condition_after(clock)
        })
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
