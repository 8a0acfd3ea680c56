//! The times at which tags were last invalidated: for entries that arrive, for values loaded under a lease, and for the
//! figures.
//!
//! `DESIGN.md` (Entries that arrive) explains why they are remembered. Tags that entries carry have a row each, other
//! tags within [`REMEMBERED`]. The oldest rows beyond that are folded into a *floor*, which holds for every tag without
//! a row.
//!
//! Times are unix milliseconds of the node that executed the invalidation, and travel with replication.

use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;

use super::index::Effect;
use super::seeds::Seeded;
use super::stamps::as_long_ago;
use crate::leb128;
use crate::record::{MAX_TAG_BYTES, MAX_TIME_MS};

/// Limits for the rows of tags that no entry carries: their number, and the bytes of their names. A command may name
/// tags that are longer than those of entries, and rows cannot be evicted.
pub(crate) const REMEMBERED: Remembered = Remembered {
    tags: 100_000,
    bytes: 32 << 20,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered {
    pub(crate) tags: usize,
    pub(crate) bytes: usize,
}

/// The cost of a look at a row, in addition to its name, in bytes of names.
pub(crate) const ROW_BYTES: usize = 16;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The stamp of the invalidation, which may be somewhat ahead of the present.
    pub(crate) at_ms: u64,
    /// The present, at which spans of time begin.
    pub(crate) now_ms: u64,
    /// The database's clock after the invalidation.
    pub(crate) clock: u64,
}

/// The last invalidations of a tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// The database's clock after the last of them.
    pub(crate) clock: u64,
    /// The last hard and the last soft invalidation, also by a condition, unix ms; 0: never.
    pub(crate) hard_ms: u64,
    pub(crate) soft_ms: u64,
    /// The number of invalidations by the tag's name, hard or soft, and the time of the last, unix ms.
    pub(crate) invalidations: u64,
    pub(crate) named_ms: u64,
    /// An entry that is stored with the tag may live until then, unix ms; 0: no limit.
    pub(crate) held_until_ms: u64,
    /// Entries that soft invalidations made stale are gone then, whatever their grace, unix ms; 0: no limit.
    pub(crate) soft_ends_ms: u64,
    /// The last soft invalidation by this node's own clock, from which a grace counts, unix ms. Not saved: `soft_ms`
    /// takes its place.
    softened_ms: u64,
}

impl Past {
    /// Its figures in the order in which they are saved, each with its maximum.
    fn saved(&mut self) -> [(&mut u64, u64); 7] {
        [
            (&mut self.clock, u64::MAX),
            (&mut self.hard_ms, MAX_TIME_MS),
            (&mut self.soft_ms, MAX_TIME_MS),
            (&mut self.invalidations, u32::MAX.into()),
            (&mut self.named_ms, MAX_TIME_MS),
            (&mut self.held_until_ms, MAX_TIME_MS),
            (&mut self.soft_ends_ms, MAX_TIME_MS),
        ]
    }

    /// Appends its saved form, in LEB128.
    fn encode(mut self, bytes: &mut Vec<u8>) {
        for (number, _) in self.saved() {
            leb128::push(bytes, *number);
        }
    }

    /// Takes a saved row from the front of `bytes`; `None` if there is no valid one.
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut past = Self::default();
        for (number, most) in past.saved() {
            *number = leb128::take(bytes).filter(|&number| number <= most)?;
        }
        past.softened_ms = past.soft_ms;
        Some(past)
    }

    /// Records an invalidation; a soft one may have a limit, unix ms.
    fn record(&mut self, moment: Moment, effect: Effect, soft_ends_ms: u64) {
        self.clock = self.clock.max(moment.clock);
        let ms = match effect {
            Effect::Gone => &mut self.hard_ms,
            Effect::Stale => {
                if (1..=moment.now_ms).contains(&self.soft_ends_ms) {
                    // Entries that the earlier one made stale are gone by now, and must not become stale again.
                    self.hard_ms = self.hard_ms.max(self.soft_ms);
                    self.soft_ends_ms = 0;
                }
                self.soft_ends_ms = earlier(self.soft_ends_ms, soft_ends_ms);
                self.softened_ms = moment.now_ms;
                &mut self.soft_ms
            }
        };
        *ms = moment.at_ms.max(*ms);
    }

    /// The row after everything was flushed at that clock: the tag is no longer known by its name, unless invalidated
    /// since.
    const fn since(mut self, flushed_at: u64) -> Self {
        if self.clock <= flushed_at {
            self.invalidations = 0;
        }
        self
    }

    /// Keeps the later of both for each figure.
    fn merge(&mut self, mut other: Self) {
        other.soft_ends_ms = earlier(self.soft_ends_ms, other.soft_ends_ms);
        self.soft_ends_ms = 0;
        for ((own, _), (other, _)) in self.saved().into_iter().zip(other.saved()) {
            *own = (*own).max(*other);
        }
        self.softened_ms = self.softened_ms.max(other.softened_ms);
    }

    /// Bounds its stamps by an earlier time, to which the clock that gave them was set back.
    fn bound_stamps(&mut self, back_to_ms: u64) {
        for ms in [&mut self.hard_ms, &mut self.soft_ms, &mut self.named_ms] {
            *ms = back_to_ms.min(*ms);
        }
    }

    /// Bounds spans of time by the present, after this node's clock was set back from `from_ms`: a hold, a limit and a
    /// grace keep the time that was left of them.
    fn bound_spans(&mut self, from_ms: u64, now_ms: u64) {
        self.softened_ms = as_long_ago(self.softened_ms, from_ms, now_ms);
        for ends_ms in [&mut self.held_until_ms, &mut self.soft_ends_ms] {
            let left_ms = ends_ms.saturating_sub(from_ms);
            *ends_ms = now_ms.saturating_add(left_ms).min(*ends_ms);
        }
    }
}

