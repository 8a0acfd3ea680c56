//! The hit count of one entry, and which lists the entry is on.

use super::sync::{AtomicU64, Ordering};

/// The tracker holds the entry.
const TRACKED: u64 = 1 << 63;
/// The entry waits in the queue for `take_hits`.
const QUEUED: u64 = 1 << 62;
/// The entry has left the cache: its count is final.
const RETIRED: u64 = 1 << 61;
/// Another entry goes on with its count.
const MOVED: u64 = 1 << 60;
const COUNT: u64 = MOVED - 1;

/// Count and flags in one word, so that each change of either sees exactly what was before it: no hit is lost
/// between a reader that counts and a tracker that lets the entry in or out.
#[derive(Debug, Default)]
pub(super) struct Hits(AtomicU64);

/// The word as it was read, or as it was after a hit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word(u64);

impl Word {
    pub(super) fn count(self) -> u64 {
        self.0 & COUNT
    }

    pub(super) fn is_tracked(self) -> bool {
        self.0 & TRACKED != 0
    }

    pub(super) fn is_queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    pub(super) fn is_moved(self) -> bool {
        self.0 & MOVED != 0
    }

    pub(super) fn is_retired(self) -> bool {
        self.0 & RETIRED != 0
    }
}

impl Hits {
    /// The count of a key whose entry has left.
    pub(super) fn of_removed(count: u64) -> Self {
        Self(AtomicU64::new(count | RETIRED))
    }

    pub(super) fn read(&self) -> Word {
        Word(self.0.load(Ordering::Relaxed))
    }

    /// Counts a hit: the word after it. Relaxed, because a count orders nothing; each change is still applied once.
    pub(super) fn count_one(&self) -> Word {
        Word(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Adds hits that were counted elsewhere: the word after it. Release, see [`Stored::take_over`].
    ///
    /// [`Stored::take_over`]: super::stored::Stored::take_over
    pub(super) fn add(&self, hits: u64) -> Word {
        Word(self.0.fetch_add(hits, Ordering::Release) + hits)
    }

    /// Flags the entry as tracked: the word before.
    pub(super) fn track(&self) -> Word {
        Word(self.0.fetch_or(TRACKED, Ordering::Relaxed))
    }

    /// The tracker lets go: the word before.
    pub(super) fn untrack(&self) -> Word {
        Word(self.0.fetch_and(!TRACKED, Ordering::Relaxed))
    }

    /// Flags the entry as queued: the word before.
    pub(super) fn queue(&self) -> Word {
        Word(self.0.fetch_or(QUEUED, Ordering::Relaxed))
    }

    /// Taken off the queue: the word before.
    pub(super) fn unqueue(&self) -> Word {
        Word(self.0.fetch_and(!QUEUED, Ordering::Acquire))
    }

    /// The entry has left the cache: the word before. Hits are counted under the lock that it had to leave by, so
    /// none follows.
    pub(super) fn retire(&self) -> Word {
        Word(self.0.fetch_or(RETIRED, Ordering::Relaxed))
    }

    /// The count goes on in another entry: the word before.
    pub(super) fn pass_on(&self) -> Word {
        Word(self.0.fetch_or(MOVED, Ordering::Relaxed))
    }
}
