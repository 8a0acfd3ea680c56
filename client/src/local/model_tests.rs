//! The cache against a naive model of it, over random histories; time passes only when a test advances it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;

use super::{
    LocalCache, Reservation,
    bounds::{ENTRY_BYTES, MAX_WEIGHT},
    clock::Clock,
    marks::REMEMBERED,
};
use crate::Entry;

/// At most this many keys are used.
const KEYS: usize = 40;

const TAGS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Action {
    Set {
        key: u8,
        ttl: u64,
        grace: u64,
        tags: Vec<usize>,
    },
    Get(u8),
    LookUp(u8),
    Remove(u8),
    Invalidate(usize),
    Revalidate(usize),
    InvalidateAll,
    ForgetAll,
    RevalidateAll,
    GetOrInsert {
        key: u8,
        ttl: u64,
        tags: Vec<usize>,
    },
    Reserve(u8),
    /// Ends the n-th reservation under way: with a value, or by giving up.
    Fill {
        which: usize,
        ttl: u64,
        grace: u64,
        tags: Vec<usize>,
    },
    GiveUp(usize),
    Pass(u64),
    CleanUp,
    TakeHits,
}

fn action(keys: u8) -> impl Strategy<Value = Action> {
    use Action::*;
    let key = || 0..keys;
    // Zero, short, longer than a history, forever.
    let ttl =
        || prop_oneof![1 => Just(0_u64), 6 => 1..20_u64, 2 => Just(1000), 1 => Just(u64::MAX)];
    let grace = || prop_oneof![3 => Just(0_u64), 2 => 1..20_u64, 1 => Just(u64::MAX)];
    let tags = || prop::collection::vec(0..TAGS.len(), 0..4);
    prop_oneof![
        8 => (key(), ttl(), grace(), tags())
            .prop_map(|(key, ttl, grace, tags)| Set { key, ttl, grace, tags }),
        12 => key().prop_map(Get),
        4 => key().prop_map(LookUp),
        2 => key().prop_map(Remove),
        3 => (0..TAGS.len()).prop_map(Invalidate),
        3 => (0..TAGS.len()).prop_map(Revalidate),
        1 => Just(InvalidateAll),
        1 => Just(ForgetAll),
        1 => Just(RevalidateAll),
        3 => (key(), ttl(), tags()).prop_map(|(key, ttl, tags)| GetOrInsert { key, ttl, tags }),
        4 => key().prop_map(Reserve),
        4 => (0..8_usize, ttl(), grace(), tags())
            .prop_map(|(which, ttl, grace, tags)| Fill { which, ttl, grace, tags }),
        1 => (0..8_usize).prop_map(GiveUp),
        4 => (1..15_u64).prop_map(Pass),
        2 => Just(CleanUp),
        1 => Just(TakeHits),
    ]
}

fn millis(ms: u64) -> Duration {
    if ms == u64::MAX {
        Duration::MAX
    } else {
        Duration::from_millis(ms)
    }
}

/// The model of an entry, without marks and epochs: invalidations change the entries at once.
#[derive(Debug, Clone)]
struct ModelEntry {
    value: u32,
    expires: u64,
    grace: u64,
    /// Soft invalidations by each of its tags, and by everything (`None`).
    softened: BTreeMap<Option<usize>, Vec<u64>>,
    tags: BTreeSet<usize>,
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum State {
    Fresh(u64),
    Stale(u64),
    Gone,
}

impl ModelEntry {
    fn state(&self, now: u64) -> State {
        if self.softened.is_empty() && (self.expires == u64::MAX || now < self.expires) {
            return State::Fresh(self.expires);
        }
        if self.softened.values().any(|times| times.len() > REMEMBERED) {
            return State::Gone;
        }
        let since = self
            .softened
            .values()
            .fold(self.expires, |since, times| since.min(times[0]));
        let end = since.saturating_add(self.grace);
        if now < end {
            State::Stale(end)
        } else {
            State::Gone
        }
    }
}

/// A reservation, and what has happened since.
struct Pending {
    key: u8,
    reservation: Reservation<u32>,
    overtaken: bool,
    invalidated: BTreeSet<usize>,
}

struct World {
    cache: LocalCache<u32>,
    time: Arc<AtomicU64>,
    model: BTreeMap<u8, ModelEntry>,
    pending: Vec<Pending>,
    next_value: u32,
    hits: HashMap<u8, u64>,
    reported: HashMap<u8, u64>,
    reads: (u64, u64),
    /// The cache is too small for all keys, so a miss is always right.
    may_forget: bool,
}

impl World {
    fn new(max_entries: usize, max_tracked: usize) -> Self {
        let time = Arc::new(AtomicU64::new(0));
        let cache = LocalCache::builder()
            .max_entries(max_entries)
            .max_tracked(max_tracked)
            .report_hits(true)
            .clock(Clock::Manual(Arc::clone(&time)))
            .build();
        Self {
            cache,
            time,
            model: BTreeMap::new(),
            pending: Vec::new(),
            next_value: 0,
            hits: HashMap::new(),
            reported: HashMap::new(),
            reads: (0, 0),
            may_forget: max_entries < KEYS,
        }
    }

