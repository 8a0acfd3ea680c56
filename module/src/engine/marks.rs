//! Marks of single entries, in addition to the lists that contain them: sets of slots.
//!
//! # Invariants
//! 1. Every slot in a mark is in use, and leaves all marks with its entry.
//! 2. The soft marks are disjoint (an entry that is stale already stays stale since then) and sorted by time.
//! 3. No mark is empty, and there are at most [`MAX_SOFT`] soft ones.

use roaring::RoaringBitmap;

use super::slots::Slot;
use super::stamps::as_long_ago;
use crate::record::Softness;

/// Up to this many soft marks are kept apart; beyond that, neighbours are joined.
const MAX_SOFT: usize = 64;

/// Entries that were soft-invalidated at one time.
#[derive(Debug)]
struct Soft {
    softness: Softness,
    ids: RoaringBitmap,
    /// [`Marks::next_softened`] visits all entries in rounds: the start of the next round, and the position in this
    /// one.
    next_round_ms: u64,
    round_at: Option<u32>,
    /// The first end of a grace that this round has found in the future.
    soonest_ms: u64,
}

impl Soft {
    fn new(softness: Softness, ids: RoaringBitmap) -> Self {
        Self {
            softness,
            ids,
            next_round_ms: u64::MAX,
            round_at: None,
            soonest_ms: u64::MAX,
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.round_at.is_some() || self.next_round_ms <= now_ms
    }

    /// The next entry; `None` at the end of a round, when the time of the next one is set.
    fn next(&mut self, now_ms: u64) -> Option<Softened> {
        if self.round_at.is_none() {
            self.soonest_ms = u64::MAX;
        }
        let next = self.ids.range(self.round_at.unwrap_or(0)..).next();
        if let Some((id, behind)) = next.and_then(|id| Some((id, id.checked_add(1)?))) {
            self.round_at = Some(behind);
            return Some(Softened {
                slot: Slot(id),
                softness: self.softness,
                is_new: false,
            });
        }
        // Limits the rounds: while graces end one by one, rounds get rarer with age, up to a pause of some seconds.
        let age_ms = now_ms.saturating_sub(self.softness.since_ms);
        let pause_ms = (age_ms / 8).clamp(MIN_PAUSE_MS, MAX_PAUSE_MS);
        self.next_round_ms = self.soonest_ms.max(now_ms + pause_ms);
        self.round_at = None;
        None
    }
}

/// The least pause between two rounds over soft-invalidated entries, and the longest that is needed, ms.
const MIN_PAUSE_MS: u64 = 100;
const MAX_PAUSE_MS: u64 = 5_000;

/// An entry that is stale by a soft invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Softened {
    pub(crate) slot: Slot,
    pub(crate) softness: Softness,
    /// The entry was not named before.
    pub(crate) is_new: bool,
}

/// The marks of one database's entries.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Entries that have a grace.
    pub(super) graced: RoaringBitmap,
    /// Entries that were stamped by the clock of another node.
    pub(crate) foreign: RoaringBitmap,
    /// Entries that arrived, and that the primary, or the server that wrote the log, may have refused without having
    /// reported it yet.
    pub(crate) doubted: RoaringBitmap,
    soft: Vec<Soft>,
    /// All ids of `soft`, so that one lookup is enough for the many fresh entries.
    softened: RoaringBitmap,
    /// Ids that [`Marks::next_softened`] did not name yet.
    unnamed: RoaringBitmap,
}

impl Marks {
    /// Removes a slot from all marks: its entry leaves, or is replaced by another.
    pub(super) fn forget(&mut self, slot: Slot) {
        if self.is_empty() {
            return;
        }
        self.graced.remove(slot.0);
        self.foreign.remove(slot.0);
        self.doubted.remove(slot.0);
        if self.softened.remove(slot.0) {
            self.unnamed.remove(slot.0);
            self.forget_soft(slot);
        }
    }

