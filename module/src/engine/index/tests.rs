//! The index against a naive model, with every invariant checked after every step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::{Condition, Effect, Facts, Freshness, Incoming, Index, Step, TagFigures};
use crate::engine::slots::{Slot, UNIT};
use crate::record::Softness;

/// Tags of the tests: few, so that entries share them.
const TAGS: [&[u8]; 12] = [
    b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i", b"j", b"k\0\xff", b"a b\r\n",
];

#[derive(Debug, Clone)]
enum Op {
    Set {
        key: u8,
        tags: Vec<u8>,
        bytes: u16,
        grace: bool,
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
        tags: Vec<u8>,
        effect: Effect,
    },
    /// Like an entry that arrives too late.
    Gone {
        key: u8,
    },
    Where {
        all: Option<Vec<u8>>,
        any: Option<Vec<u8>>,
        none: Option<Vec<u8>>,
        effect: Effect,
        limit_ms: u64,
    },
    Flush,
    Reclaim {
        steps: u8,
    },
    Wait {
        ms: u32,
    },
    Moved {
        key: u8,
    },
    /// Like RESTORE … REPLACE: the entry leaves, and another replaces it, perhaps stale, perhaps of another node.
    Restore {
        key: u8,
        tags: Vec<u8>,
        stale_for_ms: Option<u32>,
        foreign: bool,
    },
    /// One visible entry becomes gone, like one that is found to be older than an invalidation.
    Condemn {
        key: u8,
    },
    AddHits {
        key: u8,
        more: u8,
    },
    /// Soft invalidations in a row, each with its own time and limit: more than are kept apart.
    Soften {
        times: u8,
        tag: u8,
        limit_ms: u16,
    },
    Limit {
        key: u8,
        limit_ms: u16,
    },
    ClockBack {
        ms: u16,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let tags = proptest::collection::vec(0..TAGS.len() as u8, 0..12);
    prop_oneof![
        8 => (0_u8..40, tags, 1_u16..1000, any::<bool>()).prop_map(|(key, tags, bytes, grace)| Op::Set { key, tags, bytes, grace }),
        3 => (0_u8..40).prop_map(|key| Op::Del { key }),
        2 => (0_u8..40).prop_map(|key| Op::Hit { key }),
        1 => (0_u8..40, 1_u16..1000).prop_map(|(key, bytes)| Op::Resize { key, bytes }),
        6 => (proptest::collection::vec(0..TAGS.len() as u8, 1..4), effect()).prop_map(|(tags, effect)| Op::Invalidate { tags, effect }),
        1 => (0_u8..40).prop_map(|key| Op::Gone { key }),
        1 => (0_u8..40).prop_map(|key| Op::Moved { key }),
        2 => (clause(), clause(), clause(), effect(), prop_oneof![Just(u64::MAX), 0..40_000_u64])
            .prop_map(|(all, any, none, effect, limit_ms)| Op::Where { all, any, none, effect, limit_ms }),
        1 => Just(Op::Flush),
        3 => (0_u8..20).prop_map(|steps| Op::Reclaim { steps }),
        1 => (0_u32..50_000).prop_map(|ms| Op::Wait { ms }),
        2 => (0_u8..40, proptest::collection::vec(0..TAGS.len() as u8, 0..12), proptest::option::of(0_u32..30_000), any::<bool>())
            .prop_map(|(key, tags, stale_for_ms, foreign)| Op::Restore { key, tags, stale_for_ms, foreign }),
        1 => (0_u8..40).prop_map(|key| Op::Condemn { key }),
        1 => (0_u8..40, any::<u8>()).prop_map(|(key, more)| Op::AddHits { key, more }),
        1 => (1_u8..80, 0..TAGS.len() as u8, any::<u16>()).prop_map(|(times, tag, limit_ms)| Op::Soften { times, tag, limit_ms }),
        1 => (0_u8..40, any::<u16>()).prop_map(|(key, limit_ms)| Op::Limit { key, limit_ms }),
        1 => any::<u16>().prop_map(|ms| Op::ClockBack { ms }),
    ]
}

fn effect() -> impl Strategy<Value = Effect> {
    prop_oneof![Just(Effect::Gone), Just(Effect::Stale)]
}

/// A clause of a condition: most often none, else a few tags.
fn clause() -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::weighted(0.4, proptest::collection::vec(0..TAGS.len() as u8, 1..4))
}

