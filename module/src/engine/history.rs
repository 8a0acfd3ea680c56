//! When tags were last invalidated: for entries that arrive, for values loaded under a lease, and for the figures.
//!
//! Why they are remembered is in `DESIGN.md` (Entries that arrive). Tags that entries carry are remembered one by one, others
//! within [`REMEMBERED`]; the oldest beyond are folded into a *floor*, which holds for every tag that is not remembered.
//!
//! Times are unix milliseconds of the node that executed the invalidation, and travel with replication.

use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;

use super::index::Effect;
use super::seeds::Seeded;
use crate::leb128;
use crate::record::{MAX_TAG_BYTES, MAX_TIME_MS};

/// How many tags are remembered one by one, except those that entries carry, and how long their names are together. A
/// command may name tags that are longer than those of entries, and they cannot be evicted.
pub(crate) const REMEMBERED: Remembered = Remembered {
    tags: 100_000,
    bytes: 32 << 20,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered {
    pub(crate) tags: usize,
    pub(crate) bytes: usize,
}

/// What a look at a row costs beside its name, in bytes of names.
pub(crate) const ROW_BYTES: usize = 16;

/// How far the clocks of two nodes may differ, ms: an entry of another node that was written up to this long after an
/// invalidation counts as written before it.
pub(crate) const CLOCKS_DIFFER_MS: u64 = 1_000;

/// Stamps run ahead of the present by no more than this, ms: one further ahead comes from a clock that was set back.
const AHEAD_MS: u64 = 1_000;

/// The most that the clocks of two nodes may differ for their stamps to make one order, ms.
pub(crate) const FURTHEST_MS: u64 = 60_000;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Its stamp, which may be somewhat ahead of the present.
    pub(crate) at_ms: u64,
    /// The present: what lasts for a time begins with it.
    pub(crate) now_ms: u64,
    /// The database's clock after it.
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
    pub(crate) invalidations: u64,
    pub(crate) named_ms: u64,
    /// What is stored with it may live until then, unix ms; 0: as long as it likes.
    pub(crate) held_until_ms: u64,
    /// What soft invalidations made stale is gone then, whatever its grace, unix ms; 0: no limit.
    pub(crate) soft_ends_ms: u64,
    /// The last soft one by this node's own clock, from which a grace counts, unix ms. Not saved: `soft_ms` takes its place.
    softened_ms: u64,
}

impl Past {
    /// Its figures in the order in which they are saved, and what each is at most.
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

    /// Appends it as it is saved, LEB128.
    fn encode(mut self, bytes: &mut Vec<u8>) {
        for (number, _) in self.saved() {
            leb128::push(bytes, *number);
        }
    }

    /// Takes what was saved from the front of `bytes`; `None` if it is none.
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
                    // What that one made stale is gone by now, and must not be stale again.
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

    /// The same after everything was flushed at that clock: no longer known by its name, unless invalidated since.
    const fn since(mut self, flushed_at: u64) -> Self {
        if self.clock <= flushed_at {
            self.invalidations = 0;
        }
        self
    }

    /// The later of both in each figure.
    fn merge(&mut self, mut other: Self) {
        other.soft_ends_ms = earlier(self.soft_ends_ms, other.soft_ends_ms);
        self.soft_ends_ms = 0;
        for ((own, _), (other, _)) in self.saved().into_iter().zip(other.saved()) {
            *own = (*own).max(*other);
        }
        self.softened_ms = self.softened_ms.max(other.softened_ms);
    }

    /// Bounds its stamps by an earlier time: the clock that gave them was set back to it.
    fn bound_stamps(&mut self, back_to_ms: u64) {
        for ms in [&mut self.hard_ms, &mut self.soft_ms, &mut self.named_ms] {
            *ms = back_to_ms.min(*ms);
        }
    }