    /// Whether no entry has a mark.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.graced.is_empty()
            && self.foreign.is_empty()
            && self.doubted.is_empty()
            && self.soft.is_empty()
    }

    fn forget_soft(&mut self, slot: Slot) {
        let mut softs = self.soft.iter_mut();
        let Some(at) = softs.position(|soft| soft.ids.remove(slot.0)) else {
            return;
        };
        if self.soft[at].ids.is_empty() {
            self.soft.remove(at);
        }
        if self.soft.is_empty() {
            self.clear_soft();
        }
    }

    /// Marks entries as stale. Entries that are stale already keep their time, and stay stale no longer than the new
    /// limit allows.
    pub(super) fn soften(&mut self, mut ids: RoaringBitmap, softness: Softness) {
        self.narrow(&ids, softness);
        ids -= &self.softened;
        self.softened |= &ids;
        self.add(ids, softness);
    }

    /// Applies a limit to those of these entries that are stale already.
    fn narrow(&mut self, ids: &RoaringBitmap, softness: Softness) {
        if softness.limit_ms == u64::MAX {
            return;
        }
        let mut narrowed = Vec::new();
        for soft in &mut self.soft {
            let less = soft.softness.narrowed_by(softness);
            let among = &soft.ids & ids;
            if less != soft.softness && !among.is_empty() {
                soft.ids -= &among;
                narrowed.push((among, less));
            }
        }
        self.soft.retain(|soft| !soft.ids.is_empty());
        for (among, less) in narrowed {
            self.add(among, less);
        }
    }

    fn add(&mut self, ids: RoaringBitmap, softness: Softness) {
        if ids.is_empty() {
            return;
        }
        self.unnamed |= &ids;
        let at = self.soft.partition_point(|soft| soft.softness < softness);
        match self.soft.get_mut(at) {
            Some(same) if same.softness == softness => same.ids |= ids,
            _ => self.soft.insert(at, Soft::new(softness, ids)),
        }
        if self.soft.len() > MAX_SOFT {
            self.join_two();
        }
    }

    /// Joins two neighbours, if possible with the same limit: those whose distance is the least in proportion to their
    /// age. The earlier time and the lower limit hold for both, so that nothing is served beyond its grace; the time is
    /// off by a few percent of the age.
    fn join_two(&mut self) {
        let newest = self.soft[self.soft.len() - 1].softness.since_ms;
        let distance = |pair: &[Soft]| {
            let (first, second) = (pair[0].softness, pair[1].softness);
            let age = newest - first.since_ms + 1;
            let far = u8::from(first.limit_ms != second.limit_ms);
            f64::from(far) + (second.since_ms - first.since_ms) as f64 / age as f64
        };
        let pairs = self.soft.windows(2).enumerate();
        let closest = pairs.min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
        let Some((at, _)) = closest else { return };
        let later = self.soft.remove(at + 1);
        let joined = &mut self.soft[at];
        joined.ids |= later.ids;
        joined.softness.limit_ms = joined.softness.limit_ms.min(later.softness.limit_ms);
        // Entries of the later mark end sooner now: a round finds when.
        joined.next_round_ms = 0;
        joined.round_at = None;
    }

    /// Removes all soft marks.
    pub(super) fn clear_soft(&mut self) {
        self.soft = Vec::new();
        self.softened = RoaringBitmap::new();
        self.unnamed = RoaringBitmap::new();
    }

    /// After this clock was set back from `from_ms`: each entry has been stale for as long as before.
    pub(super) fn bound(&mut self, from_ms: u64, now_ms: u64) {
        for Soft {
            ids, mut softness, ..
        } in std::mem::take(&mut self.soft)
        {
            softness.since_ms = as_long_ago(softness.since_ms, from_ms, now_ms);
            self.add(ids, softness);
        }
    }

    pub(crate) fn has_soft(&self) -> bool {
        !self.soft.is_empty()
    }

    /// The time since which an entry is stale by a soft invalidation, and its limit.
    #[inline(always)]
    pub(crate) fn softness(&self, slot: Slot) -> Option<Softness> {
        if self.soft.is_empty() {
            return None;
        }
        self.softness_among_some(slot)
    }

    fn softness_among_some(&self, slot: Slot) -> Option<Softness> {
        let mut softs = self.soft.iter();
        let is_stale = self.softened.contains(slot.0);
        let soft = softs.find(|soft| is_stale && soft.ids.contains(slot.0))?;
        Some(soft.softness)
    }

    /// Whether [`Marks::next_softened`] has something to name.
    pub(super) fn has_due(&self, now_ms: u64) -> bool {
        !self.unnamed.is_empty() || self.soft.iter().any(|soft| soft.is_due(now_ms))
    }

    /// The next entry to look at: each one soon after it became stale, and again about when the first grace of its mark
    /// is over, which the caller reports by [`Marks::ends`].
    pub(super) fn next_softened(&mut self, now_ms: u64) -> Option<Softened> {
        if let Some(slot) = self.unnamed.min().map(Slot) {
            self.unnamed.remove(slot.0);
            return self.softness(slot).map(|softness| Softened {
                slot,
                softness,
                is_new: true,
            });
        }
        let mut due = self.soft.iter_mut().filter(|soft| soft.is_due(now_ms));
        due.find_map(|soft| soft.next(now_ms))
    }

    /// Names all entries again soon: those whose grace was over may not have been removed.
    pub(super) fn look_again(&mut self) {
        for soft in &mut self.soft {
            soft.next_round_ms = 0;
        }
    }

    /// Notes when the grace of an entry that was named ends.
    pub(crate) fn ends(&mut self, softened: Softened, at_ms: u64) {
        let mut softs = self.soft.iter_mut();
        if let Some(soft) = softs.find(|soft| soft.softness == softened.softness) {
            soft.soonest_ms = soft.soonest_ms.min(at_ms);
            if softened.is_new {
                soft.next_round_ms = soft.next_round_ms.min(at_ms);
            }
        }
    }

    /// Bytes on the heap. O(slots / 65,536).
    pub(super) fn heap_bytes(&self) -> usize {
        let all = [
            &self.graced,
            &self.foreign,
            &self.doubted,
            &self.softened,
            &self.unnamed,
        ];
        let all = all
            .into_iter()
            .chain(self.soft.iter().map(|soft| &soft.ids));
        all.map(bytes_of).sum::<usize>() + self.soft.capacity() * size_of::<Soft>()
    }
}