    /// Nanoseconds, as the cache counts.
    fn now(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    fn fresh_value(&mut self) -> u32 {
        self.next_value += 1;
        self.next_value
    }

    fn state(&self, key: u8) -> State {
        self.model
            .get(&key)
            .map_or(State::Gone, |entry| entry.state(self.now()))
    }

    fn count(&mut self, key: u8, is_hit: bool) {
        if is_hit {
            self.reads.0 += 1;
            *self.hits.entry(key).or_default() += 1;
            *self.reported.entry(key).or_default() += 1;
        } else {
            self.reads.1 += 1;
        }
    }

    fn store(&mut self, key: u8, value: u32, ttl: u64, grace: u64, tags: &[usize]) {
        let nanos = |ms: u64| ms.saturating_mul(1_000_000);
        let entry = ModelEntry {
            value,
            expires: self.now().saturating_add(nanos(ttl)),
            grace: nanos(grace),
            softened: BTreeMap::new(),
            tags: tags.iter().copied().collect(),
        };
        self.model.insert(key, entry);
    }

    fn overtake(&mut self, key: u8) {
        for pending in &mut self.pending {
            pending.overtaken |= pending.key == key;
        }
    }

    /// Invalidates the entries with a tag, or all.
    fn invalidate(&mut self, tag: Option<usize>, softly: bool) {
        let now = self.now();
        self.model.retain(|_, entry| {
            if tag.is_some_and(|tag| !entry.tags.contains(&tag)) {
                return true;
            }
            entry.softened.entry(tag).or_default().push(now);
            softly
        });
    }

    /// Applies `action` to the cache and to the model.
    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    fn step(&mut self, action: Action) -> Result<(), TestCaseError> {
        let may_forget = self.may_forget;
        let name = |key: u8| format!("key-{key}");
        let names = |tags: &[usize]| tags.iter().map(|tag| TAGS[*tag]).collect::<Vec<_>>();
        match action {
            Action::Set {
                key,
                ttl,
                grace,
                tags,
            } => {
                let value = self.fresh_value();
                let entry = Entry::ttl(millis(ttl))
                    .grace(millis(grace))
                    .tags(names(&tags));
                self.cache.set_with(&name(key), value, entry);
                self.overtake(key);
                if ttl == 0 {
                    self.model.remove(&key);
                } else {
                    self.store(key, value, ttl, grace, &tags);
                }
            }
            Action::Get(key) => {
                let got = self.cache.get(&name(key)).map(|value| *value);
                let expected = match self.state(key) {
                    State::Fresh(_) => Some(self.model[&key].value),
                    _ => None,
                };
                prop_assert!(
                    got == expected || may_forget && got.is_none(),
                    "{got:?} {expected:?}"
                );
                self.count(key, got.is_some());
            }
            Action::LookUp(key) => {
                let now = self.now();
                let left = |end| match end {
                    u64::MAX => Duration::MAX,
                    end => Duration::from_nanos(end - now),
                };
                let expected = match self.state(key) {
                    State::Fresh(end) => Some((true, self.model[&key].value, left(end))),
                    State::Stale(end) => Some((false, self.model[&key].value, left(end))),
                    State::Gone => None,
                };
                let found = self.cache.inner.peek(&name(key));
                let got = found.map(|(value, found)| (found.is_fresh, *value, found.left));
                let value = self.cache.get_stale(&name(key)).map(|value| *value);
                prop_assert_eq!(value, got.map(|(_, value, _)| value));
                prop_assert!(
                    got == expected || may_forget && got.is_none(),
                    "{got:?} {expected:?}"
                );
                self.count(key, matches!(got, Some((true, ..))));
            }
            Action::Remove(key) => {
                let got = self.cache.remove(&name(key)).map(|value| *value);
                let expected = match self.state(key) {
                    State::Fresh(_) => Some(self.model[&key].value),
                    _ => None,
                };
                prop_assert!(got == expected || may_forget && got.is_none());
                self.model.remove(&key);
                self.overtake(key);
            }
            Action::Invalidate(tag) | Action::Revalidate(tag) => {
                let softly = matches!(action, Action::Revalidate(_));
                if softly {
                    self.cache.revalidate_tag(TAGS[tag]);
                } else {
                    self.cache.invalidate_tag(TAGS[tag]);
                }
                self.invalidate(Some(tag), softly);
                for pending in &mut self.pending {
                    pending.invalidated.insert(tag);
                }
            }
            Action::InvalidateAll | Action::ForgetAll | Action::RevalidateAll => {
                let softly = matches!(action, Action::RevalidateAll);
                match action {
                    Action::InvalidateAll => self.cache.invalidate_all(),
                    Action::ForgetAll => self.cache.forget_all(),
                    _ => self.cache.revalidate_all(),
                }
                self.invalidate(None, softly);
                if matches!(action, Action::InvalidateAll) {
                    prop_assert!(self.cache.is_empty());
                }
                for pending in &mut self.pending {
                    pending.overtaken = true;
                }
            }
            Action::GetOrInsert { key, ttl, tags } => {
                let value = self.fresh_value();
                let entry = Entry::ttl(millis(ttl)).tags(names(&tags));
                let mut loaded = false;
                let got = self.cache.get_or_insert_with(&name(key), entry, || {
                    loaded = true;
                    value
                });
                match self.state(key) {
                    State::Fresh(_) if !loaded => prop_assert_eq!(*got, self.model[&key].value),
                    State::Fresh(_) => prop_assert!(may_forget),
                    _ => prop_assert!(loaded),
                }
                self.count(key, !loaded);
                if loaded {
                    prop_assert_eq!(*got, value);
                    if ttl != 0 {
                        self.store(key, value, ttl, 0, &tags);
                    }
                }
            }
            Action::Reserve(key) => self.pending.push(Pending {
                key,
                reservation: self.cache.reserve(&name(key)),
                overtaken: false,
                invalidated: BTreeSet::new(),
            }),
            Action::Fill {
                which,
                ttl,
                grace,
                tags,
            } => {
                if which < self.pending.len() {
                    let value = self.fresh_value();
                    let pending = self.pending.remove(which);
                    prop_assert_eq!(pending.reservation.is_current(), !pending.overtaken);
                    let entry = Entry::ttl(millis(ttl))
                        .grace(millis(grace))
                        .tags(names(&tags));
                    let stored = pending.reservation.fill(Arc::new(value), entry);
                    let refuse = pending.overtaken
                        || ttl == 0
                        || tags.iter().any(|tag| pending.invalidated.contains(tag));
                    // The cache may refuse more if a tag was forgotten in between, which only cleanups do.
                    prop_assert!(!(stored && refuse), "an overtaken value was stored");
                    if stored {
                        self.store(pending.key, value, ttl, grace, &tags);
                    }
                }
            }
            Action::GiveUp(which) => {
                if which < self.pending.len() {
                    self.pending.remove(which);
                }
            }
            Action::Pass(ms) => {
                self.time.fetch_add(ms * 1_000_000, Ordering::SeqCst);
            }
            Action::CleanUp => {
                self.cache.run_cleanup();
                let now = self.now();
                self.model
                    .retain(|_, entry| entry.state(now) != State::Gone);
                if !may_forget {
                    prop_assert_eq!(self.cache.len(), self.model.len());
                }
            }
            Action::TakeHits => self.take_hits()?,
        }
        Ok(())
    }

    fn take_hits(&mut self) -> Result<(), TestCaseError> {
        let taken: BTreeMap<String, u64> = self.cache.take_hits(usize::MAX).into_iter().collect();
        let expected: BTreeMap<String, u64> = self
            .reported
            .drain()
            .map(|(key, hits)| (format!("key-{key}"), hits))
            .collect();
        prop_assert_eq!(taken, expected);
        Ok(())
    }

    fn check(&self, max_entries: usize, max_tracked: usize) -> Result<(), TestCaseError> {
        self.cache.validate();
        let stats = self.cache.stats();
        prop_assert!(stats.entries <= max_entries);
        prop_assert!(stats.tracked <= max_tracked);
        prop_assert_eq!((stats.hits, stats.misses), self.reads);
        // All loads under way are remembered, and nothing else.
        prop_assert_eq!(self.cache.inner.loads.len(), self.pending.len());
        Ok(())
    }
}

/// Each of these entries weighs a little more than its share of the bytes.
#[test]
fn rounding_of_weights_does_not_exceed_the_byte_limit() {
    const ENTRIES: u64 = 1000;
    let cache = LocalCache::builder()
        .max_entries(ENTRIES as usize)
        .max_bytes(ENTRIES * 10_000)
        .shards(1)
        .build();
    for i in 0..ENTRIES {
        let key = i.to_string();
        let own = ENTRY_BYTES + key.len() as u64;
        cache.set_with(&key, (), Entry::forever().weight(10_009 - own));
    }
    cache.validate();
    assert!(cache.stats().evictions > 0);
}

/// The number of histories; `TAGCACHE_FUZZ_CASES` in a long run.
fn cases(short: u32) -> u32 {
    let asked = std::env::var("TAGCACHE_FUZZ_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(short)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(128), ..ProptestConfig::default() })]

    /// With room for everything, the cache equals the model, and counts every hit of every key forever.
    #[test]
    fn cache_with_room_matches_the_model(actions in prop::collection::vec(action(12), 1..200)) {
        let mut world = World::new(64, 64);
        for action in actions {
            let cleaned = matches!(action, Action::CleanUp | Action::InvalidateAll);
            world.step(action)?;
            world.check(64, 64)?;
            if cleaned {
                // Keys without an entry may be forgotten, and start anew.
                let known: BTreeSet<String> =
                    world.cache.top_accessed_keys(64).into_iter().map(|key| key.key).collect();
                world.hits.retain(|key, _| known.contains(&format!("key-{key}")));
            }
            let top: BTreeMap<String, u64> = world
                .cache
                .top_accessed_keys(64)
                .into_iter()
                .map(|key| (key.key, key.hits))
                .collect();
            let expected: BTreeMap<String, u64> =
                world.hits.iter().map(|(key, hits)| (format!("key-{key}"), *hits)).collect();
            prop_assert_eq!(top, expected);
        }
        drop(world.pending);
        prop_assert_eq!(world.cache.inner.loads.len(), 0);
        prop_assert!(world.cache.inner.loads.is_idle());
    }

    /// A cache that is too small forgets entries, and makes no other error.
    #[test]
    fn cache_without_room_differs_from_the_model_only_by_eviction(actions in prop::collection::vec(action(40), 1..300)) {
        let mut world = World::new(8, 4);
        for action in actions {
            world.step(action)?;
            world.check(8, 4)?;
            // A resident entry that is not listed has at most the smallest listed count.
            let top = world.cache.top_accessed_keys(4);
            prop_assert!(top.is_sorted_by(|a, b| a.hits >= b.hits));
            for key in &top {
                let number: u8 = key.key["key-".len()..].parse().expect("a key's number");
                prop_assert!(key.hits <= world.hits[&number]);
            }
            if top.len() == 4 {
                for entry in world.cache.inner.entries.iter() {
                    let word = entry.0.stored().hits.read();
                    prop_assert!(top.iter().any(|top| top.key == entry.0.key()) || word.count() <= top[3].hits);
                }
            }
        }
    }

    /// Whatever the limits and the weights are, both limits hold, and an entry that is not too heavy is stored.
    #[test]
    fn limits_hold_and_fitting_entries_are_stored(
        max_entries in prop_oneof![0..5_usize, 0..200_usize],
        max_bytes in prop::option::of(prop_oneof![0..2000_u64, 0..100_000_u64, Just(u64::MAX)]),
        shards in prop::option::of(0..40_usize),
        weights in prop::collection::vec(
            (0..40_u8, prop_oneof![0..100_u64, 0..3000_u64, 0..100_000_u64, Just(u64::MAX)]),
            1..200,
        ),
    ) {
        let mut builder = LocalCache::builder().max_entries(max_entries);
        if let Some(bytes) = max_bytes {
            builder = builder.max_bytes(bytes);
        }
        if let Some(shards) = shards {
            builder = builder.shards(shards);
        }
        let cache = builder.build();
        let heaviest = cache.max_entry_bytes();
        prop_assert!(max_bytes.is_none_or(|max| heaviest <= max));
        for (key, weight) in weights {
            let key = key.to_string();
            let own = ENTRY_BYTES + key.len() as u64;
            cache.set_with(&key, (), Entry::forever().weight(weight));
            cache.validate();
            let total = weight.saturating_add(own).min(MAX_WEIGHT);
            if total <= heaviest {
                prop_assert!(cache.contains(&key), "{total} of {heaviest}");
            } else if total > heaviest + heaviest / 100 {
                prop_assert!(!cache.contains(&key), "{total} of {heaviest}");
            }
        }
    }
}
