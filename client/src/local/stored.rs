//! What the cache keeps beside a value, and the ways in which an entry is looked up.
//!
//! `quick_cache` finds a key by its hash and by asking the stored key whether it is the one. The stored key here
//! holds all that decides whether the entry may still be served, so the answer to "is it the one" can be "yes, but
//! out of date": one hash lookup both finds and judges, and a value that must not be served is never touched.

use std::{
    cell::Cell,
    hash::{Hash, Hasher},
};

use quick_cache::Equivalent;
use triomphe::ThinArc;

use super::{
    clock::{Clock, NEVER, left},
    hits::{Hits, Word},
    marks::{Marks, Standing},
    sync::{AtomicU64, Ordering},
    tags::TagSet,
};

/// What is known of an entry beside key and value.
///
/// In this order, because the key follows in memory: what every hit looks at stands next to it, in as few cache lines
/// as possible.
#[repr(C)]
pub(super) struct Stored {
    /// How long after its end, or after a soft invalidation, it may be served as stale.
    pub(super) grace: u64,
    /// Bytes, the bookkeeping included.
    pub(super) weight: u64,
    /// How many of the hits were handed out by `take_hits`.
    pub(super) reported: AtomicU64,
    pub(super) hits: Hits,
    /// The epoch that was current when the value began to be loaded.
    pub(super) stamp: u64,
    /// Fresh before this time.
    pub(super) expires: u64,
    pub(super) tags: TagSet,
}

/// What a value is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Fresh,
    /// May be served as stale before this time.
    StaleUntil(u64),
    Gone,
}

impl Stored {
    /// Takes over the hits of the entry that had this key before.
    pub(super) fn carry(&self, hits: u64) -> Word {
        // They are reported through that entry. In this order, so that whoever reports this one in between sees
        // too few hits, never those of the other one twice.
        self.reported.fetch_add(hits, Ordering::Relaxed);
        self.hits.add(hits)
    }

    /// Hits that were not handed out before; they are now. `None`: come again, they are being moved.
    pub(super) fn take_unreported(&self) -> Option<u64> {
        let count = self.hits.unqueue().count();
        let fresh = count.checked_sub(self.reported.load(Ordering::Relaxed))?;
        self.reported.fetch_add(fresh, Ordering::Relaxed);
        Some(fresh)
    }

    pub(super) fn is_fresh(&self, clock: &Clock, all: &Marks) -> bool {
        !self.is_invalidated(all)
            // Last, because reading the time costs more than all the rest.
            && (self.expires == NEVER || clock.now() < self.expires)
    }

    /// Whether it has been invalidated, hard or soft.
    pub(super) fn is_invalidated(&self, all: &Marks) -> bool {
        !all.is_unchanged_since(self.stamp)
            || !self
                .tags
                .iter()
                .all(|tag| tag.is_unchanged_since(self.stamp))
    }

    pub(super) fn freshness(&self, now: u64, all: &Marks) -> Freshness {
        let mut until = self.expires;
        let mut fresh = self.expires == NEVER || now < self.expires;
        for marks in std::iter::once(all).chain(self.tags.iter().map(AsRef::as_ref)) {
            match marks.standing_of(self.stamp) {
                Standing::Current => {}
                Standing::SoftenedAt(since) => {
                    fresh = false;
                    until = until.min(since);
                }
                Standing::Dropped => return Freshness::Gone,
            }
        }
        let gone_at = until.saturating_add(self.grace);
        if fresh {
            Freshness::Fresh
        } else if now < gone_at {
            Freshness::StaleUntil(gone_at)
        } else {
            Freshness::Gone
        }
    }
}

/// A key with its [`Stored`] in one allocation. As a key of the cache it equals whatever has the same text.
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

    /// Where it lies: different for any two entries that exist at the same time.
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self.stored()).addr()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.key_bytes() == other.key_bytes()
    }
}

impl Eq for Handle {}

fn hash_key<H: Hasher>(key: &[u8], state: &mut H) {
    state.write(key);
}

impl Hash for Handle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_key(self.key_bytes(), state);
    }
}

/// Finds the entry whatever its state.
pub(super) struct ByKey<'a>(pub(super) &'a str);

impl Hash for ByKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_key(self.0.as_bytes(), state);
    }
}

impl Equivalent<Handle> for ByKey<'_> {
    fn equivalent(&self, handle: &Handle) -> bool {
        self.0.as_bytes() == handle.key_bytes()
    }
}

