//! The keys with the most hits: bounded, and exact for what it holds.
//!
//! Every entry counts its own hits (see [`Hits`](super::hits::Hits)); the tracker only knows which entries lead.
//! While it is full, `floor` is at most the smallest count in it, so a hit has to come here only if the entry is
//! not tracked and its count has grown beyond `floor`. Counts grow by single hits, so no resident entry can get past
//! a tracked one unnoticed: whatever is resident and not tracked has at most the smallest tracked count.
//!
//! A tracked key whose entry leaves (expired, evicted, removed) stays with its count, because a key that is hot with
//! a short TTL is reloaded all the time and would otherwise never count as hot. It is forgotten by the second
//! cleanup that finds it without an entry, or when an entry with more hits needs the place.

use std::{cmp::Reverse, collections::BinaryHeap, hash::BuildHasher};

use hashbrown::HashTable;
use quick_cache::DefaultHashBuilder;

use super::{
    stored::Handle,
    sync::{AtomicU64, AtomicUsize, Mutex, Ordering, unpoisoned},
};

/// A key and how often it was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopKey {
    /// The key.
    pub key: String,
    /// Reads that found the key fresh since it was last unknown to both cache and tracker.
    pub hits: u64,
}

pub(super) struct Tracker {
    capacity: usize,
    /// An entry that is not tracked has to be offered once its count exceeds this.
    floor: AtomicU64,
    /// Number of slots without an entry: while it is 0, storing a key need not ask whether it was known.
    gone: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Slots by key.
    by_key: HashTable<usize>,
    hash_builder: DefaultHashBuilder,
    /// One item per slot, by a count that was once the slot's: a lower bound, put right when it comes to the top.
    by_count: BinaryHeap<Reverse<(u64, usize)>>,
    removed: usize,
}

struct Slot {
    /// The entry, or one without value and tags that keeps the key and the count of an entry that has left.
    entry: Handle,
    /// Cleanups that have seen that the entry has left; `None` while it is in the cache.
    removed_for: Option<u32>,
}

impl Slot {
    fn count(&self) -> u64 {
        self.entry.stored().hits.read().count()
    }
}

impl Tracker {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            floor: AtomicU64::new(if capacity == 0 { u64::MAX } else { 0 }),
            gone: AtomicUsize::new(0),
            state: Mutex::new(State::default()),
        }
    }

    /// The most hits that an entry may have without being offered.
    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        unpoisoned(self.state.lock()).slots.len()
    }

    /// Changes the state and publishes to readers what they need of it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        if self.capacity == 0 {
            return;
        }
        let mut state = unpoisoned(self.state.lock());
        change(&mut state);
        let floor = match state.by_count.peek() {
            Some(Reverse((count, _))) if state.slots.len() == self.capacity => *count,
            _ => 0,
        };
        self.floor.store(floor, Ordering::Relaxed);
        self.gone.store(state.removed, Ordering::Relaxed);
    }

    /// Takes the entry in if there is room or if it has more hits than a tracked one.
    pub(super) fn offer(&self, entry: &Handle) {
        self.change(|state| state.offer(entry, self.capacity));
    }

    /// The entry has left the cache, and was tracked when it did.
    pub(super) fn removed(&self, entry: &Handle) {
        self.change(|state| state.remove(entry));
    }

    /// `new` has taken the place of `old`, which was tracked: the count goes on.
    pub(super) fn replaced(&self, old: &Handle, new: &Handle) {
        self.change(|state| {
            new.stored().take_over(old.stored());
            state.offer(new, self.capacity);
            // The new one may have left as well.
            state.remove(old);
        });
    }

    /// A key that had no entry has one: if it is known from before, its count goes on.
    pub(super) fn added(&self, entry: &Handle) {
        if self.gone.load(Ordering::Relaxed) != 0 {
            self.change(|state| {
                if let Some(slot) = state.slot_of(entry) {
                    state.resume(slot, entry);
                }
            });
        }
    }

    /// Up to `n` tracked keys, most hits first, equal counts by key. O(tracked · log tracked).
    pub(super) fn top(&self, n: usize) -> Vec<TopKey> {
        let top = |slot: &Slot| TopKey {
            key: slot.entry.key().to_owned(),
            hits: slot.count(),
        };
        let state = unpoisoned(self.state.lock());
        let mut keys: Vec<TopKey> = state.slots.iter().map(top).collect();
        drop(state);
        keys.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.key.cmp(&b.key)));
        keys.truncate(n);
        keys
    }

    /// Forgets the keys that had no entry at the last cleanup either. The cleanup then offers what it meets, so
    /// that the places go to the entries with the most hits.
    pub(super) fn begin_cleanup(&self) {
        self.change(|state| {
            let before = state.slots.len();
            state.slots.retain_mut(|slot| match &mut slot.removed_for {
                None => true,
                Some(cleanups) => {
                    *cleanups += 1;
                    *cleanups < 2
                }
            });
            if state.slots.len() != before {
                state.rebuild();
            }
        });
    }
}

impl State {
    fn hash(&self, entry: &Handle) -> u64 {
        self.hash_builder.hash_one(entry)
    }

    /// The slot of the entry's key, in which may be another entry of this key that has left.
    fn slot_of(&self, entry: &Handle) -> Option<usize> {
        let is_it = |&slot: &usize| self.slots[slot].entry == *entry;
        self.by_key.find(self.hash(entry), is_it).copied()
    }

