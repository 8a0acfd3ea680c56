//! The index against a naive model, with every invariant checked after every step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::index::{Index, REMEMBER_TAG_MS, Step};
use super::slots::Slot;

/// Tags of the tests: few, so that they meet.
const TAGS: [&[u8]; 12] = [
    b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i", b"j", b"k\0\xff", b"a b\r\n",
];

#[derive(Debug, Clone)]
enum Op {
    Set {
        key: u8,
        tags: Vec<u8>,
        bytes: u16,
    },
    Del {
        key: u8,
    },
    Hit {
        key: u8,
    },
    Resize {
        key: u8,
        bytes: u16,
    },
    Invalidate {
        tag: u8,
    },
    Flush,
    Reclaim {
        steps: u8,
    },
    Wait {
        ms: u32,
    },
    /// As RESTORE … REPLACE: the entry leaves, and another comes under its key.
    Restore {
        key: u8,
        tags: Vec<u8>,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let tags = proptest::collection::vec(0..TAGS.len() as u8, 0..12);
    prop_oneof![
        8 => (0_u8..40, tags, 1_u16..1000).prop_map(|(key, tags, bytes)| Op::Set { key, tags, bytes }),
        3 => (0_u8..40).prop_map(|key| Op::Del { key }),
        2 => (0_u8..40).prop_map(|key| Op::Hit { key }),
        1 => (0_u8..40, 1_u16..1000).prop_map(|(key, bytes)| Op::Resize { key, bytes }),
        4 => (0..TAGS.len() as u8).prop_map(|tag| Op::Invalidate { tag }),
        1 => Just(Op::Flush),
        3 => (0_u8..20).prop_map(|steps| Op::Reclaim { steps }),
        1 => (0_u32..50_000).prop_map(|ms| Op::Wait { ms }),
        2 => (0_u8..40, proptest::collection::vec(0..TAGS.len() as u8, 0..12)).prop_map(|(key, tags)| Op::Restore { key, tags }),
    ]
}

/// A handle as the module has them: an identity, with the key and the cost found through it.
type Handle = u64;

#[derive(Default)]
struct Harness {
    index: Index<Handle>,
    now_ms: u64,
    next_handle: Handle,
    /// Every entry in the index, gone or not: key, cost, slot.
    stored: HashMap<Handle, (u8, u64, Slot)>,
    /// What the model says can be seen: key to handle, tags, hits.
    visible: BTreeMap<u8, (Handle, Vec<u8>, u32)>,
    /// The handle that the keyspace holds under a key, gone or not.
    keyspace: HashMap<u8, Handle>,
}

impl Harness {
    fn remove(&mut self, handle: Handle) {
        let (key, bytes, slot) = self.stored.remove(&handle).expect("stored");
        let removed = self.index.remove(slot, bytes);
        self.keyspace.remove(&key);
        match self.visible.get(&key) {
            Some((visible, _, hits)) if *visible == handle => {
                assert!(!removed.was_gone);
                assert_eq!(removed.hits, *hits);
                self.visible.remove(&key);
            }
            _ => assert!(removed.was_gone),
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Set { key, tags, bytes } => {
                let names: Vec<&[u8]> = tags.iter().map(|&t| TAGS[t as usize]).collect();
                let bytes = u64::from(*bytes);
                self.next_handle += 1;
                let handle = self.next_handle;
                let (slot, hits) = if let Some((old, _, hits)) = self.visible.get(key).cloned() {
                    let (_, old_bytes, slot) = self.stored.remove(&old).expect("stored");
                    (
                        self.index.replace(slot, handle, &names, old_bytes, bytes),
                        hits,
                    )
                } else {
                    if let Some(&gone) = self.keyspace.get(key) {
                        self.remove(gone);
                    }
                    (self.index.insert(handle, &names, bytes, 0), 0)
                };
                let mut unique = Vec::new();
                for t in tags {
                    if !unique.contains(t) {
                        unique.push(*t);
                    }
                }
                self.stored.insert(handle, (*key, bytes, slot));
                self.keyspace.insert(*key, handle);
                self.visible.insert(*key, (handle, unique, hits));
            }
            Op::Del { key } => {
                if let Some(&handle) = self.keyspace.get(key) {
                    self.remove(handle);
                }
            }
            Op::Hit { key } => {
                if let Some((handle, _, hits)) = self.visible.get_mut(key) {
                    self.index.hit(self.stored[handle].2);
                    *hits += 1;
                }
            }
            Op::Resize { key, bytes } => {
                if let Some((handle, ..)) = self.visible.get(key) {
                    let stored = self.stored.get_mut(handle).expect("stored");
                    self.index.resize(stored.2, stored.1, u64::from(*bytes));
                    stored.1 = u64::from(*bytes);
                }
            }
            Op::Invalidate { tag } => {
                let before = self.visible.len();
                self.visible.retain(|_, (_, tags, _)| !tags.contains(tag));
                let expected = (before - self.visible.len()) as u64;
                let quiet = !self.index.has_backlog();
                let dropped = self.index.invalidate(TAGS[*tag as usize], self.now_ms);
                // Entries that are gone through another tag count until they are reclaimed.
                assert!(dropped >= expected);
                if quiet {
                    assert_eq!(dropped, expected);
                }
            }
            Op::Flush => {
                let dropped = self.index.flush();
                // No more than 64 invalidations wait here, so the count is exact.
                assert_eq!(dropped, self.visible.len() as u64);
                self.visible.clear();
            }
            Op::Reclaim { steps } => {
                for _ in 0..*steps {
                    if self.reclaim() == Step::Idle {
                        break;
                    }
                }
            }
            Op::Restore { key, tags } => {
                let place = self.keyspace.get(key).map(|handle| self.stored[handle].2);
                self.apply(&Op::Del { key: *key });
                let mut unique = Vec::new();
                for t in tags {
                    if !unique.contains(t) {
                        unique.push(*t);
                    }
                }
                let names: Vec<&[u8]> = tags.iter().map(|&t| TAGS[t as usize]).collect();
                self.next_handle += 1;
                let handle = self.next_handle;
                let slot = self.index.insert_near(place, handle, &names, 7, 3);
                assert!(
                    place.is_none_or(|place| slot >= place),
                    "the same place or above"
                );
                self.stored.insert(handle, (*key, 7, slot));
                self.keyspace.insert(*key, handle);
                self.visible.insert(*key, (handle, unique, 3));
            }
            Op::Wait { ms } => {
                self.now_ms += u64::from(*ms);
                self.index.forget_tags(self.now_ms);
            }
        }
    }

