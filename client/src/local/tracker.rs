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

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use super::{
    stored::Handle,
    sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, unpoisoned},
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
    departed: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// One item a slot, by a count that was once the slot's: a lower bound, put right when it comes to the top.
    by_count: BinaryHeap<Reverse<(u64, usize)>>,
    departed: HashMap<Box<str>, usize>,
    /// Slots of resident entries by where the entry lies, which no other can while the slot holds it.
    resident: HashMap<usize, usize>,
}

enum Slot {
    Resident(Handle),
    /// The entry has left; `aged` if a cleanup has seen it so.
    Departed {
        key: Box<str>,
        count: u64,
        aged: bool,
    },
}

impl Slot {
    fn count(&self) -> u64 {
        match self {
            Self::Resident(handle) => handle.stored().hits.read().count(),
            Self::Departed { count, .. } => *count,
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Resident(handle) => handle.key(),
            Self::Departed { key, .. } => key,
        }
    }
}

impl Tracker {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            floor: AtomicU64::new(if capacity == 0 { u64::MAX } else { 0 }),
            departed: AtomicUsize::new(0),
            state: Mutex::new(State::default()),
        }
    }

    /// See [`HitRules::tracked_above`](super::stored::HitRules::tracked_above).
    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().slots.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    /// Tells readers what has changed in `state`.
    fn publish(&self, state: &State) {
        let floor = match state.by_count.peek() {
            _ if self.capacity == 0 => u64::MAX,
            Some(Reverse((count, _))) if state.slots.len() == self.capacity => *count,
            _ => 0,
        };
        self.floor.store(floor, Ordering::Relaxed);
        self.departed.store(state.departed.len(), Ordering::Relaxed);
    }

    /// Takes the entry in if there is room or if it has more hits than a tracked one.
    pub(super) fn offer(&self, handle: &Handle) {
        if self.capacity == 0 {
            return;
        }
        let mut state = self.lock();
        state.reunite(handle);
        state.offer(handle, self.capacity);
        self.publish(&state);
    }

    /// The entry has left the cache, and was tracked when it did.
    pub(super) fn depart(&self, handle: &Handle) {
        let mut state = self.lock();
        if let Some(slot) = state.slot_of(handle) {
            state.depart(slot, handle);
        }
        self.publish(&state);
    }

    /// `new` has taken the place of `old`, whose final count is `hits`: the count goes on.
    pub(super) fn succeed(&self, old: &Handle, hits: u64, new: &Handle) {
        let mut state = self.lock();
        if let Some(slot) = state.slot_of(old) {
            state.occupy(slot, hits, new);
        } else {
            // It lost its place to a hotter one in the meantime.
            new.stored().carry(hits);
            state.offer(new, self.capacity);
        }
        self.publish(&state);
    }

    /// A key that had no entry has one: if it is known from before, its count goes on.
    pub(super) fn arrive(&self, handle: &Handle) {
        if self.departed.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.lock();
        state.reunite(handle);
        self.publish(&state);
    }

    /// Up to `n` tracked keys, most hits first, equal counts by key. O(tracked · log tracked).
    pub(super) fn top(&self, n: usize) -> Vec<TopKey> {
        // By key first: for a moment, a key that left and came back may have two slots.
        let mut counts = BTreeMap::<String, u64>::new();
        for slot in &self.lock().slots {
            *counts.entry(slot.key().to_owned()).or_default() += slot.count();
        }
        let mut keys: Vec<_> = counts
            .into_iter()
            .map(|(key, hits)| TopKey { key, hits })
            .collect();
        keys.sort_by_key(|key| Reverse(key.hits));
        keys.truncate(n);
        keys
    }

    /// Forgets the keys that had no entry at the last cleanup either. The cleanup then offers what it meets, so
    /// that the places go to the entries with the most hits.
    pub(super) fn begin_cleanup(&self) {
        let mut state = self.lock();
        let before = state.slots.len();
        state.slots.retain_mut(|slot| match slot {
            Slot::Resident(_) => true,
            Slot::Departed { aged, .. } => !std::mem::replace(aged, true),
        });
        if state.slots.len() != before {
            state.rebuild();
        }
        self.publish(&state);
    }
}

impl State {
    fn slot_of(&self, handle: &Handle) -> Option<usize> {
        self.resident.get(&handle.address()).copied()
    }

    /// Puts the entry into `slot`, which is empty or the next new one.
    fn put(&mut self, slot: usize, handle: &Handle) {
        self.resident.insert(handle.address(), slot);
        let taken = Slot::Resident(handle.clone());
        if slot == self.slots.len() {
            self.slots.push(taken);
        } else {
            self.slots[slot] = taken;
        }
    }

