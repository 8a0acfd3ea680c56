//! When tags were last invalidated: for entries that arrive, for values loaded under a lease, and for the figures.
//!
//! An entry may reach this node after the invalidation that concerns it: by RESTORE, by a slot that migrates, by a
//! write under a lease that was granted before. So invalidations are remembered by tag, also of tags that no entry
//! carries. Up to [`REMEMBERED`] tags without entries are remembered one by one; the oldest beyond are folded into a
//! *floor*, which holds for every tag that is not remembered.
//!
//! Times are unix milliseconds of the node that executed the invalidation, and travel with replication.

use ahash::RandomState;
use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;

use super::index::Effect;

/// Up to this many tags without entries are remembered one by one.
pub(crate) const REMEMBERED: usize = 100_000;

/// How far the clocks of two nodes may differ, ms: an entry of another node that was written up to this long after an
/// invalidation counts as written before it.
pub(crate) const CLOCKS_DIFFER_MS: u64 = 1_000;

/// A stamp further ahead of the present than this comes from a clock that was set back, ms.
const AHEAD_MS: u64 = 1_000;

/// When an invalidation happens: the time, and the database's clock after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now_ms: u64,
    pub(crate) clock: u64,
}

/// The last invalidations of a tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// The database's clock after the last of them.
    pub(crate) clock: u64,
    /// The last hard and the last soft one, also by a condition, unix ms; 0: never.
    pub(crate) hard_ms: u64,
    pub(crate) soft_ms: u64,
    /// How often it was invalidated by its name, hard or soft, and when last, unix ms.
    pub(crate) invalidations: u32,
    pub(crate) named_ms: u64,
}

impl Past {
    fn record(&mut self, moment: Moment, effect: Effect) {
        self.clock = self.clock.max(moment.clock);
        let ms = match effect {
            Effect::Gone => &mut self.hard_ms,
            Effect::Stale => &mut self.soft_ms,
        };
        *ms = moment.now_ms.max(*ms);
    }

    /// The later of both in each figure.
    fn merge(&mut self, other: &Self) {
        self.clock = self.clock.max(other.clock);
        self.hard_ms = self.hard_ms.max(other.hard_ms);
        self.soft_ms = self.soft_ms.max(other.soft_ms);
        self.invalidations = self.invalidations.max(other.invalidations);
        self.named_ms = self.named_ms.max(other.named_ms);
    }

    fn bound(&mut self, now_ms: u64) {
        for ms in [&mut self.hard_ms, &mut self.soft_ms, &mut self.named_ms] {
            *ms = now_ms.min(*ms);
        }
    }
}

/// The stamp of an entry that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) at_ms: u64,
    /// By the clock of this node, in its present life: no allowance for clocks that differ.
    pub(crate) is_local: bool,
    /// It is stale by a soft invalidation.
    pub(crate) is_stale: bool,
}

/// Stamps for what is written and for invalidations, in the order in which they happen: what is written later than an
/// invalidation of the same millisecond has a later stamp, and no invalidation has an earlier one than what was written
/// before it.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    written_ms: u64,
    invalidated_ms: u64,
}

impl Stamps {
    /// For an entry that is written now.
    pub(crate) fn of_write(&mut self, now_ms: u64) -> u64 {
        if self.invalidated_ms < now_ms {
            return now_ms;
        }
        self.written_ms = self.invalidated_ms + 1;
        self.written_ms
    }

    /// For an invalidation that happens now.
    pub(crate) fn of_invalidation(&mut self, now_ms: u64) -> u64 {
        self.invalidated_ms = self.now_ms(now_ms);
        self.invalidated_ms
    }

    /// The present, as stamps show it.
    pub(crate) fn now_ms(&self, now_ms: u64) -> u64 {
        now_ms.max(self.written_ms).max(self.invalidated_ms)
    }

    /// Whether stamps are far ahead of the present: thousands a second were given out, or the clock was set back.
    pub(crate) fn are_ahead(&self, now_ms: u64) -> bool {
        self.now_ms(now_ms) > now_ms + AHEAD_MS
    }