/// What every judging lookup needs to know.
#[derive(Clone, Copy)]
pub(super) struct Check<'a> {
    pub(super) clock: &'a Clock,
    pub(super) all: &'a Marks,
}

/// Finds the entry if it is fresh, and counts the hit.
pub(super) struct Fresh<'a> {
    pub(super) key: &'a str,
    pub(super) check: Check<'a>,
    /// The entry is there, but nobody may be served with it any more.
    pub(super) gone: Cell<bool>,
    /// Who has to hear of which hits.
    pub(super) hit_rules: HitRules,
    /// The entry, where somebody has to hear of this hit; that happens outside the lock.
    pub(super) notable: Cell<Option<Handle>>,
}

/// Which hits are more than a number to be increased.
#[derive(Debug, Clone, Copy)]
pub(super) struct HitRules {
    /// The tracker wants to hear of an entry that it does not hold once its count exceeds this.
    pub(super) tracked_above: u64,
    /// Hits are reported: an entry that is not yet queued for it has to be.
    pub(super) reporting: bool,
}

impl Hash for Fresh<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_key(self.key.as_bytes(), state);
    }
}

impl Equivalent<Handle> for Fresh<'_> {
    fn equivalent(&self, handle: &Handle) -> bool {
        if self.key.as_bytes() != handle.key_bytes() {
            return false;
        }
        let stored = handle.stored();
        if !stored.is_fresh(self.check.clock, self.check.all) {
            let freshness = stored.freshness(self.check.clock.now(), self.check.all);
            self.gone.set(freshness == Freshness::Gone);
            return false;
        }
        if self.hit_rules.concern(stored.hits.count_one()) {
            self.notable.set(Some(handle.clone()));
        }
        true
    }
}

impl HitRules {
    fn concern(self, word: Word) -> bool {
        !word.is_tracked() && word.count() > self.tracked_above
            || self.reporting && !word.is_queued()
    }
}

/// Finds the entry if it may be served, fresh or stale, and says which.
pub(super) struct Servable<'a> {
    pub(super) key: &'a str,
    pub(super) check: Check<'a>,
    /// `None`: a look that is not to be counted.
    pub(super) hit_rules: Option<HitRules>,
    pub(super) notable: Cell<Option<Handle>>,
    pub(super) found: Cell<Option<Found>>,
    pub(super) gone: Cell<bool>,
}

/// What a [`Servable`] found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) freshness: Freshness,
    pub(super) left: std::time::Duration,
    pub(super) hits: u64,
    pub(super) weight: u64,
}

impl<'a> Servable<'a> {
    pub(super) fn new(key: &'a str, check: Check<'a>, hit_rules: Option<HitRules>) -> Self {
        Self {
            key,
            check,
            hit_rules,
            notable: Cell::new(None),
            found: Cell::new(None),
            gone: Cell::new(false),
        }
    }
}

impl Hash for Servable<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_key(self.key.as_bytes(), state);
    }
}

impl Equivalent<Handle> for Servable<'_> {
    fn equivalent(&self, handle: &Handle) -> bool {
        if self.key.as_bytes() != handle.key_bytes() {
            return false;
        }
        let Some(found) = handle.stored().found(self.check) else {
            self.gone.set(true);
            return false;
        };
        self.found.set(Some(found));
        if let Some(hit_rules) = self.hit_rules
            && found.freshness == Freshness::Fresh
            && hit_rules.concern(handle.stored().hits.count_one())
        {
            self.notable.set(Some(handle.clone()));
        }
        true
    }
}

impl Stored {
    /// What a reader may know of it, `None` if it is gone.
    pub(super) fn found(&self, check: Check<'_>) -> Option<Found> {
        let now = check.clock.now();
        let freshness = self.freshness(now, check.all);
        let left = match freshness {
            Freshness::Fresh => left(self.expires, now),
            Freshness::StaleUntil(end) => left(end, now),
            Freshness::Gone => return None,
        };
        Some(Found {
            freshness,
            left,
            hits: self.hits.read().count(),
            weight: self.weight,
        })
    }
}

/// Finds the entry if nobody may be served with it any more: removing by this never takes away an entry that
/// another thread has just put in its place.
pub(super) struct Gone<'a> {
    pub(super) key: &'a [u8],
    pub(super) check: Check<'a>,
}

impl Hash for Gone<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_key(self.key, state);
    }
}

impl Equivalent<Handle> for Gone<'_> {
    fn equivalent(&self, handle: &Handle) -> bool {
        self.key == handle.key_bytes()
            && handle
                .stored()
                .freshness(self.check.clock.now(), self.check.all)
                == Freshness::Gone
    }
}