    /// Bounds what lasts for a time by the present, after this node's clock was set back from a time: a hold, a limit, and a
    /// grace keep what was left of them.
    fn bound_spans(&mut self, from_ms: u64, now_ms: u64) {
        self.softened_ms = as_long_ago(self.softened_ms, from_ms, now_ms);
        for ends_ms in [&mut self.held_until_ms, &mut self.soft_ends_ms] {
            let left_ms = ends_ms.saturating_sub(from_ms);
            *ends_ms = now_ms.saturating_add(left_ms).min(*ends_ms);
        }
    }
}

/// What is now as long ago as a time was before the clock was set back: what ended stays over.
pub(super) const fn as_long_ago(at_ms: u64, from_ms: u64, now_ms: u64) -> u64 {
    now_ms.saturating_sub(from_ms.saturating_sub(at_ms))
}

/// The earlier of two times, of which 0 is none.
fn earlier(one_ms: u64, other_ms: u64) -> u64 {
    match (one_ms, other_ms) {
        (0, ms) | (ms, 0) => ms,
        (one_ms, other_ms) => one_ms.min(other_ms),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) at_ms: u64,
    /// By the clock of another node, which may differ, or this one's from before it was set back; not by this node's, or that
    /// of a primary that it followed, since it was set back last.
    pub(crate) is_foreign: bool,
}

/// What is kept of the stamp of what arrives from another clock: nothing of one from the future, which says nothing of when
/// something was written, and would seem later than the invalidations until then.
pub(crate) const fn kept_stamp_ms(at_ms: u64, now_ms: u64) -> u64 {
    if at_ms > now_ms + AHEAD_MS { 0 } else { at_ms }
}

/// What the invalidations of some tags mean for an entry that was written before or after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Untouched,
    /// Stale since then, and gone at that end, unix ms; 0: at the end of its grace.
    Softened {
        since_ms: u64,
        ends_ms: u64,
    },
    Dropped,
}

impl Verdict {
    /// The same after the soft invalidation of another tag.
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

    /// Whether an entry that arrives comes too late. A soft invalidation counts too, unless the entry is stale already and
    /// may be so for its own grace: all else is not worth a second way to tell replicas.
    pub(crate) const fn is_too_late(self, is_stale: bool) -> bool {
        match self {
            Self::Untouched => false,
            Self::Softened { ends_ms, .. } => !is_stale || ends_ms > 0,
            Self::Dropped => true,
        }
    }
}

/// Stamps for what is written and for invalidations, in the order in which they happen: what is written later than an
/// invalidation of the same millisecond has a later stamp, and no invalidation has an earlier one than what was written
/// before it.
///
/// So stamps run ahead of the present where writes and invalidations alternate more than once in a millisecond: up to a
/// bound, where what is written has the stamp of the invalidation before it, and counts as written before.
///
/// They are also ahead where the clock was set back by too little to be noticed: until it shows that time again, or until
/// such steps add up to more than that bound, which [`Stamps::lag_ms`] tells.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// The latest time that was given to anything, or was the present when something arrived, unix ms, as the others.
    latest: u64,
    invalidated: u64,
    /// The latest one of this node's primary, or of an earlier life, that they go on after.
    followed: u64,
}

impl Stamps {
    /// For an entry that is written now.
    pub(crate) fn of_write(&mut self, now_ms: u64) -> u64 {
        let mut written = now_ms;
        if self.invalidated >= now_ms {
            written = (self.invalidated + 1).min(self.most_ms(now_ms).max(self.invalidated));
        }
        self.latest = self.latest.max(written);
        written
    }

    /// For an invalidation that happens now.
    pub(crate) fn of_invalidation(&mut self, now_ms: u64) -> u64 {
        self.invalidated = self.now_ms(now_ms);
        self.invalidated
    }

    /// The present, as stamps show it.
    pub(crate) fn now_ms(&mut self, now_ms: u64) -> u64 {
        self.latest = self.latest.max(now_ms);
        self.latest
    }

