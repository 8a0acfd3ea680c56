//! The hit count of one entry, and whether the entry is queued or has left.

use super::sync::{AtomicU64, Ordering};

/// The entry is in the queue for `take_hits`, or hits are not reported and it never gets there.
const QUEUED: u64 = 1 << 63;
/// The entry has left the cache: its count is final.
const RETIRED: u64 = 1 << 62;
const COUNT: u64 = RETIRED - 1;

/// Count and flags are one word, so that each change of either sees exactly the state before it: no hit is lost between
/// a thread that counts and a thread that takes the entry out.
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

    /// Hits are counted under the lock that removed the entry, so none follows.
    pub(super) fn retire(&self) -> Word {
        Word(self.0.fetch_or(RETIRED, Ordering::Relaxed))
    }
}