fn names(tags: &[u8]) -> Vec<&'static [u8]> {
    tags.iter().map(|&t| TAGS[t as usize]).collect()
}

/// A visible entry of the model.
#[derive(Debug, Clone)]
struct Seen {
    handle: Handle,
    tags: Vec<u8>,
    hits: u32,
    grace: bool,
    foreign: bool,
    /// The end of a stale entry's grace.
    soft_ends_ms: Option<u64>,
}

/// The grace of entries that have one.
const GRACE_MS: u64 = 20_000;

impl Seen {
    fn is_selected(&self, all: Option<&[u8]>, any: Option<&[u8]>, none: Option<&[u8]>) -> bool {
        let has = |tag: &u8| self.tags.contains(tag);
        all.is_none_or(|all| all.iter().all(has))
            && any.is_none_or(|any| any.iter().any(has))
            && !none.is_some_and(|none| none.iter().any(has))
    }

    /// Whether the entry stays visible, as stale, after a soft invalidation with this limit.
    fn soften(&mut self, now_ms: u64, limit_ms: u64) -> bool {
        let ends_ms = self.soft_ends_ms.unwrap_or(now_ms + GRACE_MS);
        self.soft_ends_ms = Some(ends_ms.min(now_ms.saturating_add(limit_ms)));
        self.grace
    }
}

/// A handle like the module's: an identity, through which the key and the cost are found.
type Handle = u64;

#[derive(Default)]
struct Harness {
    index: Index<Handle>,
    now_ms: u64,
    next_handle: Handle,
    /// Every entry in the index, gone or not: key, cost, slot.
    stored: HashMap<Handle, (u8, u64, Slot)>,
    /// The entries that are visible in the model.
    visible: BTreeMap<u8, Seen>,
    /// The handle that the keyspace holds under a key, gone or not.
    keyspace: HashMap<u8, Handle>,
}

impl Harness {
    fn remove(&mut self, handle: Handle) {
        let (key, _, slot) = self.stored.remove(&handle).expect("stored");
        let hits = self.index.hits(slot);
        let was_gone = self.index.remove(slot);
        self.keyspace.remove(&key);
        match self.visible.get(&key) {
            Some(seen) if seen.handle == handle => {
                assert!(!was_gone);
                assert_eq!(hits, seen.hits);
                self.visible.remove(&key);
            }
            _ => assert!(was_gone),
        }
    }

    fn set(&mut self, key: u8, tags: &[u8], bytes: u64, grace: bool) {
        self.next_handle += 1;
        let handle = self.next_handle;
        let incoming = Incoming {
            entry: handle,
            tags: &names(tags),
            bytes,
            has_grace: grace,
            facts: Facts::default(),
        };
        let (slot, hits) = if let Some(old) = self.visible.get(&key).cloned() {
            let (_, _, slot) = self.stored.remove(&old.handle).expect("stored");
            (self.index.replace(slot, incoming), old.hits)
        } else {
            if let Some(&gone) = self.keyspace.get(&key) {
                self.remove(gone);
            }
            (self.index.insert(incoming), 0)
        };
        self.see(key, handle, tags, (bytes, slot), hits, grace);
    }

    /// Applies the same change to the model.
    fn see(
        &mut self,
        key: u8,
        handle: Handle,
        tags: &[u8],
        (bytes, slot): (u64, Slot),
        hits: u32,
        grace: bool,
    ) {
        let mut unique = Vec::new();
        for &tag in tags {
            if !unique.contains(&tag) {
                unique.push(tag);
            }
        }
        self.stored.insert(handle, (key, bytes, slot));
        self.keyspace.insert(key, handle);
        let seen = Seen {
            handle,
            tags: unique,
            hits,
            grace,
            foreign: false,
            soft_ends_ms: None,
        };
        self.visible.insert(key, seen);
    }