    /// Whether stamps are far ahead of the present: another node's clock is, or the clock was set back.
    pub(crate) const fn are_ahead(&self, now_ms: u64) -> bool {
        self.latest > now_ms + AHEAD_MS
    }

    /// How far the clock was set back if stamps are further ahead than they run by themselves, ms; 0: they are not.
    pub(crate) fn lag_ms(&self, now_ms: u64) -> u64 {
        if self.latest > self.most_ms(now_ms) {
            self.latest - now_ms
        } else {
            0
        }
    }

    /// Where stamps are at most, unless the clock was set back.
    fn most_ms(&self, now_ms: u64) -> u64 {
        now_ms.max(self.followed) + AHEAD_MS
    }

    /// Goes on after a stamp that this node's primary gave, or this node itself in an earlier life, whatever the clock shows.
    pub(crate) fn follow(&mut self, at_ms: u64) {
        for ms in [&mut self.latest, &mut self.invalidated, &mut self.followed] {
            *ms = at_ms.max(*ms);
        }
    }

    /// The same for a stamp of a node that is no primary of this one: what its clock may be ahead says nothing.
    pub(crate) fn follow_foreign(&mut self, at_ms: u64) {
        self.follow(at_ms.saturating_sub(CLOCKS_DIFFER_MS));
    }

    /// From here on another node gives stamps, after all that this one gave.
    pub(crate) fn follow_another(&mut self) {
        self.follow(self.latest);
    }

    /// How far this stamp lies behind the latest one that was followed, ms.
    pub(crate) const fn behind_ms(&self, at_ms: u64) -> u64 {
        self.followed.saturating_sub(at_ms)
    }

    /// Goes on from the present.
    pub(crate) fn clock_was_set_back(&mut self, now_ms: u64) {
        (self.latest, self.invalidated, self.followed) = (now_ms, now_ms, now_ms);
    }
}