    fn reclaim(&mut self) -> Step {
        let step = self.index.reclaim_step();
        if let Step::Gone(slot) = step {
            assert!(self.index.is_gone(slot));
            let handle = self.index.entry(slot);
            self.remove(handle);
        }
        step
    }

    fn check(&mut self) {
        self.index.validate(|handle| self.stored[&handle].1);
        assert_eq!(self.index.len(), self.stored.len());
        for (&handle, &(key, _, slot)) in &self.stored {
            assert!(self.index.holds(slot, handle));
            let visible = self.visible.get(&key).filter(|(h, ..)| *h == handle);
            assert_eq!(self.index.is_gone(slot), visible.is_none());
            if let Some((_, tags, hits)) = visible {
                assert_eq!(self.index.hits(slot), *hits);
                let expected: Vec<&[u8]> = tags.iter().map(|&t| TAGS[t as usize]).collect();
                assert_eq!(self.index.tags(slot).collect::<Vec<_>>(), expected);
            }
        }
        assert_eq!(self.index.visible(), self.visible.len() as u64);
        for (number, name) in TAGS.iter().enumerate() {
            let mut expected = BTreeSet::new();
            let mut bytes = 0;
            for (handle, tags, _) in self.visible.values() {
                if tags.contains(&(number as u8)) {
                    expected.insert(self.stored[handle].2.0);
                    bytes += self.stored[handle].1;
                }
            }
            let mut found = BTreeSet::new();
            let end = self.index.scan_tag(name, 0, u64::MAX, |slot| {
                if !self.index.is_gone(slot) {
                    found.insert(slot.0);
                }
            });
            assert_eq!(end, 0);
            assert_eq!(found, expected);
            match self.index.tag_info(name) {
                Some(info) if !self.index.has_backlog() => {
                    assert_eq!((info.entries as usize, info.bytes), (expected.len(), bytes));
                }
                Some(_) => {}
                None => assert!(expected.is_empty()),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 2000 }))]
    #[test]
    fn the_index_agrees_with_a_naive_model(ops in proptest::collection::vec(op(), 1..if cfg!(miri) { 40 } else { 120 })) {
        let mut harness = Harness::default();
        for op in &ops {
            harness.apply(op);
            harness.check();
        }
        // Whatever happened, everything can be given back.
        while harness.reclaim() != Step::Idle {}
        prop_assert_eq!(harness.index.visible(), harness.visible.len() as u64);
        let handles: Vec<Handle> = harness.stored.keys().copied().collect();
        for handle in handles {
            harness.remove(handle);
        }
        harness.now_ms += REMEMBER_TAG_MS;
        harness.index.forget_tags(harness.now_ms);
        harness.check();
        prop_assert_eq!(harness.index.tag_info(TAGS[0]), None);
        prop_assert_eq!(harness.index.populated_tags(), 0);
    }