    fn invalidate_where(&mut self, tags: [Option<&[u8]>; 3], effect: Effect, limit_ms: u64) {
        let now_ms = self.now_ms;
        let [all, any, none] = tags;
        let clauses = tags.map(|tags| tags.map(names));
        let [for_all, for_any, for_none] = &clauses;
        let condition = Condition {
            all: for_all.as_deref(),
            any: for_any.as_deref(),
            none: for_none.as_deref(),
        };
        let mut expected = 0;
        self.visible.retain(|_, seen| {
            let selected = seen.is_selected(all, any, none);
            expected += u64::from(selected);
            !selected || (effect == Effect::Stale && seen.soften(now_ms, limit_ms))
        });
        assert_eq!(self.index.select(condition).len(), expected);
        let dropped = self.index.invalidate_where(
            condition,
            effect,
            Softness {
                since_ms: now_ms,
                limit_ms,
            },
        );
        assert_eq!(dropped, expected);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Set {
                key,
                tags,
                bytes,
                grace,
            } => self.set(*key, tags, u64::from(*bytes) * UNIT, *grace),
            Op::Del { key } => {
                if let Some(&handle) = self.keyspace.get(key) {
                    self.remove(handle);
                }
            }
            Op::Hit { key } => {
                if let Some(seen) = self.visible.get_mut(key) {
                    self.index.hit(self.stored[&seen.handle].2);
                    seen.hits += 1;
                }
            }
            Op::Resize { key, bytes } => {
                if let Some(seen) = self.visible.get(key) {
                    let stored = self.stored.get_mut(&seen.handle).expect("stored");
                    stored.1 = u64::from(*bytes) * UNIT;
                    self.index.resize(stored.2, stored.1);
                }
            }
            Op::Invalidate { tags, effect } => {
                let unique: BTreeSet<u8> = tags.iter().copied().collect();
                let now_ms = self.now_ms;
                let mut expected = 0;
                self.visible.retain(|_, seen| {
                    let pairs = unique.iter().filter(|tag| seen.tags.contains(tag)).count();
                    expected += pairs as u64;
                    pairs == 0 || (*effect == Effect::Stale && seen.soften(now_ms, u64::MAX))
                });
                let dropped = self.index.invalidate(&names(tags), *effect, now_ms);
                assert_eq!(dropped, expected);
            }
            Op::Gone { key } => {
                self.apply(&Op::Del { key: *key });
                self.next_handle += 1;
                let slot = self.index.insert(plain(self.next_handle, &[]));
                self.index.drop_one(slot);
                self.stored.insert(self.next_handle, (*key, UNIT, slot));
                self.keyspace.insert(*key, self.next_handle);
            }
            Op::Moved { key } => {
                if let Some(old) = self.keyspace.get(key).copied() {
                    self.next_handle += 1;
                    let stored = self.stored.remove(&old).expect("stored");
                    self.index.moved(stored.2, self.next_handle);
                    self.stored.insert(self.next_handle, stored);
                    self.keyspace.insert(*key, self.next_handle);
                    if let Some(seen) = self.visible.get_mut(key) {
                        seen.handle = self.next_handle;
                    }
                }
            }
            Op::Where {
                all,
                any,
                none,
                effect,
                limit_ms,
            } => self.invalidate_where([all, any, none].map(Option::as_deref), *effect, *limit_ms),
            Op::Flush => {
                let dropped = self.index.flush();
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
            Op::Wait { ms } => self.now_ms += u64::from(*ms),
            rarer => self.apply_rarer(rarer),
        }
    }