    /// Goes on from the present.
    pub(crate) fn clock_was_set_back(&mut self, now_ms: u64) {
        (self.written_ms, self.invalidated_ms) = (now_ms, now_ms);
    }
}

/// The invalidations of one database.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// By the time of their last change, oldest first.
    rows: LinkedHashMap<Box<[u8]>, Past, RandomState>,
    names: usize,
    /// Holds for tags that are not remembered.
    floor: Past,
    /// Invalidations of entries whatever tags they carry.
    everything: Past,
    /// The clock after which tags are known by their names: when everything was flushed.
    flushed_at: u64,
    /// The clock was set back to the first time when it showed the second, so stamps in between may be of either pass,
    /// unix ms.
    passed_twice: Option<(u64, u64)>,
}

impl History {
    /// Records the invalidation of a tag by its name. O(1).
    pub(crate) fn record(&mut self, tag: &[u8], moment: Moment, effect: Effect) {
        let past = self.change(tag);
        if past.clock == moment.clock && past.invalidations > 0 {
            return; // The tag was given twice.
        }
        past.record(moment, effect);
        past.invalidations = past.invalidations.saturating_add(1);
        past.named_ms = moment.now_ms;
    }

    /// Records that entries of a tag were invalidated by a condition. O(1).
    pub(crate) fn record_condition(&mut self, tag: &[u8], moment: Moment, effect: Effect) {
        self.change(tag).record(moment, effect);
    }

    /// Records an invalidation that may concern every entry.
    pub(crate) fn record_everything(&mut self, moment: Moment, effect: Effect) {
        self.everything.record(moment, effect);
    }

    /// From here on no tag is known by its name: everything was flushed.
    pub(crate) fn forget_names(&mut self, clock: u64) {
        self.flushed_at = clock;
    }

    fn change(&mut self, tag: &[u8]) -> &mut Past {
        match self.rows.raw_entry_mut().from_key(tag) {
            RawEntryMut::Occupied(mut row) => {
                row.to_back();
                row.into_mut()
            }
            RawEntryMut::Vacant(place) => {
                self.names += tag.len();
                // What was folded may have been this tag's.
                place.insert(tag.into(), self.floor).1
            }
        }
    }

    /// The row of a tag, else the floor.
    fn find(&self, tag: &[u8]) -> &Past {
        self.rows.get(tag).unwrap_or(&self.floor)
    }

    /// What is known about a tag that was invalidated by its name, since everything was flushed.
    pub(crate) fn of_named(&self, tag: &[u8]) -> Option<&Past> {
        let past = self.rows.get(tag)?;
        (past.invalidations > 0 && past.clock > self.flushed_at).then_some(past)
    }

    /// Whether entries with this tag may have been invalidated, hard or soft, at a later clock than this.
    pub(crate) fn is_invalidated_after(&self, tag: &[u8], clock: u64) -> bool {
        self.find(tag).clock > clock
    }

    /// The same for every entry, whatever tags it carries.
    pub(crate) fn is_everything_invalidated_after(&self, clock: u64) -> bool {
        self.everything.clock > clock
    }

