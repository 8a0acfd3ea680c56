//! The data that the cache keeps besides a value, and the ways in which an entry is looked up.
//!
//! `quick_cache` finds a key by its hash, and then compares the stored key with it. The stored key here holds all that
//! decides whether the entry may still be served, so the comparison can also return false for an entry that is out of
//! date: one hash lookup finds the entry and checks it, and a value that must not be served is never touched.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use quick_cache::Equivalent;
use triomphe::ThinArc;

use super::{
    clock::{NEVER, left},
    hits::{Hits, Word},
    marks::Marks,
    sync::{AtomicU64, Ordering},
    tags::{TagSet, are_unchanged_since},
};

/// The data of an entry besides key and value.
///
/// In this order, because the key follows in memory: the fields that every hit reads are next to it, in as few cache
/// lines as possible.
#[repr(C)]
pub(super) struct Stored {
    /// How long after its end, or after a soft invalidation, it may be served as stale.
    pub(super) grace: u64,
    /// Bytes, including the bookkeeping.
    pub(super) weight: u64,
    /// How many of the hits `take_hits` has returned.
    pub(super) reported: AtomicU64,
    pub(super) hits: Hits,
    /// The epoch that was current when the value began to be loaded.
    pub(super) stamp: u64,
    pub(super) expires: u64,
    pub(super) tags: TagSet,
}

/// The state of an entry that may be served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) is_fresh: bool,
    /// How long it stays fresh, or may be served as stale.
    pub(super) left: Duration,
}

impl Stored {
    /// Adds hits of an earlier entry of the key, which were or will be reported through that one; returns the word
    /// before. In this order, so that a report in between sees too few hits, never those of the other entry twice.
    pub(super) fn take_over(&self, hits: u64) -> Word {
        self.reported.fetch_add(hits, Ordering::Relaxed);
        self.hits.add(hits)
    }

    /// Takes the hits that were not returned before. `None`: try again, others are being added.
    pub(super) fn take_unreported(&self) -> Option<u64> {
        let count = self.hits.unqueue().count();
        let fresh = count.checked_sub(self.reported.load(Ordering::Relaxed))?;
        self.reported.fetch_add(fresh, Ordering::Relaxed);
        Some(fresh)
    }

    pub(super) fn is_invalidated(&self, all: &Marks) -> bool {
        !all.is_unchanged_since(self.stamp) || !are_unchanged_since(&self.tags, self.stamp)
    }

    /// The state at the time `now`, `None` if the entry is gone.
    pub(super) fn found(&self, now: u64, all: &Marks) -> Option<Found> {
        let mut end = self.expires;
        for marks in std::iter::once(all).chain(self.tags.iter().map(|tag| &tag.marks)) {
            end = end.min(marks.softened_since(self.stamp)?);
        }
        let is_fresh = end == self.expires && (end == NEVER || now < end);
        if !is_fresh {
            end = end.saturating_add(self.grace);
        }
        let is_there = is_fresh || now < end;
        is_there.then(|| Found {
            is_fresh,
            left: left(end, now),
        })
    }
}

/// A key with its [`Stored`] in one allocation. As a key of the cache it equals every key with the same text.
#[derive(Clone)]
pub(super) struct Handle(ThinArc<Stored, u8>);

impl Handle {
    pub(super) fn new(key: &str, stored: Stored) -> Self {
        Self(ThinArc::from_header_and_slice(stored, key.as_bytes()))
    }

    pub(super) fn stored(&self) -> &Stored {
        &self.0.header.header
    }

    pub(super) fn key_bytes(&self) -> &[u8] {
        &self.0.slice
    }

    pub(super) fn key(&self) -> &str {
        std::str::from_utf8(self.key_bytes()).expect("it was copied from a str")
    }

    /// Whether it is the same entry, not only one of the same key.
    pub(super) fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.stored(), other.stored())
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.key_bytes() == other.key_bytes()
    }
}

impl Eq for Handle {}

impl Hash for Handle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.key_bytes());
    }
}

/// Finds the entry of a key if `accepts` returns true for it.
pub(super) struct Lookup<'a, F> {
    key: &'a [u8],
    accepts: F,
}

impl<'a, F: Fn(&Handle) -> bool> Lookup<'a, F> {
    pub(super) fn new(key: &'a [u8], accepts: F) -> Self {
        Self { key, accepts }
    }
}

impl<F> Hash for Lookup<'_, F> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.key);
    }
}

impl<F: Fn(&Handle) -> bool> Equivalent<Handle> for Lookup<'_, F> {
    fn equivalent(&self, handle: &Handle) -> bool {
        self.key == handle.key_bytes() && (self.accepts)(handle)
    }
}