    fn apply_rarer(&mut self, op: &Op) {
        match op {
            Op::Restore {
                key,
                tags,
                stale_for_ms,
                foreign,
            } => {
                let place = self.keyspace.get(key).map(|handle| self.stored[handle].2);
                self.apply(&Op::Del { key: *key });
                self.next_handle += 1;
                let handle = self.next_handle;
                let soft_since_ms = stale_for_ms.map(|ms| self.now_ms - u64::from(ms));
                let has_grace = stale_for_ms.is_some();
                let incoming = Incoming {
                    entry: handle,
                    tags: &names(tags),
                    bytes: 7 * UNIT,
                    has_grace,
                    facts: Facts {
                        hits: 3,
                        softness: soft_since_ms.map(Softness::since),
                        is_foreign: *foreign,
                        ..Facts::default()
                    },
                };
                let slot = self.index.insert_near(place, incoming);
                assert!(
                    place.is_none_or(|place| slot >= place),
                    "the same place or above"
                );
                self.see(*key, handle, tags, (7 * UNIT, slot), 3, has_grace);
                let seen = self.visible.get_mut(key).expect("just seen");
                seen.foreign = *foreign;
                seen.soft_ends_ms = soft_since_ms.map(|since| since + GRACE_MS);
            }
            Op::Condemn { key } => {
                if let Some(seen) = self.visible.remove(key) {
                    self.index.drop_one(self.stored[&seen.handle].2);
                }
            }
            Op::AddHits { key, more } => {
                if let Some(seen) = self.visible.get_mut(key) {
                    let slot = self.stored[&seen.handle].2;
                    self.index.add_hits(slot, u32::from(*more));
                    seen.hits += u32::from(*more);
                }
            }
            Op::Soften {
                times,
                tag,
                limit_ms,
            } => {
                for i in 0..*times {
                    // Each reaches some fresh entry, so that it has its own mark.
                    self.set(i % 40, &[*tag], UNIT, true);
                    self.now_ms += 1 + u64::from(i % 7);
                    let limit_ms = u64::from(*limit_ms) + u64::from(i) * 100;
                    self.invalidate_where([Some(&[*tag]), None, None], Effect::Stale, limit_ms);
                }
            }
            Op::Limit { key, limit_ms } => {
                let Some(seen) = self.visible.get_mut(key) else {
                    return;
                };
                let slot = self.stored[&seen.handle].2;
                let softness = Softness {
                    since_ms: self.now_ms,
                    limit_ms: u64::from(*limit_ms),
                };
                // A limit applies only to a stale entry.
                if self.index.marks.softness(slot).is_some() {
                    let incoming = Incoming {
                        entry: seen.handle,
                        tags: &names(&seen.tags),
                        bytes: self.stored[&seen.handle].1,
                        has_grace: true,
                        facts: Facts {
                            softness: Some(softness),
                            is_foreign: seen.foreign,
                            ..Facts::default()
                        },
                    };
                    assert_eq!(self.index.replace(slot, incoming), slot);
                    let lasts_ms = GRACE_MS.min(u64::from(*limit_ms));
                    seen.soft_ends_ms = Some(self.now_ms + lasts_ms);
                }
            }
            Op::ClockBack { ms } => {
                let from_ms = self.now_ms;
                self.now_ms -= u64::from(*ms);
                self.index.marks.bound(from_ms, self.now_ms);
                self.index.set_all_foreign();
                for seen in self.visible.values_mut() {
                    seen.foreign = true;
                    let ends_ms = seen.soft_ends_ms;
                    seen.soft_ends_ms = ends_ms.map(|ends| ends.saturating_sub(u64::from(*ms)));
                }
            }
            _ => unreachable!("`apply` has the others"),
        }
    }

    fn reclaim(&mut self) -> Step {
        let step = self.index.reclaim_step(self.now_ms, false);
        if let Step::Gone(slot) = step {
            assert!(self.index.is_gone(slot));
            let handle = self.index.entry(slot);
            self.remove(handle);
        }
        if let Step::Softened(softened) = step {
            let softness = self.index.marks.softness(softened.slot);
            assert_eq!(softness, Some(softened.softness));
            // As in the module: an entry whose grace is over leaves; for another, the end of its grace is noted.
            let over_ms = softened.softness.ends_ms_for(GRACE_MS);
            if over_ms > self.now_ms {
                self.index.marks.ends(softened, over_ms);
            } else {
                let handle = self.index.entry(softened.slot);
                self.remove(handle);
            }
        }
        step
    }