/// The earlier of two times; 0 means no time.
fn earlier(one_ms: u64, other_ms: u64) -> u64 {
    match (one_ms, other_ms) {
        (0, ms) | (ms, 0) => ms,
        (one_ms, other_ms) => one_ms.min(other_ms),
    }
}

/// The effect of some tags' invalidations on an entry, which was written before or after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Untouched,
    /// Stale since `since_ms` and gone at `ends_ms`, unix ms; 0: at the end of its grace.
    Softened {
        since_ms: u64,
        ends_ms: u64,
    },
    Dropped,
}

impl Outcome {
    /// The outcome after the soft invalidation of another tag.
    fn softened(self, past: &Past) -> Self {
        let (since_ms, ends_ms) = match self {
            Self::Softened { since_ms, ends_ms } => (since_ms, ends_ms),
            _ => (0, 0),
        };
        Self::Softened {
            since_ms: earlier(since_ms, past.softened_ms),
            ends_ms: earlier(ends_ms, past.soft_ends_ms),
        }
    }

    /// Whether an entry arrives too late. A soft invalidation counts too, unless the entry is stale already and may
    /// stay so for its own grace: the other cases are not worth a second way to notify replicas.
    pub(crate) const fn is_too_late(self, is_stale: bool) -> bool {
        match self {
            Self::Untouched => false,
            Self::Softened { ends_ms, .. } => !is_stale || ends_ms > 0,
            Self::Dropped => true,
        }
    }
}

/// Rows of tags, in the order of their insertion, and the bytes of their names together.
#[derive(Debug, Default)]
struct Rows {
    by_tag: LinkedHashMap<Box<[u8]>, Past, Seeded>,
    names: usize,
}

impl Rows {
    fn push(&mut self, tag: Box<[u8]>, past: Past) {
        self.names += tag.len();
        self.by_tag.insert(tag, past);
    }

    fn pop(&mut self) -> Option<(Box<[u8]>, Past)> {
        let (tag, past) = self.by_tag.pop_front()?;
        self.names -= tag.len();
        Some((tag, past))
    }

    fn take(&mut self, tag: &[u8]) -> Option<Past> {
        let past = self.by_tag.remove(tag)?;
        self.names -= tag.len();
        Some(past)
    }

    fn heap_bytes(&self) -> usize {
        const NODE: usize = size_of::<(Box<[u8]>, Past)>() + 2 * size_of::<usize>();
        let (len, room) = (self.by_tag.len(), self.by_tag.capacity());
        self.names + len * NODE + room * (size_of::<usize>() + 1)
    }
}

#[derive(Debug, Default)]
pub(crate) struct History {
    /// Rows in the order of their last change, oldest first: the last ones, whether entries carry the tags or not.
    rows: Rows,
    /// Rows of tags that entries carried at the last check. All were changed before those in `rows`: so folded rows are
    /// older than all in `rows`, however many tags are carried.
    carried: Rows,
    /// Holds for tags without a row.
    floor: Past,
    /// Invalidations of all entries, whatever tags they carry.
    everything: Past,
    /// The clock at the last flush of everything: only a later invalidation makes a tag known by its name.
    flushed_at: u64,
    /// The end of the last hold of a tag, unix ms.
    holds_end_ms: u64,
}

impl History {
    /// Records the invalidation of a tag by its name. O(1).
    pub(crate) fn record(&mut self, tag: &[u8], moment: Moment, effect: Effect) {
        let past = self.change(tag);
        if past.clock == moment.clock && past.invalidations > 0 {
            return; // The tag was given twice.
        }
        past.record(moment, effect, 0);
        past.invalidations = (past.invalidations + 1).min(u32::MAX.into());
        past.named_ms = past.named_ms.max(moment.at_ms);
    }

