//! The hit count of one entry, and whether the entry waits in a queue or has left.

use super::sync::{AtomicU64, Ordering};

/// The entry waits in the queue for `take_hits`, or never will: hits are not reported.
const QUEUED: u64 = 1 << 63;
/// The entry has left the cache: its count is final.
const RETIRED: u64 = 1 << 62;
const COUNT: u64 = RETIRED - 1;

/// Count and flags in one word, so that each change of either sees exactly what was before it: no hit is lost
/// between one who counts and one who takes the entry out.
#[derive(Debug)]
pub(super) struct Hits(AtomicU64);

/// The word as it was read, or before it was changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word(u64);

impl Word {
    pub(super) fn count(self) -> u64 {
        self.0 & COUNT
    }

    pub(super) fn is_queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    pub(super) fn is_retired(self) -> bool {
        self.0 & RETIRED != 0
    }
}

impl Hits {
    pub(super) fn new(is_reported: bool) -> Self {
        Self(AtomicU64::new(if is_reported { 0 } else { QUEUED }))
    }

    pub(super) fn read(&self) -> Word {
        Word(self.0.load(Ordering::Relaxed))
    }

    /// Relaxed, because a count orders nothing; each change is still applied once.
    pub(super) fn count_one(&self) -> Word {
        Word(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds hits of an earlier entry of the key. Release, see [`Stored::take_unreported`].
    ///
    /// [`Stored::take_unreported`]: super::stored::Stored::take_unreported
    pub(super) fn add(&self, hits: u64) -> Word {
        Word(self.0.fetch_add(hits, Ordering::Release))
    }

    pub(super) fn queue(&self) -> Word {
        Word(self.0.fetch_or(QUEUED, Ordering::Relaxed))
    }

    pub(super) fn unqueue(&self) -> Word {
        Word(self.0.fetch_and(!QUEUED, Ordering::Acquire))
    }

    /// Hits are counted under the lock that the entry had to leave by, so none follows.
    pub(super) fn retire(&self) -> Word {
        Word(self.0.fetch_or(RETIRED, Ordering::Relaxed))
    }
}
