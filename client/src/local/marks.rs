//! When a tag, or everything, was last invalidated, in epochs: see "How it works" of the [module](super).

use std::collections::VecDeque;

use super::{
    clock::NEVER,
    sync::{AtomicU64, Mutex, Ordering, unpoisoned},
};

/// How many soft invalidations are remembered one by one. An entry that is older than one more of them is gone: the
/// beginning of its grace would not be known, and an entry that was gone already might come back.
pub(super) const REMEMBERED: usize = if cfg!(test) { 3 } else { 16 };

/// The latest invalidations of one tag, or of everything.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Latest invalidation of either kind: the only mark that a read of fresh values checks.
    changed: AtomicU64,
    /// Latest hard invalidation: entries from before are gone.
    dropped: AtomicU64,
    /// Soft invalidations, in the order of their epochs; most tags never have one.
    softened: Mutex<Option<Box<Softened>>>,
}

/// Epoch and time of each soft invalidation that is remembered.
type Softened = VecDeque<(u64, u64)>;

impl Marks {
    /// Marks of a tag that was not invalidated after `epoch`; nothing else is known of it.
    pub(super) fn not_after(epoch: u64) -> Self {
        Self {
            changed: AtomicU64::new(epoch),
            dropped: AtomicU64::new(epoch),
            softened: Mutex::new(None),
        }
    }

    pub(super) fn drop_at(&self, epoch: u64) {
        // `fetch_max`, because two invalidations may arrive here in another order than they took their epochs.
        self.dropped.fetch_max(epoch, Ordering::AcqRel);
        self.changed.fetch_max(epoch, Ordering::AcqRel);
    }

    pub(super) fn soften_at(&self, epoch: u64, now: u64) {
        let mut softened = unpoisoned(self.softened.lock());
        let softened = softened.get_or_insert_default();
        let place = softened.partition_point(|(known, _)| *known < epoch);
        softened.insert(place, (epoch, now));
        if softened.len() > REMEMBERED
            && let Some((oldest, _)) = softened.pop_front()
        {
            self.dropped.fetch_max(oldest, Ordering::AcqRel);
        }
        // Last, so that a thread that sees this mark also finds the time.
        self.changed.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Whether no invalidation of either kind is later than `stamp`.
    pub(super) fn is_unchanged_since(&self, stamp: u64) -> bool {
        self.changed.load(Ordering::Acquire) <= stamp
    }

    /// When the first soft invalidation after `stamp` was, [`NEVER`] if there was none; `None` if there was a hard one.
    pub(super) fn softened_since(&self, stamp: u64) -> Option<u64> {
        if self.is_unchanged_since(stamp) {
            return Some(NEVER);
        }
        if self.dropped.load(Ordering::Acquire) > stamp {
            return None;
        }
        let softened = unpoisoned(self.softened.lock());
        let mut later = softened.iter().flat_map(|softened| softened.iter());
        // Nothing found: a hard invalidation has just changed one mark and not yet the other.
        let (_, time) = later.find(|(epoch, _)| *epoch > stamp)?;
        Some(*time)
    }

    /// Epoch of the latest invalidation of either kind, 0 if there was none.
    pub(super) fn latest(&self) -> u64 {
        self.changed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads take their epochs in one order and arrive here in the other.
    #[test]
    fn invalidations_apply_in_epoch_order_not_arrival_order() {
        let marks = Marks::default();
        marks.soften_at(5, 500);
        marks.soften_at(3, 300);
        assert_eq!(marks.softened_since(2), Some(300));
        assert_eq!(marks.softened_since(4), Some(500));
        assert_eq!(marks.softened_since(5), Some(NEVER));

        marks.drop_at(9);
        marks.drop_at(7);
        marks.soften_at(8, 800);
        assert_eq!(marks.softened_since(8), None);
        assert_eq!(marks.softened_since(9), Some(NEVER));
        assert_eq!(marks.latest(), 9);
    }

    #[test]
    fn soft_invalidations_above_the_limit_become_hard() {
        let marks = Marks::default();
        let last = REMEMBERED as u64;
        for epoch in 1..=last {
            marks.soften_at(epoch, epoch * 100);
        }
        for stamp in 0..last {
            assert_eq!(marks.softened_since(stamp), Some((stamp + 1) * 100));
        }
        // One more: an entry that is older than the first one is gone.
        marks.soften_at(last + 1, (last + 1) * 100);
        assert_eq!(marks.softened_since(0), None);
        assert_eq!(marks.softened_since(1), Some(200));
    }
}