    fn offer(&mut self, entry: &Handle, capacity: usize) {
        if let Some(slot) = self.slot_of(entry) {
            return self.resume(slot, entry);
        }
        let hits = &entry.stored().hits;
        loop {
            let word = hits.track();
            if word.is_tracked() {
                return;
            }
            // If it leaves from here on, it is reported as departed: after this, as the state is locked.
            let slot = if word.is_retired() {
                None
            } else if self.slots.len() < capacity {
                Some(self.slots.len())
            } else {
                self.make_room(word.count())
            };
            let Some(slot) = slot else {
                // Hits that came while it seemed to be tracked have not brought it here.
                if hits.untrack().count() == word.count() || word.is_retired() {
                    return;
                }
                continue;
            };
            let taken = Slot {
                entry: entry.clone(),
                removed_for: None,
            };
            if slot == self.slots.len() {
                self.slots.push(taken);
            } else {
                self.slots[slot] = taken;
            }
            let Self {
                slots,
                by_key,
                hash_builder,
                ..
            } = self;
            let rehash = |&slot: &usize| hash_builder.hash_one(&slots[slot].entry);
            by_key.insert_unique(rehash(&slot), slot, rehash);
            self.by_count.push(Reverse((word.count(), slot)));
            return;
        }
    }

    /// Empties the slot with the fewest hits, if it has fewer than `count`.
    ///
    /// Entries are hit meanwhile. Each turn of the loop records a count that has grown and ends it once the smallest
    /// reaches `count`, so it ends soon, however busy the entries are.
    fn make_room(&mut self, count: u64) -> Option<usize> {
        loop {
            let &Reverse((recorded, slot)) = self.by_count.peek()?;
            if recorded >= count {
                return None;
            }
            self.by_count.pop();
            let mut now = self.slots[slot].count();
            if now == recorded {
                let hits = &self.slots[slot].entry.stored().hits;
                // From here on its own hits bring it back. Those that came before are in the word.
                now = hits.untrack().count();
                if now == recorded || hits.track().is_retired() {
                    let hash = self.hash(&self.slots[slot].entry);
                    if let Ok(known) = self.by_key.find_entry(hash, |&other| other == slot) {
                        known.remove();
                    }
                    self.removed -= usize::from(self.slots[slot].removed_for.is_some());
                    return Some(slot);
                }
            }
            self.by_count.push(Reverse((now, slot)));
        }
    }

    /// The entry has left.
    fn remove(&mut self, entry: &Handle) {
        if let Some(slot) = self.slot_of(entry)
            && self.slots[slot].entry.is(entry)
        {
            self.slots[slot] = Slot {
                entry: entry.without_value(),
                removed_for: Some(0),
            };
            self.removed += 1;
        }
    }

    /// Puts the entry in the slot of its key if the entry there has left, with the hits of that one.
    fn resume(&mut self, slot: usize, entry: &Handle) {
        let known = &mut self.slots[slot];
        let has_left = |entry: &Handle| entry.stored().hits.read().is_retired();
        // Where neither has left, one is just taking the place of the other, and `replaced` is called next.
        if known.entry.is(entry) || has_left(entry) || !has_left(&known.entry) {
            return;
        }
        let old = std::mem::replace(&mut known.entry, entry.clone());
        self.removed -= usize::from(known.removed_for.take().is_some());
        entry.stored().take_over(old.stored());
        if entry.stored().hits.track().is_retired() {
            self.remove(entry);
        }
    }

    /// After slots have changed places.
    fn rebuild(&mut self) {
        let Self {
            slots,
            by_key,
            hash_builder,
            ..
        } = self;
        by_key.clear();
        let hash = |&slot: &usize| hash_builder.hash_one(&slots[slot].entry);
        for slot in 0..slots.len() {
            by_key.insert_unique(hash(&slot), slot, hash);
        }
        let counts = slots.iter().enumerate();
        self.by_count = counts
            .map(|(at, slot)| Reverse((slot.count(), at)))
            .collect();
        let removed = slots.iter().filter(|slot| slot.removed_for.is_some());
        self.removed = removed.count();
    }
}

#[cfg(test)]
impl Tracker {
    /// Asserts what must hold whenever no other thread is at work.
    pub(super) fn validate(&self) {
        let state = unpoisoned(self.state.lock());
        assert!(state.slots.len() <= self.capacity);
        assert_eq!(state.by_count.len(), state.slots.len());
        assert_eq!(state.by_key.len(), state.slots.len());
        for &Reverse((recorded, slot)) in &state.by_count {
            assert!(recorded <= state.slots[slot].count());
        }
        let mut removed = 0;
        for (index, slot) in state.slots.iter().enumerate() {
            let word = slot.entry.stored().hits.read();
            assert_eq!(word.is_retired(), slot.removed_for.is_some());
            assert!(word.is_tracked() || word.is_retired());
            assert_eq!(state.slot_of(&slot.entry), Some(index));
            removed += usize::from(slot.removed_for.is_some());
        }
        assert_eq!(removed, state.removed);
        assert_eq!(removed, self.gone.load(Ordering::Relaxed));
        if state.slots.len() == self.capacity {
            let least = state.slots.iter().map(Slot::count).min();
            assert!(least.is_none_or(|least| self.floor() <= least));
        } else {
            assert_eq!(self.floor(), 0);
        }
    }
}