    /// Whether an entry with these tags that arrives now was invalidated here after it was written: then it is gone.
    ///
    /// A soft invalidation counts too, unless the entry is stale already; it is not worth a second way to tell replicas.
    /// A stamp from the future says nothing about when the entry was written, so any remembered invalidation counts.
    /// O(tags).
    pub(crate) fn outdates<'t>(
        &self,
        tags: impl Iterator<Item = &'t [u8]>,
        written: Written,
        now_ms: u64,
    ) -> bool {
        let allowance = if written.is_local {
            0
        } else {
            CLOCKS_DIFFER_MS
        };
        let mut since_ms = if written.at_ms > now_ms + AHEAD_MS {
            0
        } else {
            written.at_ms.saturating_sub(allowance)
        };
        if let Some((back_to_ms, from_ms)) = self.passed_twice
            && (back_to_ms..=from_ms).contains(&written.at_ms)
            && !written.is_local
        {
            since_ms = since_ms.min(back_to_ms);
        }
        let mut latest = self.everything;
        for tag in tags {
            latest.merge(self.find(tag));
        }
        let is_later = |ms: u64| ms > 0 && ms >= since_ms;
        is_later(latest.hard_ms) || (is_later(latest.soft_ms) && !written.is_stale)
    }

    /// Bounds all stamps by the present. O(tags remembered), after the clock was set back from a time.
    pub(crate) fn clock_was_set_back(&mut self, from_ms: u64, now_ms: u64) {
        let (earliest, latest) = self.passed_twice.unwrap_or((now_ms, from_ms));
        self.passed_twice = Some((earliest.min(now_ms), latest.max(from_ms)));
        self.rows.values_mut().for_each(|past| past.bound(now_ms));
        self.floor.bound(now_ms);
        self.everything.bound(now_ms);
    }

    /// Folds the oldest row into the floor while there are more than `limit`. Tags that entries carry stay. Amortised
    /// O(1) after each tag that was recorded.
    pub(crate) fn trim(&mut self, limit: usize, is_carried: impl Fn(&[u8]) -> bool) {
        const STEPS: usize = 4;
        for _ in 0..STEPS {
            if self.rows.len() <= limit {
                return;
            }
            let Some((tag, past)) = self.rows.pop_front() else {
                return;
            };
            if is_carried(&tag) {
                self.rows.insert(tag, past);
            } else {
                self.names -= tag.len();
                self.floor.merge(&Past {
                    invalidations: 0,
                    named_ms: 0,
                    ..past
                });
            }
        }
    }

    // ---- saving and loading ----

    /// What is saved: the floor, what concerns everything, and each tag's row, oldest first.
    pub(crate) fn saved(&self) -> (Past, Past, impl ExactSizeIterator<Item = (&[u8], &Past)>) {
        let rows = self.rows.iter();
        (
            self.floor,
            self.everything,
            rows.map(|(tag, past)| (&**tag, past)),
        )
    }

    /// Adds what was saved. The later of both holds where there is something already.
    pub(crate) fn load_floors(&mut self, floor: &Past, everything: &Past) {
        self.floor.merge(floor);
        self.everything.merge(everything);
    }

    /// Adds the saved row of a tag: before the floor that was saved with it, which is not this tag's.
    pub(crate) fn load(&mut self, tag: &[u8], past: &Past) {
        self.change(tag).merge(past);
    }

    /// Bytes on the heap, about.
    pub(crate) fn heap_bytes(&self) -> usize {
        const NODE: usize = size_of::<(Box<[u8]>, Past)>() + 2 * size_of::<usize>();
        self.names + self.rows.len() * NODE + self.rows.capacity() * (size_of::<usize>() + 1)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    #[cfg(test)]
    pub(crate) fn validate(&self) {
        assert_eq!(self.names, self.rows.keys().map(|tag| tag.len()).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment {
            now_ms: ms,
            clock: ms,
        }
    }

    fn outdated(history: &History, tag: &[u8], at_ms: u64, is_local: bool, now_ms: u64) -> bool {
        let written = Written {
            at_ms,
            is_local,
            is_stale: false,
        };
        history.outdates(std::iter::once(tag), written, now_ms)
    }

    #[test]
    fn an_entry_written_before_an_invalidation_is_gone_however_late_it_arrives() {
        let mut history = History::default();
        history.record(b"t", at(10_000), Effect::Gone);
        let hour = 3_600_000;
        for now in [11_000, 15_001, 10 * hour] {
            assert!(outdated(&history, b"t", 9_999, true, now));
            assert!(!outdated(&history, b"t", 10_001, true, now));
            // The clocks of other nodes may differ.
            assert!(outdated(&history, b"t", 11_000, false, now));
            assert!(!outdated(&history, b"t", 11_001, false, now));
            assert!(!outdated(&history, b"u", 1, false, now));
        }
        history.record(b"s", at(20_000), Effect::Stale);
        assert!(outdated(&history, b"s", 5, true, 20_001));
        assert!(!outdated(&history, b"s", 20_001, true, 20_001));
        history.record_everything(at(30_000), Effect::Gone);
        assert!(outdated(&history, b"u", 29_999, true, 40_000));
    }

    #[test]
    fn an_entry_from_the_future_says_nothing_of_its_age() {
        let mut history = History::default();
        history.record(b"t", at(10_000), Effect::Gone);
        assert!(outdated(&history, b"t", 3_600_000, false, 20_000));
        assert!(!outdated(&history, b"u", 3_600_000, false, 20_000));
    }

    #[test]
    fn a_clock_set_back_does_not_refuse_what_is_written_afterwards() {
        let (mut history, mut stamps) = (History::default(), Stamps::default());
        history.record(b"t", at(stamps.of_invalidation(3_600_000)), Effect::Gone);
        assert!(stamps.are_ahead(1_000));
        history.clock_was_set_back(3_600_000, 1_000);
        stamps.clock_was_set_back(1_000);
        let written = stamps.of_write(1_000);
        assert_eq!(written, 1_001);
        assert!(!outdated(&history, b"t", written, true, 1_002));
        assert!(outdated(&history, b"t", 999, true, 1_002));
        // What was written before the invalidation, by the clock as it was, stays gone when that time comes again.
        for now in [1_002, 3_600_001, 7_200_000] {
            assert!(outdated(&history, b"t", 3_599_000, false, now));
            assert!(!outdated(&history, b"u", 3_599_000, false, now));
        }
        assert!(!outdated(&history, b"t", 3_700_000, false, 3_700_000));
        history.validate();
    }

    #[test]
    fn stamps_follow_the_order_of_events_within_a_millisecond() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.of_write(5), 5);
        assert_eq!(stamps.of_invalidation(5), 5);
        assert_eq!(stamps.of_write(5), 6);
        assert_eq!(stamps.of_invalidation(5), 6);
        assert_eq!(stamps.of_write(5), 7);
        assert_eq!((stamps.now_ms(5), stamps.now_ms(9)), (7, 9));
        assert_eq!(stamps.of_write(9), 9);
        assert_eq!(stamps.of_invalidation(8), 8);
    }

    #[test]
    fn the_oldest_tags_are_folded_and_those_that_entries_carry_stay() {
        let mut history = History::default();
        for number in 1..=10_u64 {
            history.record(format!("{number}").as_bytes(), at(number), Effect::Gone);
        }
        history.record(b"1", at(11), Effect::Stale);
        for _ in 0..10 {
            history.trim(4, |tag| tag == b"3");
        }
        history.validate();
        assert_eq!(history.len(), 4);
        for kept in [&b"3"[..], b"1", b"10", b"9"] {
            assert!(history.of_named(kept).is_some());
        }
        assert_eq!(history.of_named(b"8"), None);
        // Of the others it is only known that it was no later than the latest of them.
        for tag in [&b"2"[..], b"8", b"never seen"] {
            assert!(outdated(&history, tag, 8, true, 100));
            assert!(!outdated(&history, tag, 9, true, 100));
            assert!(history.is_invalidated_after(tag, 7));
            assert!(!history.is_invalidated_after(tag, 8));
        }
        assert!(!outdated(&history, b"3", 8, true, 100));
    }

    #[test]
    fn what_is_saved_is_loaded_again() {
        let mut history = History::default();
        history.record(b"a", at(1), Effect::Gone);
        history.record(b"b", at(2), Effect::Stale);
        history.record_everything(at(3), Effect::Stale);
        history.record(b"c", at(4), Effect::Gone);
        history.trim(1, |tag| tag != b"c" && tag != b"b");
        let mut loaded = History::default();
        let (floor, everything, rows) = history.saved();
        for (tag, past) in rows {
            loaded.load(tag, past);
        }
        loaded.load_floors(&floor, &everything);
        loaded.validate();
        assert_eq!(loaded.of_named(b"a"), history.of_named(b"a"));
        assert_eq!((loaded.find(b"b"), loaded.find(b"c")), (&floor, &floor));
        assert_eq!(loaded.everything, history.everything);
    }
}