    fn offer(&mut self, handle: &Handle, capacity: usize) {
        let hits = &handle.stored().hits;
        let word = hits.read();
        if word.is_tracked() || word.is_retired() {
            return;
        }
        let slot = if self.slots.len() < capacity {
            self.slots.len()
        } else {
            let Some(slot) = self.make_room(word.count()) else {
                return;
            };
            slot
        };
        let word = hits.track();
        if word.is_retired() {
            // It left between the hit and now, so nobody would ever tell that it left.
            hits.untrack();
            if slot < self.slots.len() {
                self.slots.swap_remove(slot);
                self.rebuild();
            }
            return;
        }
        self.put(slot, handle);
        self.by_count.push(Reverse((word.count(), slot)));
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
                match &self.slots[slot] {
                    Slot::Departed { key, .. } => {
                        self.departed.remove(key);
                        return Some(slot);
                    }
                    Slot::Resident(handle) => {
                        let hits = &handle.stored().hits;
                        // From here on its own hits bring it back. Those that came before are in the word.
                        now = hits.untrack().count();
                        if now == recorded || hits.track().is_retired() {
                            self.resident.remove(&handle.address());
                            return Some(slot);
                        }
                    }
                }
            }
            self.by_count.push(Reverse((now, slot)));
        }
    }

    /// The entry in `slot` has left.
    fn depart(&mut self, slot: usize, handle: &Handle) {
        self.resident.remove(&handle.address());
        let key: Box<str> = handle.key().into();
        let mut count = handle.stored().hits.read().count();
        if let Some(&twin) = self.departed.get(&key) {
            // It left before, came back unnoticed, and has left again.
            count += self.slots[twin].count();
            self.slots[slot] = Slot::Departed {
                key,
                count,
                aged: false,
            };
            self.slots.swap_remove(twin);
            self.rebuild();
            return;
        }
        self.departed.insert(key.clone(), slot);
        self.slots[slot] = Slot::Departed {
            key,
            count,
            aged: false,
        };
    }

    /// Gives the entry the hits under which its key is known from before it left.
    fn reunite(&mut self, handle: &Handle) {
        if let Some(&slot) = self.departed.get(handle.key()) {
            let hits = self.slots[slot].count();
            self.departed.remove(handle.key());
            self.occupy(slot, hits, handle);
        }
    }

    /// Puts `new` in the slot of an entry that has left with `hits`.
    fn occupy(&mut self, slot: usize, hits: u64, new: &Handle) {
        if let Slot::Resident(old) = &self.slots[slot] {
            self.resident.remove(&old.address());
        }
        let word = new.stored().hits.track();
        new.stored().carry(hits);
        if word.is_tracked() {
            // Its own hits have brought it in already.
            self.slots.swap_remove(slot);
            self.rebuild();
        } else {
            self.put(slot, new);
            if word.is_retired() {
                self.depart(slot, new);
            }
        }
    }

    /// After slots have changed places.
    fn rebuild(&mut self) {
        self.departed.clear();
        self.resident.clear();
        for (index, slot) in self.slots.iter().enumerate() {
            match slot {
                Slot::Resident(handle) => self.resident.insert(handle.address(), index),
                Slot::Departed { key, .. } => self.departed.insert(key.clone(), index),
            };
        }
        self.by_count = self
            .slots
            .iter()
            .enumerate()
            .map(|(index, slot)| Reverse((slot.count(), index)))
            .collect();
    }
}

#[cfg(test)]
impl Tracker {
    /// Asserts what must hold whenever no other thread is at work.
    pub(super) fn validate(&self) {
        let state = self.lock();
        assert!(state.slots.len() <= self.capacity);
        assert_eq!(state.by_count.len(), state.slots.len());
        let mut departed = 0;
        for &Reverse((recorded, slot)) in &state.by_count {
            assert!(recorded <= state.slots[slot].count());
        }
        for (index, slot) in state.slots.iter().enumerate() {
            match slot {
                Slot::Resident(handle) => {
                    let word = handle.stored().hits.read();
                    assert!(word.is_tracked() && !word.is_retired());
                    assert_eq!(state.slot_of(handle), Some(index));
                }
                Slot::Departed { key, .. } => {
                    departed += 1;
                    assert_eq!(state.departed.get(key), Some(&index));
                }
            }
        }
        assert_eq!(departed, state.departed.len());
        assert_eq!(state.slots.len() - departed, state.resident.len());
        assert_eq!(departed, self.departed.load(Ordering::Relaxed));
        if state.slots.len() == self.capacity {
            let least = state.slots.iter().map(Slot::count).min();
            assert!(least.is_none_or(|least| self.floor() <= least));
        } else {
            assert_eq!(self.floor(), 0);
        }
    }
}
