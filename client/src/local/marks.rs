//! When something was last invalidated, in epochs.
//!
//! One counter, the epoch, goes up by one with each invalidation. An entry carries the epoch that was current when
//! its value began to be loaded (its stamp); a tag, and the cache as a whole, carry the epochs of their latest
//! invalidations (their marks). An entry whose stamp is behind a mark is out of date. So an invalidation is two
//! stores, however many entries it concerns, and whoever comes late with an old value is found out by its stamp.

use super::sync::{AtomicU64, Ordering};

/// The latest invalidations of one tag, or of everything.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Latest invalidation of either kind: all that a read of fresh values looks at.
    changed: AtomicU64,
    /// Latest hard invalidation: entries from before are gone.
    dropped: AtomicU64,
    /// Time of the latest soft invalidation: from then on the entries from before it use up their grace.
    softened_at: AtomicU64,
}

/// Until when an entry may be served, as far as one [`Marks`] is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Current,
    SoftenedAt(u64),
    Dropped,
}

impl Marks {
    /// Marks of a tag of which nothing is known except that it was not invalidated after `epoch`.
    pub(super) fn not_after(epoch: u64) -> Self {
        Self {
            changed: AtomicU64::new(epoch),
            dropped: AtomicU64::new(epoch),
            softened_at: AtomicU64::new(0),
        }
    }

    /// Hard invalidation at `epoch`.
    pub(super) fn drop_at(&self, epoch: u64) {
        // `fetch_max`, because two invalidations may arrive here in another order than they took their epochs.
        self.dropped.fetch_max(epoch, Ordering::AcqRel);
        self.changed.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Soft invalidation at `epoch`, at the time `now`.
    pub(super) fn soften_at(&self, epoch: u64, now: u64) {
        self.softened_at.fetch_max(now, Ordering::AcqRel);
        self.changed.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Whether no invalidation of either kind is later than `stamp`.
    pub(super) fn is_unchanged_since(&self, stamp: u64) -> bool {
        self.changed.load(Ordering::Acquire) <= stamp
    }

    pub(super) fn standing_of(&self, stamp: u64) -> Standing {
        if self.is_unchanged_since(stamp) {
            Standing::Current
        } else if self.dropped.load(Ordering::Acquire) > stamp {
            Standing::Dropped
        } else {
            Standing::SoftenedAt(self.softened_at.load(Ordering::Acquire))
        }
    }

    /// Epoch of the latest invalidation of either kind, 0 if there was none.
    pub(super) fn latest(&self) -> u64 {
        self.changed.load(Ordering::Acquire)
    }
}