    /// SCAN's guarantee under churn: what carries the tag from the first call to the last is returned.
    #[test]
    fn a_scan_returns_every_entry_that_stays(
        stay in 1_usize..60,
        churn in proptest::collection::vec((any::<bool>(), 0_usize..400, 0_u8..4), 0..if cfg!(miri) { 40 } else { 400 }),
        count in 1_u64..7,
    ) {
        let mut index: Index<u64> = Index::default();
        let mut slots: HashMap<u64, Slot> = HashMap::new();
        for handle in 0..stay as u64 {
            slots.insert(handle, index.insert(handle, &[b"t"], 1, 0));
        }
        let mut next = stay as u64;
        let mut seen = BTreeSet::new();
        let mut churn = churn.into_iter();
        let mut cursor = 0;
        loop {
            cursor = index.scan_tag(b"t", cursor, count, |slot| { seen.insert(index.entry(slot)); });
            if cursor == 0 {
                break;
            }
            for (add, which, tags) in churn.by_ref().take(5) {
                if add {
                    slots.insert(next, index.insert(next, &[b"t"], 1, 0));
                    next += 1;
                } else if which < stay {
                    // Overwritten, with other tags beside the one that is scanned.
                    let tags: &[&[u8]] = match tags { 0 => &[b"t"], 1 => &[b"x", b"t"], 2 => &[b"t", b"y", b"z"], _ => &[b"z", b"t"] };
                    let handle = which as u64;
                    let slot = index.replace(slots[&handle], handle, tags, 1, 1);
                    slots.insert(handle, slot);
                } else if let Some(slot) = slots.remove(&(which as u64)) {
                    index.remove(slot, 1);
                }
            }
            index.validate(|_| 1);
        }
        for handle in 0..stay as u64 {
            prop_assert!(seen.contains(&handle), "{handle} was there all the time");
        }
    }
}

#[test]
fn a_tag_is_remembered_for_a_minute_after_its_last_invalidation_and_then_forgotten() {
    let mut index: Index<u64> = Index::default();
    let slot = index.insert(1, &[b"t"], 10, 0);
    assert_eq!(index.invalidate(b"t", 1_000), 1);
    assert_eq!(index.reclaim_step(), Step::Gone(slot));
    index.remove(slot, 10);
    assert_eq!(index.reclaim_step(), Step::Working);
    assert_eq!(index.reclaim_step(), Step::Idle);
    let info = index.tag_info(b"t").expect("remembered");
    assert_eq!(
        (info.entries, info.invalidations, info.last_invalidated_ms),
        (0, 1, 1_000)
    );
    index.forget_tags(1_000 + REMEMBER_TAG_MS - 1);
    assert!(index.tag_info(b"t").is_some());
    index.forget_tags(1_000 + REMEMBER_TAG_MS);
    assert!(index.tag_info(b"t").is_none());
}

#[test]
fn all_memory_is_given_back_when_everything_is_gone() {
    let mut index: Index<u64> = Index::default();
    let count = if cfg!(miri) { 600 } else { 20_000 };
    let names: Vec<String> = (0..count).map(|i| format!("unique:{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        index.insert(i as u64, &[b"shared", name.as_bytes()], 1, 0);
    }
    assert!(index.heap_bytes() > count * 28);
    index.flush();
    loop {
        match index.reclaim_step() {
            Step::Gone(slot) => {
                index.remove(slot, 1);
            }
            Step::Working => {}
            Step::Idle => break,
        }
    }
    assert_eq!(index.len(), 0);
    assert_eq!(index.heap_bytes(), 0);
}