/// What is remembered of tags, in the order in which they were put in, and how long their names are together.
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
    /// By the time of their last change, oldest first: the last ones, whether entries carry them or not.
    rows: Rows,
    /// Tags that entries carried when they were looked at last. All were changed before those in `rows`: so what is folded is
    /// older than what is not, however many tags are carried.
    carried: Rows,
    /// Holds for tags that are not remembered.
    floor: Past,
    /// Invalidations of entries whatever tags they carry.
    everything: Past,
    /// The clock after which tags are known by their names: when everything was flushed.
    flushed_at: u64,
    /// When the last hold of a tag ends, unix ms.
    holds_end_ms: u64,
    /// The clock was set back to the first time when it showed the second, so stamps in between may be of either pass,
    /// unix ms.
    pub(crate) passed_twice: Option<(u64, u64)>,
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

    /// Records that entries of a tag were invalidated by a condition, those that are stale for so long at most. O(1).
    pub(crate) fn record_condition(
        &mut self,
        tag: &[u8],
        moment: Moment,
        effect: Effect,
        limit_ms: u64,
    ) {
        let ends_ms = moment.now_ms.saturating_add(limit_ms);
        // As far away as that is never; what is saved has no room for more.
        let ends_ms = if ends_ms > MAX_TIME_MS { 0 } else { ends_ms };
        self.change(tag).record(moment, effect, ends_ms);
    }

    pub(crate) fn record_everything(&mut self, moment: Moment, effect: Effect) {
        self.everything.record(moment, effect, 0);
    }

    /// What is stored with this tag lives until then at most, unix ms. Never shortens a hold. O(1).
    pub(crate) fn hold(&mut self, tag: &[u8], until_ms: u64) {
        let past = self.change(tag);
        past.held_until_ms = past.held_until_ms.max(until_ms);
        self.holds_end_ms = self.holds_end_ms.max(until_ms);
    }

    /// Until when an entry that is stored now with these tags may live, unix ms. O(tags) while some tag is held.
    #[inline]
    pub(crate) fn held_until_ms<'t>(
        &self,
        tags: impl Iterator<Item = &'t [u8]>,
        now_ms: u64,
    ) -> Option<u64> {
        // The last millisecond counts, as it does for what expires then: what was stored before is still there.
        if self.holds_end_ms < now_ms {
            return None;
        }
        let ends = tags.map(|tag| self.find(tag).held_until_ms);
        ends.filter(|&ms| ms >= now_ms).min()
    }

    /// When a tag was last invalidated, hard and soft, unix ms; 0: not in the time that is remembered of it.
    pub(crate) fn times(&self, tag: &[u8], is_carried: bool) -> (u64, u64) {
        let Some(past) = self.row(tag) else {
            return (0, 0);
        };
        // A row begins with the floor, whose times are those of other tags, perhaps of the same millisecond.
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
                // What was folded may have been this tag's.
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

    /// What is known about a tag that was invalidated by its name, since everything was flushed.
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

    /// What the remembered invalidations mean for an entry with these tags that arrives now. O(tags).
    pub(crate) fn of_arriving<'t>(
        &self,
        tags: impl Iterator<Item = &'t [u8]>,
        written: Written,
        now_ms: u64,
    ) -> Verdict {
        self.judge(self.everything, tags, written, now_ms)
    }

    /// The same for an entry of this database, as though it carried these tags: what concerned all entries concerned it
    /// when it happened. O(tags).
    pub(crate) fn of_entry<'t>(
        &self,
        tags: impl Iterator<Item = &'t [u8]>,
        written: Written,
        now_ms: u64,
    ) -> Verdict {
        self.judge(Past::default(), tags, written, now_ms)
    }

    fn judge<'t>(
        &self,
        everything: Past,
        tags: impl Iterator<Item = &'t [u8]>,
        written: Written,
        now_ms: u64,
    ) -> Verdict {
        let written_ms = self.written_since_ms(written, now_ms);
        let is_later = |ms: u64| ms > 0 && ms >= written_ms;
        let mut verdict = Verdict::Untouched;
        for past in tags.map(|tag| self.find(tag)).chain([&everything]) {
            if is_later(past.hard_ms) {
                return Verdict::Dropped;
            }
            if is_later(past.soft_ms) {
                verdict = verdict.softened(past);
            }
        }
        verdict
    }

    /// The earliest time at which an entry may have been written.
    fn written_since_ms(&self, written: Written, now_ms: u64) -> u64 {
        let at_ms = kept_stamp_ms(written.at_ms, now_ms);
        if !written.is_foreign {
            return at_ms;
        }
        let since_ms = at_ms.saturating_sub(CLOCKS_DIFFER_MS);
        since_ms.min(self.saved_stamp_ms(at_ms))
    }

    /// What is saved as the time of a write by another clock: where that is ambiguous, the earliest that it may have been.
    pub(crate) fn saved_stamp_ms(&self, at_ms: u64) -> u64 {
        match self.passed_twice {
            Some((back_to_ms, from_ms)) if (back_to_ms..=from_ms).contains(&at_ms) => back_to_ms,
            _ => at_ms,
        }
    }

    /// The latest invalidation that is remembered, unix ms. O(tags remembered).
    pub(crate) fn latest_ms(&self) -> u64 {
        let rows = self.all().map(|(_, past)| past);
        let all = rows.chain([&self.floor, &self.everything]);
        let latest = all.map(|past| past.hard_ms.max(past.soft_ms)).max();
        latest.unwrap_or(0)
    }

    /// The clock that gives the stamps was set back: bounds them. Stamps between these times, unix ms, may come from either
    /// pass. O(tags remembered).
    pub(crate) fn stamps_were_set_back(&mut self, from_ms: u64, back_to_ms: u64) {
        // The other clock by which that time is known is not exact, and nothing is lost by a little more.
        let from_ms = from_ms + AHEAD_MS;
        self.pass_twice(back_to_ms, from_ms);
        self.all_mut()
            .for_each(|past| past.bound_stamps(back_to_ms));
    }

    pub(crate) fn pass_twice(&mut self, back_to_ms: u64, from_ms: u64) {
        let (earliest, latest) = self.passed_twice.unwrap_or((back_to_ms, from_ms));
        self.passed_twice = Some((earliest.min(back_to_ms), latest.max(from_ms)));
    }

    /// This node's own clock was set back: bounds what lasts for a time. O(tags remembered).
    pub(crate) fn bound_spans(&mut self, from_ms: u64, now_ms: u64) {
        self.all_mut()
            .for_each(|past| past.bound_spans(from_ms, now_ms));
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Past> {
        let (carried, rows) = (&mut self.carried.by_tag, &mut self.rows.by_tag);
        let rows = carried.values_mut().chain(rows.values_mut());
        rows.chain([&mut self.floor, &mut self.everything])
    }

    /// Folds the oldest rows into the floor while there are more than `most`. Tags that entries carry stay, beside these.
    /// O(`bytes`): so many of names and rows are looked at.
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

    /// Folds some of what entries carried when it was looked at last, and do not any more, and gives its memory back: to be
    /// called now and then.
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
            // Where all are still carried, that is found out for ever.
            left = left.saturating_sub(if is_folded { looked_at } else { 4 * looked_at });
        }
        if self.carried.by_tag.len() < before {
            // They keep what was taken out, to be used again.
            self.carried.by_tag.shrink_to_fit();
            self.rows.by_tag.shrink_to_fit();
        }
    }

    // ---- saving and loading ----

    /// Appends what is saved: what holds for tags that are not remembered, what concerned all entries, the number of tags,
    /// and for each, oldest first, the length of its name, the name and its past.
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

    /// Takes what was saved from the front of `bytes` and adds it: the later of both holds where there is something already.
    /// `None` if it is damaged, and then some of it is added.
    pub(crate) fn load(&mut self, bytes: &mut &[u8]) -> Option<()> {
        let (floor, everything) = (Past::decode(bytes)?, Past::decode(bytes)?);
        for _ in 0..leb128::take(bytes)? {
            let len = leb128::take(bytes).filter(|len| (1..=MAX_TAG_BYTES).contains(len))?;
            let (tag, rest) = bytes.split_at_checked(len as usize)?;
            *bytes = rest;
            let past = Past::decode(bytes)?;
            // Before the floor that was saved with it, which is not this tag's.
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

    fn softened(since_ms: u64) -> Verdict {
        let ends_ms = 0;
        Verdict::Softened { since_ms, ends_ms }
    }

    fn up_to(tags: usize) -> Remembered {
        Remembered { tags, ..REMEMBERED }
    }

    fn outdated(history: &History, tag: &[u8], at_ms: u64, is_own: bool, now_ms: u64) -> bool {
        let is_foreign = !is_own;
        let written = Written { at_ms, is_foreign };
        history.of_arriving(std::iter::once(tag), written, now_ms) != Verdict::Untouched
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
        history.stamps_were_set_back(3_600_000, 1_000);
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
    fn a_hold_bounds_what_is_stored_until_it_ends() {
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
        // Of a hold of an hour, half is left when the clock is set back.
        let hour = 3_600_000;
        history.hold(b"c", 2 * hour);
        history.bound_spans(hour + hour / 2, hour);
        assert_eq!(held(&history, &[b"c"], hour), Some(hour + hour / 2));
        let loaded = loaded_from(&history);
        assert_eq!(held(&loaded, &[b"c"], hour), Some(hour + hour / 2));
    }

    #[test]
    fn the_times_of_a_tag_are_its_own() {
        let mut history = History::default();
        history.record(b"old", at(5), Effect::Gone);
        history.trim(up_to(0), usize::MAX, |_| false);
        history.record(b"a", at(7), Effect::Stale);
        assert_eq!(history.times(b"a", false), (0, 7));
        history.record(b"a", at(9), Effect::Gone);
        assert_eq!(history.times(b"a", false), (9, 7));
        assert_eq!(history.times(b"old", false), (0, 0));
        // Several in the same millisecond, of which some are folded.
        for tag in [b"x", b"y"] {
            history.record(tag, at(30), Effect::Gone);
        }
        history.trim(up_to(1), usize::MAX, |_| false);
        assert_eq!(history.times(b"y", false).0, 30);
        assert_eq!(history.times(b"x", false).0, 0);
    }

    #[test]
    fn an_entry_is_judged_by_tags_that_it_does_not_carry() {
        let mut history = History::default();
        history.record(b"hard", at(10), Effect::Gone);
        history.record(b"soft", at(20), Effect::Stale);
        history.record_everything(at(30), Effect::Gone);
        let judge = |tags: &[&'static [u8]], at_ms, is_foreign| {
            history.of_entry(tags.iter().copied(), Written { at_ms, is_foreign }, 5_000)
        };
        let own = |tags: &[&'static [u8]], at_ms| judge(tags, at_ms, false);
        assert_eq!(own(&[b"hard", b"soft"], 10), Verdict::Dropped);
        assert_eq!(own(&[b"hard", b"soft"], 11), softened(20));
        assert_eq!(own(&[b"hard", b"soft"], 21), Verdict::Untouched);
        assert_eq!(own(&[b"other"], 1), Verdict::Untouched);
        assert_eq!(judge(&[b"hard"], 1_000, true), Verdict::Dropped);
        assert_eq!(judge(&[b"hard"], 1_011, true), Verdict::Untouched);
    }

    #[test]
    fn the_limit_of_a_soft_invalidation_holds_for_such_tags_too() {
        let mut history = History::default();
        let judge = |history: &History, at_ms| {
            let is_foreign = false;
            let tags = [&b"t"[..], b"other"];
            history.of_entry(tags.into_iter(), Written { at_ms, is_foreign }, 5_000)
        };
        let ends = |since_ms, ends_ms| Verdict::Softened { since_ms, ends_ms };
        history.record_condition(b"t", at(10), Effect::Stale, 100);
        assert_eq!(judge(&history, 9), ends(10, 110));
        history.record(b"t", at(20), Effect::Stale);
        assert_eq!(judge(&history, 9), ends(20, 110));
        history.record(b"t", at(130), Effect::Stale);
        assert_eq!(judge(&history, 9), Verdict::Dropped, "over before");
        assert_eq!(judge(&history, 21), softened(130));
        history.record_condition(b"t", at(140), Effect::Stale, u64::MAX);
        assert_eq!(judge(&history, 21), softened(140));
    }

    #[test]
    fn stamps_go_on_after_those_of_another_clock() {
        let mut stamps = Stamps::default();
        stamps.follow(5_000);
        assert_eq!(stamps.of_invalidation(100), 5_000);
        assert_eq!(stamps.of_write(101), 5_001);
        // However far ahead they are: an earlier one shows by how much that clock was set back.
        stamps.follow(3_600_000);
        assert_eq!(stamps.behind_ms(3_500_000), 100_000);
        assert_eq!(stamps.of_write(101), 3_600_001);
        stamps.follow_another();
        assert_eq!(stamps.behind_ms(3_600_000), 1);
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
        assert_eq!(
            stamps.of_invalidation(8),
            9,
            "the clock was set back a little"
        );
        assert_eq!(stamps.of_write(8), 10);
    }

    #[test]
    fn small_steps_back_keep_the_order_until_they_add_up() {
        let mut stamps = Stamps::default();
        let now = 50_000;
        // In order whatever came from here, from another node, or from this node's primary.
        assert_eq!(stamps.of_write(now), now);
        assert_eq!(stamps.of_invalidation(now - 400), now);
        assert_eq!(stamps.now_ms(now + 1), now + 1);
        assert_eq!(stamps.of_invalidation(now - 400), now + 1);
        stamps.follow(now + 2);
        assert_eq!(stamps.of_invalidation(now - 400), now + 2);
        // Stamps that were followed may be further ahead than the node's own run.
        let back = now - 5 * AHEAD_MS;
        assert_eq!(stamps.lag_ms(back), 0);
        stamps.clock_was_set_back(back);
        assert_eq!(stamps.of_write(now), now);
        assert_eq!(stamps.lag_ms(now - AHEAD_MS), 0);
        assert_eq!(stamps.lag_ms(now - AHEAD_MS - 1), AHEAD_MS + 1);
    }

    #[test]
    fn stamps_run_ahead_up_to_a_bound_and_stay_in_order() {
        let mut stamps = Stamps::default();
        let now = 5_000;
        let mut last = 0;
        for _ in 0..3 * AHEAD_MS {
            let written = stamps.of_write(now);
            assert!(written > last || written == now + AHEAD_MS && written >= last);
            last = stamps.of_invalidation(now);
            assert!((written..=now + AHEAD_MS).contains(&last));
        }
        assert!(!stamps.are_ahead(now));
        // In time they are the present again.
        assert_eq!(stamps.of_write(now + 2 * AHEAD_MS), now + 2 * AHEAD_MS);
    }

    #[test]
    fn a_limit_counts_from_the_present_however_far_stamps_are_ahead() {
        let mut history = History::default();
        let moment = Moment {
            at_ms: 1_900,
            now_ms: 1_000,
            clock: 1,
        };
        history.record_condition(b"t", moment, Effect::Stale, 100);
        let written = Written {
            at_ms: 1_500,
            is_foreign: false,
        };
        let verdict = history.of_entry(std::iter::once(&b"t"[..]), written, 1_900);
        let Verdict::Softened { ends_ms, .. } = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(ends_ms, 1_100);
    }

    #[test]
    fn the_oldest_tags_are_folded_and_those_that_entries_carry_stay() {
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
        // Of the others it is only known that it was no later than the latest of them.
        for tag in [&b"2"[..], b"7", b"never seen"] {
            assert!(outdated(&history, tag, 7, true, 100));
            assert!(!outdated(&history, tag, 8, true, 100));
            assert!(history.is_invalidated_after([tag].into_iter(), 6));
            assert!(!history.is_invalidated_after([tag].into_iter(), 7));
        }
        assert!(!outdated(&history, b"3", 7, true, 100));
    }

    #[test]
    fn names_are_bounded_in_bytes_and_one_long_tag_folds_many_short_ones() {
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
        // Those that entries carry stay, and are not looked at for ever.
        history.record(&[b'u'; 35], at(31), Effect::Gone);
        history.trim(most, 1_000, |_| true);
        assert_eq!(history.len(), 4);
    }

    #[test]
    fn tags_that_were_carried_are_folded_a_few_at_a_time() {
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
        assert!(outdated(&history, &tag(0), 1, true, TAGS + 1));
        history.validate();
    }

    #[test]
    fn however_many_tags_are_carried_the_last_ones_are_not_folded() {
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
        assert!(!outdated(&history, b"never invalidated", 1, true, 400));
        assert!(!history.is_invalidated_after([&b"never invalidated"[..]].into_iter(), 0));
        // One that was set aside goes on where it was, and is one of the last again.
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
    fn a_tag_that_is_given_twice_counts_once() {
        let mut history = History::default();
        let invalidations =
            |history: &History, tag: &[u8]| history.of_named(tag).map(|past| past.invalidations);
        for tag in [b"a", b"a", b"b"] {
            history.record(tag, at(1), Effect::Gone);
        }
        assert_eq!(invalidations(&history, b"a"), Some(1));
        // One that comes after tags of the same command were folded.
        history.trim(up_to(0), usize::MAX, |_| false);
        history.record(b"c", at(1), Effect::Gone);
        assert_eq!(invalidations(&history, b"c"), Some(1));
        history.record(b"c", at(2), Effect::Gone);
        assert_eq!(invalidations(&history, b"c"), Some(2));
    }

    #[test]
    fn a_tag_is_known_by_name_if_it_was_invalidated_by_it_since_the_flush() {
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
    fn an_entry_that_comes_too_late_is_one_that_was_invalidated_meanwhile() {
        let too_late =
            |verdict: Verdict| [false, true].map(|is_stale| verdict.is_too_late(is_stale));
        assert_eq!(too_late(Verdict::Untouched), [false, false]);
        assert_eq!(too_late(softened(1)), [true, false]);
        let (since_ms, ends_ms) = (1, 2);
        let limited = Verdict::Softened { since_ms, ends_ms };
        assert_eq!(too_late(limited), [true, true]);
        assert_eq!(too_late(Verdict::Dropped), [true, true]);
    }

    #[test]
    fn of_several_tags_made_stale_the_first_and_the_first_end_count() {
        let mut history = History::default();
        history.record_condition(b"a", at(10), Effect::Stale, 100);
        history.record_condition(b"b", at(20), Effect::Stale, 300);
        history.record(b"c", at(15), Effect::Stale);
        let (at_ms, is_foreign) = (5, false);
        for tags in [[b"a", b"b", b"c"], [b"c", b"b", b"a"]] {
            let tags = tags.into_iter().map(|tag| &tag[..]);
            let verdict = history.of_entry(tags, Written { at_ms, is_foreign }, 30);
            // Else one tag more would bring back what is over by the other.
            let (since_ms, ends_ms) = (10, 110);
            assert_eq!(verdict, Verdict::Softened { since_ms, ends_ms });
        }
    }

    #[test]
    fn stamps_are_ahead_and_are_followed_up_to_their_bounds() {
        let mut stamps = Stamps::default();
        let now = 1_000_000;
        stamps.follow(now + FURTHEST_MS);
        let ahead = now + FURTHEST_MS - AHEAD_MS;
        assert!(stamps.are_ahead(ahead - 1));
        assert!(!stamps.are_ahead(ahead));

        let mut history = History::default();
        history.record(b"t", at(10_000), Effect::Gone);
        // Of an entry so far from the future nothing is known, of others that they are younger.
        assert!(!outdated(&history, b"t", 20_000 + AHEAD_MS, true, 20_000));
        assert!(outdated(&history, b"t", 20_001 + AHEAD_MS, true, 20_000));
        // The clock that was set back may have been a little ahead of what is known of it.
        history.stamps_were_set_back(now, 5_000);
        assert_eq!(history.saved_stamp_ms(4_999), 4_999);
        assert_eq!(history.saved_stamp_ms(now + AHEAD_MS), 5_000);
        let later = now + AHEAD_MS + 1;
        assert_eq!(history.saved_stamp_ms(later), later);
    }

    #[test]
    fn the_latest_invalidation_is_found_wherever_it_is_kept() {
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
    fn a_past_is_read_as_it_was_saved_and_within_its_bounds() {
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
    fn what_is_saved_is_loaded_again() {
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
    fn what_is_cut_off_or_names_impossible_tags_is_refused() {
        let mut history = History::default();
        history.record(b"tag", at(1), Effect::Gone);
        let mut saved = Vec::new();
        history.encode(&mut saved);
        for len in 0..saved.len() {
            assert_eq!(History::default().load(&mut &saved[..len]), None);
        }
        // Behind the two floors, and the number of tags.
        let name_len = 7 + 7 + 1;
        for len in [0, 0x7f] {
            saved[name_len] = len;
            assert_eq!(History::default().load(&mut &saved[..]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_loaded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut history = History::default();
            _ = history.load(&mut &bytes[..]);
            history.validate();
        }
    }
}