/// Bytes that a bitmap takes on the heap.
pub(super) fn bytes_of(ids: &RoaringBitmap) -> usize {
    /// A container's entry in the bitmap's own array.
    const CONTAINER: usize = 32;
    /// A container with one bit for each of 65,536 ids. The crate's own figure is the number of bits.
    const BITS: usize = 8 << 10;
    let statistics = ids.statistics();
    // The crate counts four bytes for each id in an array, which takes two.
    let arrays = statistics.n_bytes_array_containers as usize / 2;
    statistics.n_containers as usize * CONTAINER
        + arrays
        + statistics.n_bitset_containers as usize * BITS
        + statistics.n_bytes_run_containers as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Marks {
        pub(in crate::engine) fn validate(&self, is_used: impl Fn(u32) -> bool) {
            let mut seen = RoaringBitmap::new();
            for soft in &self.soft {
                assert!(!soft.ids.is_empty(), "invariant 3");
                assert!(seen.is_disjoint(&soft.ids), "invariant 2");
                seen |= &soft.ids;
            }
            assert!(
                self.soft.is_sorted_by(|a, b| a.softness < b.softness),
                "invariant 2"
            );
            assert!(self.soft.len() <= MAX_SOFT, "invariant 3");
            assert_eq!(seen, self.softened);
            assert!(self.unnamed.is_subset(&seen));
            seen |= &self.graced;
            seen |= &self.foreign;
            seen |= &self.doubted;
            assert!(seen.iter().all(is_used), "invariant 1");
        }
    }

    fn ids(range: std::ops::Range<u32>) -> RoaringBitmap {
        range.collect()
    }

    #[test]
    fn an_entry_is_stale_since_its_first_soft_invalidation() {
        let mut marks = Marks::default();
        marks.soften(ids(0..10), Softness::since(100));
        marks.soften(ids(5..20), Softness::since(200));
        marks.soften(ids(20..30), Softness::since(50));
        let since = |marks: &Marks, id| marks.softness(Slot(id)).map(|soft| soft.since_ms);
        assert_eq!(
            [0, 9, 10, 25, 30].map(|id| since(&marks, id)),
            [Some(100), Some(100), Some(200), Some(50), None]
        );
        marks.forget(Slot(9));
        assert_eq!(since(&marks, 9), None);
        marks.validate(|id| id != 9);
    }

    #[test]
    fn each_softened_entry_is_visited_at_once_and_after_its_grace() {
        let mut marks = Marks::default();
        marks.soften(ids(0..3), Softness::since(100));
        let round = |marks: &mut Marks, now_ms: u64, grace_ms: u64| {
            let mut named = Vec::new();
            while let Some(softened) = marks.next_softened(now_ms) {
                let ends_ms = softened.softness.since_ms + grace_ms;
                if ends_ms > now_ms {
                    marks.ends(softened, ends_ms);
                }
                named.push((softened.slot.0, softened.is_new));
            }
            named
        };
        marks.forget(Slot(1));
        assert_eq!(round(&mut marks, 100, 5_000), [(0, true), (2, true)]);
        assert!(!marks.has_due(5_099) && marks.has_due(5_100));
        assert_eq!(round(&mut marks, 5_099, 5_000), []);
        // Some entries have a longer grace: there is another round for them.
        assert_eq!(round(&mut marks, 5_100, 6_000), [(0, false), (2, false)]);
        assert!(!marks.has_due(6_099) && marks.has_due(6_100));
        // An entry that becomes stale later is named once, and the others are not named again for it.
        marks.soften(ids(7..9), Softness::since(100));
        assert_eq!(round(&mut marks, 5_200, 5_050), [(7, true), (8, true)]);
    }

    #[test]
    fn joining_soft_marks_never_moves_their_time_forward() {
        let count = if cfg!(miri) { 60 } else { 1_000 };
        let mut marks = Marks::default();
        for at in 0..count {
            marks.soften(ids(at..at + 1), Softness::since(u64::from(at) * 1_000));
            validate_now_and_then(&mut marks, at);
        }
        for at in 0..count {
            let since = marks.softness(Slot(at)).expect("stale").since_ms;
            let (exact, newest) = (u64::from(at) * 1_000, u64::from(count - 1) * 1_000);
            assert!(since <= exact);
            assert!(
                exact - since <= (newest - since) / 8,
                "{since} for {exact} is off by too much"
            );
        }
    }

    #[test]
    fn a_limit_bounds_every_grace_and_is_never_widened() {
        let mut marks = Marks::default();
        let ends = |marks: &Marks, id, grace_ms| {
            let softness = marks.softness(Slot(id))?;
            Some(softness.since_ms_for(grace_ms) + grace_ms)
        };
        let limited = |since_ms, limit_ms| Softness { since_ms, limit_ms };
        marks.soften(ids(0..10), Softness::since(1_001_000));
        marks.soften(ids(5..15), limited(1_002_000, 500));
        marks.validate(|_| true);
        // Untouched; stale before and limited now; limited from the beginning.
        assert_eq!(ends(&marks, 4, 60_000), Some(1_061_000));
        assert_eq!(ends(&marks, 5, 60_000), Some(1_002_500));
        assert_eq!(ends(&marks, 5, 1_200), Some(1_002_200));
        assert_eq!(ends(&marks, 12, 60_000), Some(1_002_500));
        assert_eq!(ends(&marks, 12, 100), Some(1_002_100));
        marks.soften(ids(0..15), limited(1_002_100, 5_000));
        marks.validate(|_| true);
        assert_eq!(ends(&marks, 4, 60_000), Some(1_007_100));
        assert_eq!(ends(&marks, 12, 60_000), Some(1_002_500));
    }

    #[test]
    fn rounds_over_stale_entries_get_rarer_with_age() {
        let mut marks = Marks::default();
        marks.soften(ids(0..1), Softness::since(0));
        let named = marks.next_softened(16_000).expect("a new one");
        marks.ends(named, 16_100);
        assert!(!marks.has_due(16_099));
        let again = marks.next_softened(16_100).expect("its grace was to end");
        marks.ends(again, 16_150);
        assert_eq!(marks.next_softened(16_100), None);
        // The next round is an eighth of the age later, although the grace ends sooner.
        let next_ms = 16_100 + 16_100 / 8;
        assert!(!marks.has_due(next_ms - 1));
        assert!(marks.has_due(next_ms));
    }

    #[test]
    fn joining_preserves_limits_and_entries_not_yet_visited() {
        let mut marks = Marks::default();
        let limited = MAX_SOFT as u32 + 1;
        let limit_ms = 10;
        // Close to a mark without a limit, closer than any two others.
        let since_ms = 5_001;
        marks.soften(ids(limited..limited + 1), Softness { since_ms, limit_ms });
        for at in 0..limited {
            marks.soften(ids(at..at + 1), Softness::since(u64::from(at) * 1_000));
            validate_now_and_then(&mut marks, at);
        }
        for at in 0..=limited {
            let softness = marks.softness(Slot(at)).expect("stale");
            assert_eq!(softness.limit_ms == limit_ms, at == limited, "{at}");
        }
        let mut named: Vec<u32> = Vec::new();
        while let Some(softened) = marks.next_softened(100_000) {
            if softened.is_new {
                named.push(softened.slot.0);
            }
        }
        named.sort_unstable();
        assert!(named.into_iter().eq(0..=limited));

        // All marks have the same time.
        let mut marks = Marks::default();
        for at in 0..=limited {
            let limit_ms = u64::from(at) + 1;
            marks.soften(ids(at..at + 1), Softness { since_ms, limit_ms });
            validate_now_and_then(&mut marks, at);
        }
    }

    /// Validates after each step; under Miri, which is slow, after some.
    fn validate_now_and_then(marks: &mut Marks, step: u32) {
        if !cfg!(miri) || step.is_multiple_of(16) {
            marks.validate(|_| true);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of ids")]
    fn the_size_of_a_bitmap_depends_on_its_container_kinds() {
        let few = || 0..10;
        let dense = || (0..5_000).map(|id| (1 << 16) + 2 * id);
        let run = || (2 << 16)..(2 << 16) + 5_000;
        let mut all: RoaringBitmap = few().chain(dense()).chain(run()).collect();
        let (array, bits) = (bytes_of(&few().collect()), 32 + 8_192);
        assert_eq!(bytes_of(&RoaringBitmap::new()), 0);
        // An array may have room for more.
        assert!((32 + 10 * 2..=32 + 16 * 2).contains(&array), "{array}");
        assert_eq!(bytes_of(&dense().collect()), bits);
        assert_eq!(bytes_of(&all), array + 2 * bits);
        all.optimize();
        assert_eq!(bytes_of(&all), bits + 2 * (32 + 6), "two of one run each");
    }
}