    /// Records that a condition invalidated entries of a tag; stale ones stay so for `limit_ms` at most. O(1).
    pub(crate) fn record_condition(
        &mut self,
        tag: &[u8],
        moment: Moment,
        effect: Effect,
        limit_ms: u64,
    ) {
        let ends_ms = moment.now_ms.saturating_add(limit_ms);
        // A time that far away means no limit; the saved form has no room for it.
        let ends_ms = if ends_ms > MAX_TIME_MS { 0 } else { ends_ms };
        self.change(tag).record(moment, effect, ends_ms);
    }

    pub(crate) fn record_everything(&mut self, moment: Moment, effect: Effect) {
        self.everything.record(moment, effect, 0);
    }

    /// An entry that is stored with this tag lives until `until_ms` at most, unix ms. Never shortens a hold. O(1).
    pub(crate) fn hold(&mut self, tag: &[u8], until_ms: u64) {
        let past = self.change(tag);
        past.held_until_ms = past.held_until_ms.max(until_ms);
        self.holds_end_ms = self.holds_end_ms.max(until_ms);
    }

    /// The time until which an entry that is stored now with these tags may live, unix ms. O(tags) while some tag is
    /// held.
    #[inline]
    pub(crate) fn held_until_ms<'t>(
        &self,
        tags: impl Iterator<Item = &'t [u8]>,
        now_ms: u64,
    ) -> Option<u64> {
        // The last millisecond counts, as it does for expiry: an entry that was stored before still exists then.
        if self.holds_end_ms < now_ms {
            return None;
        }
        let ends = tags.map(|tag| self.find(tag).held_until_ms);
        ends.filter(|&ms| ms >= now_ms).min()
    }

    /// The last hard and soft invalidation of a tag, unix ms; 0: none in the time that is remembered for it.
    pub(crate) fn times(&self, tag: &[u8], is_carried: bool) -> (u64, u64) {
        let Some(past) = self.row(tag) else {
            return (0, 0);
        };
        // A row begins as a copy of the floor, whose times are those of other tags, perhaps in the same millisecond.
        let own = |ms: u64, floor_ms: u64| {
            let is_own = is_carried || ms > floor_ms || ms == past.named_ms;
            if is_own { ms } else { 0 }
        };
        (
            own(past.hard_ms, self.floor.hard_ms),
            own(past.soft_ms, self.floor.soft_ms),
        )
    }

    /// From here on no tag is known by its name: everything was flushed. O(1).
    pub(crate) fn forget_names(&mut self, clock: u64) {
        self.flushed_at = clock;
    }

    fn change(&mut self, tag: &[u8]) -> &mut Past {
        match self.rows.by_tag.raw_entry_mut().from_key(tag) {
            RawEntryMut::Occupied(mut row) => {
                row.to_back();
                let past = row.into_mut();
                *past = past.since(self.flushed_at);
                past
            }
            RawEntryMut::Vacant(place) => {
                self.rows.names += tag.len();
                let carried = self.carried.take(tag);
                // The tag's own row may have been folded.
                let past = carried.map_or(self.floor, |past| past.since(self.flushed_at));
                place.insert(tag.into(), past).1
            }
        }
    }

    fn row(&self, tag: &[u8]) -> Option<&Past> {
        let row = self.rows.by_tag.get(tag);
        row.or_else(|| self.carried.by_tag.get(tag))
    }

    fn find(&self, tag: &[u8]) -> &Past {
        self.row(tag).unwrap_or(&self.floor)
    }

    /// All rows, oldest first.
    fn all(&self) -> impl Iterator<Item = (&Box<[u8]>, &Past)> {
        self.carried.by_tag.iter().chain(&self.rows.by_tag)
    }

    /// The row of a tag that was invalidated by its name since everything was flushed.
    pub(crate) fn of_named(&self, tag: &[u8]) -> Option<&Past> {
        let past = self.row(tag)?;
        (past.since(self.flushed_at).invalidations > 0).then_some(past)
    }

    /// Whether entries with one of these tags may have been invalidated, hard or soft, at a later clock than this.
    pub(crate) fn is_invalidated_after<'t>(
        &self,
        mut tags: impl Iterator<Item = &'t [u8]>,
        clock: u64,
    ) -> bool {
        self.everything.clock > clock || tags.any(|tag| self.find(tag).clock > clock)
    }

    /// The effect of the remembered invalidations on an entry with these tags that arrives now and was written at
    /// `written_since_ms` at the earliest ([`Stamps::written_since_ms`](super::Stamps)). O(tags).
    pub(crate) fn of_arriving<'t>(
        &self,
        tags: impl Iterator<Item = &'t [u8]>,
        written_since_ms: u64,
    ) -> Outcome {
        self.outcome(self.everything, tags, written_since_ms)
    }

    /// The same for an entry of this database, as though it carried these tags. Invalidations of all entries are left
    /// out: they reached the entry when they happened. O(tags).
    pub(crate) fn of_entry<'t>(
        &self,
        tags: impl Iterator<Item = &'t [u8]>,
        written_since_ms: u64,
    ) -> Outcome {
        self.outcome(Past::default(), tags, written_since_ms)
    }

    fn outcome<'t>(
        &self,
        everything: Past,
        tags: impl Iterator<Item = &'t [u8]>,
        written_since_ms: u64,
    ) -> Outcome {
        let is_later = |ms: u64| ms > 0 && ms >= written_since_ms;
        let mut outcome = Outcome::Untouched;
        for past in tags.map(|tag| self.find(tag)).chain([&everything]) {
            if is_later(past.hard_ms) {
                return Outcome::Dropped;
            }
            if is_later(past.soft_ms) {
                outcome = outcome.softened(past);
            }
        }
        outcome
    }

    /// The latest invalidation that is remembered, unix ms. O(tags remembered).
    pub(crate) fn latest_ms(&self) -> u64 {
        let rows = self.all().map(|(_, past)| past);
        let all = rows.chain([&self.floor, &self.everything]);
        let latest = all.map(|past| past.hard_ms.max(past.soft_ms)).max();
        latest.unwrap_or(0)
    }

    /// Bounds the stamps, after the clock that gives them was set back. O(tags remembered).
    pub(crate) fn bound_stamps(&mut self, back_to_ms: u64) {
        self.all_mut()
            .for_each(|past| past.bound_stamps(back_to_ms));
    }

    /// Bounds spans of time, after this node's own clock was set back. O(tags remembered).
    pub(crate) fn bound_spans(&mut self, from_ms: u64, now_ms: u64) {
        self.all_mut()
            .for_each(|past| past.bound_spans(from_ms, now_ms));
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Past> {
        let (carried, rows) = (&mut self.carried.by_tag, &mut self.rows.by_tag);
        let rows = carried.values_mut().chain(rows.values_mut());
        rows.chain([&mut self.floor, &mut self.everything])
    }

    /// Folds the oldest rows into the floor while there are more than `most`. Rows of tags that entries carry stay in
    /// addition. O(`bytes`): looks at up to that many bytes of names and rows.
    pub(crate) fn trim(
        &mut self,
        most: Remembered,
        bytes: usize,
        is_carried: impl Fn(&[u8]) -> bool,
    ) {
        let mut left = bytes;
        while left > 0
            && (self.rows.by_tag.len() > most.tags || self.rows.names > most.bytes)
            && let Some((tag, past)) = self.rows.pop()
        {
            left = left.saturating_sub(tag.len() + ROW_BYTES);
            self.set_aside(tag, past, &is_carried);
        }
    }

    /// Folds the row of a tag, which is older than all in `rows`, or keeps it if the tag is carried. True if it was folded.
    fn set_aside(
        &mut self,
        tag: Box<[u8]>,
        past: Past,
        is_carried: impl Fn(&[u8]) -> bool,
    ) -> bool {
        if is_carried(&tag) {
            self.carried.push(tag, past);
            return false;
        }
        self.floor.merge(Past {
            invalidations: 0,
            named_ms: 0,
            ..past
        });
        true
    }

    /// Folds some of the rows whose tags entries carried at the last check but no longer carry, and releases their
    /// memory; to be called regularly.
    pub(crate) fn tidy(&mut self, most: Remembered, is_carried: impl Fn(&[u8]) -> bool) {
        const BYTES: usize = 64 << 10;
        self.trim(most, BYTES, &is_carried);
        let before = self.carried.by_tag.len();
        let mut left = BYTES;
        for _ in 0..before {
            if left == 0 {
                break;
            }
            let Some((tag, past)) = self.carried.pop() else {
                break;
            };
            let looked_at = tag.len() + ROW_BYTES;
            let is_folded = self.set_aside(tag, past, &is_carried);
            // A kept row counts four times: where all tags are still carried, each call would only repeat the check.
            left = left.saturating_sub(if is_folded { looked_at } else { 4 * looked_at });
        }
        if self.carried.by_tag.len() < before {
            // The maps keep the room of removed rows for reuse.
            self.carried.by_tag.shrink_to_fit();
            self.rows.by_tag.shrink_to_fit();
        }
    }

    // ---- saving and loading ----

    /// Appends the saved form: the floor, the row for all entries, the number of tags, and for each tag, oldest first,
    /// the length of its name, the name and its row.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        self.floor.encode(bytes);
        self.everything.encode(bytes);
        leb128::push(bytes, self.all().count() as u64);
        for (tag, past) in self.all() {
            leb128::push(bytes, tag.len() as u64);
            bytes.extend_from_slice(tag);
            past.since(self.flushed_at).encode(bytes);
        }
    }

    /// Takes a saved history from the front of `bytes` and adds it to this one: the later of both holds. `None` if it
    /// is damaged; some of it is added then.
    pub(crate) fn load(&mut self, bytes: &mut &[u8]) -> Option<()> {
        let (floor, everything) = (Past::decode(bytes)?, Past::decode(bytes)?);
        for _ in 0..leb128::take(bytes)? {
            let len = leb128::take(bytes).filter(|len| (1..=MAX_TAG_BYTES).contains(len))?;
            let (tag, rest) = bytes.split_at_checked(len as usize)?;
            *bytes = rest;
            let past = Past::decode(bytes)?;
            // Merged before the floor that was saved with it, which does not belong to this tag.
            self.change(tag).merge(past);
            self.holds_end_ms = self.holds_end_ms.max(past.held_until_ms);
        }
        self.floor.merge(floor);
        self.everything.merge(everything);
        self.holds_end_ms = self.holds_end_ms.max(floor.held_until_ms);
        Some(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.by_tag.is_empty() && self.carried.by_tag.is_empty()
    }

    /// Bytes on the heap, about.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.rows.heap_bytes() + self.carried.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl History {
        pub(in crate::engine) fn len(&self) -> usize {
            self.all().count()
        }

        pub(in crate::engine) fn validate(&self) {
            for rows in [&self.rows, &self.carried] {
                assert_eq!(rows.names, rows.by_tag.keys().map(|tag| tag.len()).sum());
            }
            let mut carried = self.carried.by_tag.keys();
            assert!(!carried.any(|tag| self.rows.by_tag.contains_key(tag)));
        }
    }

    /// The history of a server that has loaded this one.
    fn loaded_from(history: &History) -> History {
        let mut saved = Vec::new();
        history.encode(&mut saved);
        let (mut loaded, mut rest) = (History::default(), &saved[..]);
        assert_eq!(loaded.load(&mut rest), Some(()));
        assert!(rest.is_empty());
        loaded
    }

    fn at(ms: u64) -> Moment {
        Moment {
            at_ms: ms,
            now_ms: ms,
            clock: ms,
        }
    }

    fn softened(since_ms: u64) -> Outcome {
        let ends_ms = 0;
        Outcome::Softened { since_ms, ends_ms }
    }

    fn up_to(tags: usize) -> Remembered {
        Remembered { tags, ..REMEMBERED }
    }

    fn outdated(history: &History, tag: &[u8], since_ms: u64) -> bool {
        history.of_arriving(std::iter::once(tag), since_ms) != Outcome::Untouched
    }

    #[test]
    fn an_entry_older_than_an_invalidation_arrives_outdated() {
        let mut history = History::default();
        history.record(b"t", at(10_000), Effect::Gone);
        assert!(outdated(&history, b"t", 9_999));
        assert!(outdated(&history, b"t", 10_000));
        assert!(!outdated(&history, b"t", 10_001));
        assert!(!outdated(&history, b"u", 1));
        history.record(b"s", at(20_000), Effect::Stale);
        assert!(outdated(&history, b"s", 5));
        assert!(!outdated(&history, b"s", 20_001));
        history.record_everything(at(30_000), Effect::Gone);
        assert!(outdated(&history, b"u", 29_999));
    }

    #[test]
    fn after_a_clock_set_back_new_writes_are_not_outdated() {
        let mut history = History::default();
        history.record(b"t", at(3_600_000), Effect::Gone);
        history.bound_stamps(1_000);
        assert!(!outdated(&history, b"t", 1_001));
        assert!(outdated(&history, b"t", 1_000));
        assert!(!outdated(&history, b"u", 1_000));
    }

    #[test]
    fn a_hold_limits_entries_of_its_tag_until_it_ends() {
        let mut history = History::default();
        let held = |history: &History, tags: &[&'static [u8]], now_ms| {
            history.held_until_ms(tags.iter().copied(), now_ms)
        };
        history.hold(b"a", 100);
        history.hold(b"b", 200);
        history.hold(b"b", 150);
        assert_eq!(held(&history, &[b"b"], 50), Some(200));
        assert_eq!(held(&history, &[b"x", b"b", b"a"], 50), Some(100));
        assert_eq!(held(&history, &[b"a", b"b"], 100), Some(100));
        assert_eq!(held(&history, &[b"a", b"b"], 101), Some(200));
        assert_eq!(held(&history, &[b"x"], 50), None);
        assert_eq!(held(&history, &[b"a", b"b"], 200), Some(200));
        assert_eq!(held(&history, &[b"a", b"b"], 201), None);
        // Half of a one-hour hold is left when the clock is set back.
        let hour = 3_600_000;
        history.hold(b"c", 2 * hour);
        history.bound_spans(hour + hour / 2, hour);
        assert_eq!(held(&history, &[b"c"], hour), Some(hour + hour / 2));
        let loaded = loaded_from(&history);
        assert_eq!(held(&loaded, &[b"c"], hour), Some(hour + hour / 2));
    }

    #[test]
    fn the_times_of_a_tag_exclude_those_of_other_tags() {
        let mut history = History::default();
        history.record(b"old", at(5), Effect::Gone);
        history.trim(up_to(0), usize::MAX, |_| false);
        history.record(b"a", at(7), Effect::Stale);
        assert_eq!(history.times(b"a", false), (0, 7));
        history.record(b"a", at(9), Effect::Gone);
        assert_eq!(history.times(b"a", false), (9, 7));
        assert_eq!(history.times(b"old", false), (0, 0));
        // Several invalidations in the same millisecond, of which some are folded.
        for tag in [b"x", b"y"] {
            history.record(tag, at(30), Effect::Gone);
        }
        history.trim(up_to(1), usize::MAX, |_| false);
        assert_eq!(history.times(b"y", false).0, 30);
        assert_eq!(history.times(b"x", false).0, 0);
    }

    #[test]
    fn an_entry_is_checked_against_tags_it_does_not_carry() {
        let mut history = History::default();
        history.record(b"hard", at(10), Effect::Gone);
        history.record(b"soft", at(20), Effect::Stale);
        history.record_everything(at(30), Effect::Gone);
        let outcome =
            |tags: &[&'static [u8]], since_ms| history.of_entry(tags.iter().copied(), since_ms);
        assert_eq!(outcome(&[b"hard", b"soft"], 10), Outcome::Dropped);
        assert_eq!(outcome(&[b"hard", b"soft"], 11), softened(20));
        assert_eq!(outcome(&[b"hard", b"soft"], 21), Outcome::Untouched);
        assert_eq!(outcome(&[b"other"], 1), Outcome::Untouched);
    }

    #[test]
    fn a_grace_limit_applies_to_tags_that_an_entry_does_not_carry() {
        let mut history = History::default();
        let outcome = |history: &History, since_ms| {
            let tags = [&b"t"[..], b"other"];
            history.of_entry(tags.into_iter(), since_ms)
        };
        let ends = |since_ms, ends_ms| Outcome::Softened { since_ms, ends_ms };
        history.record_condition(b"t", at(10), Effect::Stale, 100);
        assert_eq!(outcome(&history, 9), ends(10, 110));
        history.record(b"t", at(20), Effect::Stale);
        assert_eq!(outcome(&history, 9), ends(20, 110));
        history.record(b"t", at(130), Effect::Stale);
        assert_eq!(outcome(&history, 9), Outcome::Dropped, "over before");
        assert_eq!(outcome(&history, 21), softened(130));
        history.record_condition(b"t", at(140), Effect::Stale, u64::MAX);
        assert_eq!(outcome(&history, 21), softened(140));
    }

    #[test]
    fn a_grace_limit_counts_from_now_even_if_stamps_are_ahead() {
        let mut history = History::default();
        let moment = Moment {
            at_ms: 1_900,
            now_ms: 1_000,
            clock: 1,
        };
        history.record_condition(b"t", moment, Effect::Stale, 100);
        let outcome = history.of_entry(std::iter::once(&b"t"[..]), 1_500);
        let Outcome::Softened { ends_ms, .. } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(ends_ms, 1_100);
    }

    #[test]
    fn the_oldest_tags_are_folded_except_those_of_entries() {
        let mut history = History::default();
        for number in 1..=10_u64 {
            history.record(format!("{number}").as_bytes(), at(number), Effect::Gone);
        }
        history.record(b"1", at(11), Effect::Stale);
        for _ in 0..10 {
            history.trim(up_to(4), usize::MAX, |tag| tag == b"3");
        }
        history.validate();
        assert_eq!(history.len(), 5);
        for kept in [&b"3"[..], b"1", b"10", b"9", b"8"] {
            assert!(history.of_named(kept).is_some());
        }
        assert_eq!(history.of_named(b"7"), None);
        // The others are only known to be no later than the latest of them.
        for tag in [&b"2"[..], b"7", b"never seen"] {
            assert!(outdated(&history, tag, 7));
            assert!(!outdated(&history, tag, 8));
            assert!(history.is_invalidated_after([tag].into_iter(), 6));
            assert!(!history.is_invalidated_after([tag].into_iter(), 7));
        }
        assert!(!outdated(&history, b"3", 7));
    }

    #[test]
    fn tag_names_are_bounded_in_bytes_by_folding_old_tags() {
        let most = Remembered {
            bytes: 40,
            ..REMEMBERED
        };
        let mut history = History::default();
        for number in 10..30 {
            history.record(format!("{number}").as_bytes(), at(number), Effect::Gone);
            history.trim(most, usize::MAX, |_| false);
        }
        assert_eq!(history.len(), 20);
        history.record(&[b't'; 35], at(30), Effect::Gone);
        history.trim(most, usize::MAX, |_| false);
        history.validate();
        assert_eq!(history.len(), 3);
        // Rows of tags that entries carry stay, and the check of them ends.
        history.record(&[b'u'; 35], at(31), Effect::Gone);
        history.trim(most, 1_000, |_| true);
        assert_eq!(history.len(), 4);
    }

    #[test]
    fn tags_that_lost_their_entries_are_folded_in_small_steps() {
        const TAGS: u64 = 20_000;
        let mut history = History::default();
        let tag = |number| format!("tag{number:05}").into_bytes();
        for number in 0..TAGS {
            history.record(&tag(number), at(number + 1), Effect::Gone);
            history.trim(up_to(100), 4 * (8 + ROW_BYTES), |_| true);
        }
        let most = history.heap_bytes();
        assert_eq!(history.len() as u64, TAGS);
        let mut rounds = 0;
        while history.len() > 100 {
            let before = history.len();
            history.tidy(up_to(100), |_| false);
            assert!((1..3_000).contains(&(before - history.len())));
            rounds += 1;
        }
        assert!(rounds > 1 && history.heap_bytes() < most / 50);
        assert!(outdated(&history, &tag(0), 1));
        history.validate();
    }

    #[test]
    fn many_carried_tags_do_not_cause_the_latest_to_be_folded() {
        let mut history = History::default();
        let invalidations = |history: &History, tag: &[u8]| {
            let past = history.of_named(tag)?;
            Some(past.invalidations)
        };
        let is_carried = |tag: &[u8]| tag.starts_with(b"carried");
        for number in 1..=200_u64 {
            history.record(
                format!("carried{number}").as_bytes(),
                at(number),
                Effect::Gone,
            );
            history.trim(up_to(100), 96, is_carried);
        }
        for (number, tag) in (300..).zip([b"x", b"y"]) {
            history.record(tag, at(number), Effect::Gone);
            history.trim(up_to(100), 96, is_carried);
        }
        for _ in 0..10 {
            history.tidy(up_to(100), is_carried);
            history.validate();
        }
        assert!(history.of_named(b"x").is_some());
        assert!(!outdated(&history, b"never invalidated", 1));
        assert!(!history.is_invalidated_after([&b"never invalidated"[..]].into_iter(), 0));
        // A row that was set aside keeps its figures, and becomes one of the last again.
        assert_eq!(invalidations(&history, b"carried1"), Some(1));
        history.record(b"carried1", at(310), Effect::Stale);
        assert_eq!(invalidations(&history, b"carried1"), Some(2));
        assert_eq!(history.times(b"carried1", true), (1, 310));
        history.trim(up_to(2), usize::MAX, |_| false);
        history.validate();
        assert_eq!(invalidations(&history, b"x"), None);
        assert_eq!(invalidations(&history, b"carried1"), Some(2));
    }

    #[test]
    fn a_tag_named_twice_in_one_command_counts_once() {
        let mut history = History::default();
        let invalidations =
            |history: &History, tag: &[u8]| history.of_named(tag).map(|past| past.invalidations);
        for tag in [b"a", b"a", b"b"] {
            history.record(tag, at(1), Effect::Gone);
        }
        assert_eq!(invalidations(&history, b"a"), Some(1));
        // A tag that is named after other tags of the same command were folded.
        history.trim(up_to(0), usize::MAX, |_| false);
        history.record(b"c", at(1), Effect::Gone);
        assert_eq!(invalidations(&history, b"c"), Some(1));
        history.record(b"c", at(2), Effect::Gone);
        assert_eq!(invalidations(&history, b"c"), Some(2));
    }

    #[test]
    fn a_tag_is_known_if_invalidated_by_name_since_the_last_flush() {
        let mut history = History::default();
        history.record_condition(b"c", at(4), Effect::Gone, 0);
        history.record(b"a", at(5), Effect::Gone);
        let named = |history: &History| [b"a", b"c"].map(|tag| history.of_named(tag).is_some());
        assert_eq!(named(&history), [true, false]);
        history.forget_names(5);
        assert_eq!(named(&history), [false, false]);
        history.record(b"a", at(6), Effect::Gone);
        assert_eq!(named(&history), [true, false]);
        // Trimming forgets the names as well.
        history.trim(up_to(0), usize::MAX, |_| false);
        history.record_condition(b"a", at(7), Effect::Stale, 0);
        assert_eq!(named(&history), [false, false]);
        assert_eq!(history.times(b"a", false), (0, 7));
    }

    #[test]
    fn an_arrival_is_too_late_if_its_tags_were_invalidated() {
        let too_late =
            |outcome: Outcome| [false, true].map(|is_stale| outcome.is_too_late(is_stale));
        assert_eq!(too_late(Outcome::Untouched), [false, false]);
        assert_eq!(too_late(softened(1)), [true, false]);
        let (since_ms, ends_ms) = (1, 2);
        let limited = Outcome::Softened { since_ms, ends_ms };
        assert_eq!(too_late(limited), [true, true]);
        assert_eq!(too_late(Outcome::Dropped), [true, true]);
    }

    #[test]
    fn among_several_soft_tags_the_earliest_start_and_end_count() {
        let mut history = History::default();
        history.record_condition(b"a", at(10), Effect::Stale, 100);
        history.record_condition(b"b", at(20), Effect::Stale, 300);
        history.record(b"c", at(15), Effect::Stale);
        for tags in [[b"a", b"b", b"c"], [b"c", b"b", b"a"]] {
            let tags = tags.into_iter().map(|tag| &tag[..]);
            let outcome = history.of_entry(tags, 5);
            // Otherwise one more tag would bring back an entry that is over by the other.
            let (since_ms, ends_ms) = (10, 110);
            assert_eq!(outcome, Outcome::Softened { since_ms, ends_ms });
        }
    }

    #[test]
    fn the_latest_time_covers_flushes_tags_and_folded_tags() {
        let mut history = History::default();
        assert!(history.is_empty());
        assert_eq!(history.latest_ms(), 0);
        history.record_everything(at(3), Effect::Gone);
        assert_eq!(history.latest_ms(), 3);
        history.record(b"a", at(5), Effect::Stale);
        assert_eq!(history.latest_ms(), 5);
        assert!(!history.is_empty());
        history.trim(up_to(0), usize::MAX, |_| false);
        assert_eq!(history.latest_ms(), 5);
        assert!(history.is_empty());
    }

    #[test]
    fn a_past_round_trips_and_numbers_out_of_range_are_refused() {
        let past = Past {
            clock: u64::MAX,
            hard_ms: 2,
            soft_ms: 3,
            invalidations: u32::MAX.into(),
            named_ms: 5,
            held_until_ms: 6,
            soft_ends_ms: MAX_TIME_MS,
            softened_ms: 3,
        };
        let mut saved = Vec::new();
        past.encode(&mut saved);
        let mut rest = &saved[..];
        assert_eq!(Past::decode(&mut rest), Some(past));
        assert!(rest.is_empty());
        for len in 0..saved.len() {
            assert_eq!(Past::decode(&mut &saved[..len]), None);
        }
        let numbers = |numbers: [u64; 7]| {
            let mut bytes = Vec::new();
            for number in numbers {
                leb128::push(&mut bytes, number);
            }
            Past::decode(&mut &bytes[..])
        };
        let (count, time) = (u64::from(u32::MAX), (1 << 48) - 1);
        let most = [u64::MAX, time, time, count, time, time, time];
        assert!(numbers(most).is_some());
        for at in 1..7 {
            let mut beyond = most;
            beyond[at] += 1;
            assert_eq!(numbers(beyond), None, "{at}");
        }
    }

    #[test]
    fn a_saved_history_loads_unchanged() {
        let mut history = History::default();
        history.record(b"a", at(1), Effect::Gone);
        history.record(b"b", at(2), Effect::Stale);
        history.record_everything(at(3), Effect::Stale);
        history.record(b"c", at(4), Effect::Gone);
        history.trim(up_to(0), usize::MAX, |tag| tag == b"a");
        let loaded = loaded_from(&history);
        loaded.validate();
        let floor = history.floor;
        assert_eq!(loaded.of_named(b"a"), history.of_named(b"a"));
        assert_eq!((loaded.find(b"b"), loaded.find(b"c")), (&floor, &floor));
        assert_eq!(loaded.everything, history.everything);
    }

    #[test]
    fn truncated_bytes_and_impossible_tag_lengths_are_refused() {
        let mut history = History::default();
        history.record(b"tag", at(1), Effect::Gone);
        let mut saved = Vec::new();
        history.encode(&mut saved);
        for len in 0..saved.len() {
            assert_eq!(History::default().load(&mut &saved[..len]), None);
        }
        // The length of the name follows the floor, the row for all entries and the number of tags.
        let name_len = 7 + 7 + 1;
        for len in [0, 0x7f] {
            saved[name_len] = len;
            assert_eq!(History::default().load(&mut &saved[..]), None);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_or_load_a_valid_history(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut history = History::default();
            _ = history.load(&mut &bytes[..]);
            history.validate();
        }
    }
}