    fn check(&mut self) {
        self.index.validate(|handle| self.stored[&handle].1);
        assert_eq!(self.index.len(), self.stored.len());
        for (&handle, &(key, _, slot)) in &self.stored {
            assert!(self.index.holds(slot, handle));
            let visible = self.visible.get(&key).filter(|seen| seen.handle == handle);
            assert_eq!(self.index.is_gone(slot), visible.is_none());
            if let Some(seen) = visible {
                assert_eq!(self.index.hits(slot), seen.hits);
                assert_eq!(self.index.tags(slot).collect::<Vec<_>>(), names(&seen.tags));
                // Joined marks may be earlier, never later.
                let softness = self.index.marks.softness(slot);
                let ends = softness.map(|softness| softness.ends_ms_for(GRACE_MS));
                assert_eq!(ends.is_some(), seen.soft_ends_ms.is_some());
                assert!(ends <= seen.soft_ends_ms);
                assert_eq!(self.index.marks.foreign.contains(slot.0), seen.foreign);
                let grace_ms = if seen.grace { GRACE_MS } else { 0 };
                let expected = match ends {
                    Some(ends) if ends > self.now_ms => Freshness::Stale,
                    Some(_) => Freshness::Gone,
                    None => Freshness::Fresh,
                };
                let now_ms = self.now_ms;
                let freshness = self
                    .index
                    .freshness(slot, handle, grace_ms, || None, || now_ms);
                assert_eq!(freshness, expected);
            }
        }
        assert_eq!(self.index.visible(), self.visible.len() as u64);
        let (mut page, mut read) = (Some(0), BTreeMap::new());
        while let Some(number) = page {
            page = self.index.visit_hits(number, 0, |index, hits, slot| {
                if !index.is_gone(slot) {
                    let (key, ..) = self.stored[&index.entry(slot)];
                    read.insert(key, hits);
                }
            });
        }
        let hit = self.visible.iter().filter(|(_, seen)| seen.hits > 0);
        let hit: BTreeMap<_, _> = hit.map(|(key, seen)| (*key, seen.hits)).collect();
        assert_eq!(read, hit);
        for (number, name) in TAGS.iter().enumerate() {
            let mut expected = BTreeSet::new();
            let mut bytes = 0;
            for seen in self.visible.values() {
                if seen.tags.contains(&(number as u8)) {
                    expected.insert(self.stored[&seen.handle].2.0);
                    bytes += self.stored[&seen.handle].1;
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
            let figures = TagFigures {
                entries: expected.len() as u64,
                bytes,
            };
            assert_eq!(self.index.tag_figures(name), figures);
            let mut visited = None;
            let end = self.index.visit_tags(0, u32::MAX, |tag, figures| {
                if tag == *name {
                    assert_eq!(visited.replace(figures), None);
                }
            });
            assert_eq!(end, None);
            assert_eq!(visited, Some(figures).filter(|figures| figures.entries > 0));
        }
        let bytes = self
            .visible
            .values()
            .map(|seen| self.stored[&seen.handle].1);
        assert_eq!(self.index.visible_bytes(), bytes.sum::<u64>());
        let tags = self.visible.values().flat_map(|seen| &seen.tags);
        let tags: BTreeSet<&u8> = tags.collect();
        while !self.index.look_for_hollow(2) {}
        assert_eq!(self.index.populated_tags(), tags.len());
    }
}

/// The invariants of the index, asserted one by one.
impl<E: Copy + PartialEq> Index<E> {
    pub(in crate::engine) fn insert(&mut self, incoming: Incoming<'_, E>) -> Slot {
        self.insert_near(None, incoming)
    }

    pub(in crate::engine) fn validate(&self, bytes_of: impl Fn(E) -> u64) {
        let slots = self.slots.validate();
        self.marks.validate(|id| slots.contains(&Slot(id)));
        let mut listed: HashMap<u32, (u32, u64)> = HashMap::new();
        let (mut bytes, mut gone_bytes, mut gone) = (0, 0, 0);
        for &slot in &slots {
            let cost = bytes_of(self.entry(slot));
            assert_eq!(self.slots.bytes(slot), cost, "invariant 4");
            bytes += cost;
            if self.is_gone(slot) {
                gone += 1;
                gone_bytes += cost;
            }
            let lists: Vec<u32> = self.slots.lists(slot).collect();
            for (at, &id) in lists.iter().enumerate() {
                assert!(self.lists.get(id).ids.contains(slot.0), "invariant 1");
                assert!(!lists[..at].contains(&id), "invariant 1");
                let seen = listed.entry(id).or_default();
                seen.0 += 1;
                seen.1 += cost;
            }
        }
        assert_eq!(self.gone.len(), gone, "invariant 3");
        assert_eq!(
            (self.bytes, self.gone_bytes),
            (bytes, gone_bytes),
            "invariant 4"
        );
        let lists = self.lists.validate();
        assert_eq!(self.table.len(), lists.len(), "invariant 2");
        for id in lists {
            let list = self.lists.get(id);
            let (len, cost) = listed.get(&id).copied().unwrap_or_default();
            assert_eq!(
                (list.ids.len(), list.ids.bytes()),
                (len, cost),
                "invariants 1 and 4"
            );
            assert!(len > 0, "invariant 2");
            assert_eq!(self.find(&list.name), Some(id), "invariant 2");
            self.validate_hollow(id);
        }
    }
}

/// An entry without grace, of the least cost.
pub(in crate::engine) fn plain<'t>(entry: Handle, tags: &'t [&'t [u8]]) -> Incoming<'t, Handle> {
    Incoming {
        entry,
        tags,
        bytes: UNIT,
        has_grace: false,
        facts: Facts::default(),
    }
}

/// The number of histories: few under Miri, `TAGCACHE_FUZZ_CASES` in a long run.
pub(in crate::engine) fn cases(short: u32) -> u32 {
    if cfg!(miri) {
        return 2;
    }
    let asked = std::env::var("TAGCACHE_FUZZ_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(short)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(400)))]
    #[test]
    fn the_index_agrees_with_a_naive_model(ops in proptest::collection::vec(op(), 1..if cfg!(miri) { 16 } else { 120 })) {
        let mut harness = Harness { now_ms: 1 << 41, ..Harness::default() };
        for op in &ops {
            harness.apply(op);
            harness.check();
        }
        // Whatever happened, everything can be reclaimed, and stale entries leave once their grace is over.
        while harness.reclaim() != Step::Idle {}
        harness.now_ms += GRACE_MS;
        for _ in 0..20 {
            harness.now_ms += 5_000;
            while harness.reclaim() != Step::Idle {}
        }
        prop_assert!(!harness.index.marks.has_soft());
        harness.check();
        prop_assert_eq!(harness.index.visible(), harness.visible.len() as u64);
        let handles: Vec<Handle> = harness.stored.keys().copied().collect();
        for handle in handles {
            harness.remove(handle);
        }
        harness.check();
        prop_assert_eq!(harness.index.populated_tags(), 0);
    }

    /// SCAN's guarantee under churn: an entry that carries the tag from the first call to the last is returned.
    #[test]
    fn a_scan_returns_every_entry_present_throughout(
        stay in 1_usize..if cfg!(miri) { 10 } else { 60 },
        churn in proptest::collection::vec((any::<bool>(), 0_usize..400, 0_u8..4), 0..if cfg!(miri) { 20 } else { 400 }),
        count in 1_u64..7,
    ) {
        let mut index: Index<u64> = Index::default();
        let mut slots: HashMap<u64, Slot> = HashMap::new();
        for handle in 0..stay as u64 {
            slots.insert(handle, index.insert(plain(handle, &[b"t"])));
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
                    slots.insert(next, index.insert(plain(next, &[b"t"])));
                    next += 1;
                } else if which < stay {
                    // Overwritten, with other tags besides the scanned one.
                    let tags: &[&[u8]] = match tags { 0 => &[b"t"], 1 => &[b"x", b"t"], 2 => &[b"t", b"y", b"z"], _ => &[b"z", b"t"] };
                    let handle = which as u64;
                    let slot = index.replace(slots[&handle], plain(handle, tags));
                    slots.insert(handle, slot);
                } else if let Some(slot) = slots.remove(&(which as u64)) {
                    index.remove(slot);
                }
            }
            index.validate(|_| UNIT);
        }
        for handle in 0..stay as u64 {
            prop_assert!(seen.contains(&handle), "{handle} was there all the time");
        }
    }
}

#[test]
fn all_memory_is_freed_once_all_entries_are_reclaimed() {
    let mut index: Index<u64> = Index::default();
    let count = if cfg!(miri) { 600 } else { 20_000 };
    let names: Vec<String> = (0..count).map(|i| format!("unique:{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        index.insert(plain(i as u64, &[b"shared", name.as_bytes()]));
    }
    assert!(index.heap_bytes() > count * 28);
    index.flush();
    loop {
        match index.reclaim_step(0, false) {
            Step::Gone(slot) => {
                index.remove(slot);
            }
            Step::Softened(..) => {}
            Step::Idle => break,
        }
    }
    assert_eq!(index.len(), 0);
    assert_eq!(index.heap_bytes(), 0);
}

#[test]
fn a_cost_too_large_for_its_page_is_counted_exactly() {
    let mut index: Index<u64> = Index::default();
    let large = 1 << 30;
    let slot = index.insert(Incoming {
        bytes: large,
        ..plain(1, &[b"t"])
    });
    assert_eq!(index.tag_figures(b"t").bytes, large);
    index.resize(slot, UNIT);
    assert_eq!(index.visible_bytes(), UNIT);
    index.resize(slot, large);
    assert_eq!(index.invalidate(&[b"t"], Effect::Gone, 0), 1);
    assert_eq!(index.visible_bytes(), 0);
    assert!(index.remove(slot));
    index.validate(|_| 0);
    assert_eq!(index.heap_bytes(), 0);
}

#[test]
fn resizing_a_gone_entry_leaves_visible_bytes_at_zero() {
    let mut index: Index<u64> = Index::default();
    let slot = index.insert(plain(1, &[b"t"]));
    index.invalidate(&[b"t"], Effect::Gone, 0);
    for bytes in [5 * UNIT, 2 * UNIT] {
        index.resize(slot, bytes);
        assert_eq!(index.visible_bytes(), 0);
        index.validate(|_| bytes);
    }
}

#[test]
fn an_unknown_entry_is_gone_only_while_there_are_orphans() {
    let mut index: Index<u64> = Index::default();
    let slot = index.insert(plain(1, &[b"t"]));
    let fresh = |index: &Index<u64>, entry| index.freshness(slot, entry, 0, || None, || 0);
    for orphans in [false, true] {
        index.has_orphans = orphans;
        let stranger = if orphans {
            Freshness::Gone
        } else {
            Freshness::Fresh
        };
        assert_eq!(
            (fresh(&index, 1), fresh(&index, 2)),
            (Freshness::Fresh, stranger)
        );
        assert_eq!((index.holds(slot, 1), index.holds(slot, 2)), (true, false));
        assert!(!index.must_leave(Some(slot), 1));
        assert_eq!(index.must_leave(Some(slot), 2), orphans);
        assert_eq!(index.must_leave(None, 2), orphans);
    }
    index.invalidate(&[b"t"], Effect::Gone, 0);
    assert!(index.must_leave(Some(slot), 1));
    assert_eq!(fresh(&index, 1), Freshness::Gone);
}

#[test]
fn an_ended_entry_is_stale_until_its_grace_ends() {
    let mut index: Index<u64> = Index::default();
    let slot = index.insert(Incoming {
        has_grace: true,
        ..plain(1, &[b"t"])
    });
    let grace_ms = 100;
    let at = |index: &Index<u64>, now_ms| {
        // The server's deadline is the end of the grace.
        index.freshness(slot, 1, grace_ms, || Some(1_100), || now_ms)
    };
    assert_eq!(at(&index, 999), Freshness::Fresh);
    assert_eq!(at(&index, 1_000), Freshness::Stale);
    index.invalidate(&[b"t"], Effect::Stale, 500);
    assert_eq!(at(&index, 500), Freshness::Stale);
    assert_eq!(at(&index, 599), Freshness::Stale);
    assert_eq!(at(&index, 600), Freshness::Gone);
    let softness = index.marks.softness(slot).expect("stale");
    assert_eq!(softness.since_ms, 500);
    let again = Incoming {
        has_grace: true,
        facts: Facts {
            softness: Some(Softness::since(400)),
            ..Facts::default()
        },
        ..plain(1, &[b"t"])
    };
    assert_eq!(index.replace(slot, again), slot);
    assert_eq!(at(&index, 499), Freshness::Stale);
    assert_eq!(at(&index, 500), Freshness::Gone);
    index.set_graced(slot, true);
    assert!(!index.is_gone(slot));
    index.set_graced(slot, false);
    assert!(index.is_gone(slot), "nothing lies between fresh and gone");
}

#[test]
fn tags_and_costs_are_known_while_their_entries_exist() {
    let mut index: Index<u64> = Index::default();
    let slots = [1, 2, 3, 4, 5].map(|entry| {
        index.insert(Incoming {
            bytes: entry * UNIT,
            ..plain(entry, &[b"t"])
        })
    });
    assert_eq!(slots.map(|slot| index.cost(slot) / UNIT), [1, 2, 3, 4, 5]);
    assert_eq!(
        [&b"t"[..], b"u"].map(|tag| index.is_carried(tag)),
        [true, false]
    );
    let mut seen = Vec::new();
    let cursor = index.scan_tag(b"t", 0, 2, |slot| seen.push(slot));
    assert_eq!(seen, slots[..2]);
    assert_eq!(index.few_of_tag(b"t", 5)[..], slots);
    assert!(index.few_of_tag(b"t", 4).is_empty());
    assert!(index.few_of_tag(b"u", 4).is_empty());
    assert_eq!(cursor, u64::from(slots[2].0));
    for slot in slots {
        index.remove(slot);
    }
    assert!(!index.is_carried(b"t"));
}

#[test]
fn a_flush_leaves_no_stale_entry() {
    let mut index: Index<u64> = Index::default();
    index.insert(Incoming {
        has_grace: true,
        ..plain(1, &[b"t"])
    });
    index.invalidate(&[b"t"], Effect::Stale, 500);
    assert!(index.marks.has_soft());
    assert_eq!(index.flush(), 1);
    assert!(!index.marks.has_soft());
    index.validate(|_| UNIT);
}

#[test]
fn doubted_entries_are_dropped_unless_removed_or_replaced() {
    let mut index: Index<u64> = Index::default();
    let slots = [1, 2, 3, 4].map(|entry| index.insert(plain(entry, &[b"t"])));
    index
        .marks
        .doubted
        .extend(slots[..3].iter().map(|slot| slot.0));
    assert!(!index.is_plain(slots[0], &[b"t"]), "a write must clear it");
    assert_eq!(index.replace(slots[0], plain(5, &[b"t"])), slots[0]);
    index.remove(slots[1]);
    assert_eq!(index.begin_to_decide(), [slots[2]]);
    let gone = [0, 2, 3].map(|at| index.is_gone(slots[at]));
    assert_eq!(gone, [false, true, false]);
    assert_eq!(index.begin_to_decide(), []);
    index.validate(|_| UNIT);
}

#[test]
fn a_gone_entry_in_doubt_is_reclaimed_once_decided() {
    let mut index: Index<u64> = Index::default();
    let mut refuse = |entry| {
        let mut incoming = plain(entry, &[b"t"]);
        (incoming.facts.is_gone, incoming.facts.is_doubted) = (true, true);
        index.insert(incoming)
    };
    let slot = refuse(1);
    assert_eq!(index.reclaim_step(0, false), Step::Idle);
    assert_eq!(index.begin_to_decide(), [slot]);
    assert_eq!(index.reclaim_step(0, false), Step::Gone(slot));
    // All nodes drop the entry, whether it is gone already or not.
    let tags: &[&[u8]] = &[b"t"];
    let condition = Condition {
        all: Some(tags),
        ..Condition::default()
    };
    let softness = Softness::since(0);
    for effect in [Effect::Gone, Effect::Stale] {
        index.marks.doubted.insert(slot.0);
        index.invalidate(tags, effect, 0);
        assert_eq!(index.reclaim_step(0, false), Step::Gone(slot));
        index.marks.doubted.insert(slot.0);
        index.invalidate_where(condition, effect, softness);
        assert_eq!(index.reclaim_step(0, false), Step::Gone(slot));
        index.marks.doubted.insert(slot.0);
        index.flush();
        assert_eq!(index.reclaim_step(0, false), Step::Gone(slot));
        index.remove(slot);
        assert_eq!(index.insert(plain(2, tags)), slot);
    }
    // A stale entry is not gone on nodes that did not refuse it.
    let mut graced = plain(3, tags);
    (graced.has_grace, graced.facts.is_gone) = (true, true);
    graced.facts.is_doubted = true;
    let graced = index.insert(graced);
    index.invalidate(tags, Effect::Stale, 0);
    assert!(index.marks.doubted.contains(graced.0));
    assert_eq!(index.facts(graced).softness, Some(softness));
    index.validate(|_| UNIT);
}
