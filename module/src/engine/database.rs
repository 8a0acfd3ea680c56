//! One database: its index, its clock, its memory of invalidations, its leases, its counters.

use super::history::{History, Moment, REMEMBERED, ROW_BYTES};
use super::index::{Condition, Effect, Index};
use super::lease::{Leases, Token};
use super::stats::Counters;
use crate::record::Softness;

/// An invalidation: its entries and its effect.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Invalidation<'t> {
    /// Entries that carry one of these tags.
    Tags(Effect, &'t [&'t [u8]]),
    /// Entries that a condition selects. The number is the longest time that they may stay stale, ms.
    Where(Effect, Condition<'t>, u64),
    /// All entries. The caller ends the leases.
    Everything,
}

#[derive(Debug, Default)]
pub(crate) struct Database<E> {
    pub(crate) index: Index<E>,
    /// The number of invalidations: hard, soft and flushes. Two nodes that applied the same stream have the same
    /// number, whatever their wall clocks show. Saved, and carried by replication.
    pub(crate) clock: u64,
    /// The clock at which the node's lineage began.
    pub(crate) start: u64,
    pub(crate) history: History,
    pub(crate) leases: Leases,
    pub(crate) counters: Counters,
}

impl<E: Copy + Default + PartialEq> Database<E> {
    /// Records something about these tags in the history, and trims the history to its limits.
    fn remember(&mut self, tags: &[&[u8]], record: impl Fn(&mut History, &[u8])) {
        // Trims more than was added; [`Database::tidy`] does the rest.
        let bytes = |tag: &[u8]| 4 * (tag.len() + ROW_BYTES);
        for tag in tags {
            record(&mut self.history, tag);
            let is_carried = |tag: &[u8]| self.index.is_carried(tag);
            self.history.trim(REMEMBERED, bytes(tag), is_carried);
        }
    }

    /// Forgets some of the leases and tags that are over; to be called regularly.
    pub(crate) fn tidy(&mut self, monotonic_ms: u64) {
        self.leases.forget(monotonic_ms, 1_024);
        let is_carried = |tag: &[u8]| self.index.is_carried(tag);
        self.history.tidy(REMEMBERED, is_carried);
    }

    /// Makes entries gone or stale and returns their number; for [`Invalidation::Tags`], the number of (entry, tag)
    /// pairs. `at_ms` is the stamp of the invalidation. O(tags + entries / 64).
    pub(crate) fn invalidate(&mut self, what: Invalidation<'_>, at_ms: u64, now_ms: u64) -> u64 {
        self.clock += 1;
        let moment = Moment {
            at_ms,
            // An invalidation from another node or from a log happened before now.
            now_ms: at_ms.min(now_ms),
            clock: self.clock,
        };
        let dropped = match what {
            Invalidation::Tags(effect, tags) => {
                self.remember(tags, |history, tag| history.record(tag, moment, effect));
                self.index.invalidate(tags, effect, moment.now_ms)
            }
            Invalidation::Where(effect, condition, limit_ms) => {
                // If there are such clauses, each selected entry carries some of their tags; and for an entry that is
                // checked against a reader's tags, any of them may complete the condition.
                let marked = [condition.all, condition.any];
                if marked == [None, None] {
                    self.history.record_everything(moment, effect);
                }
                for tags in marked.into_iter().flatten() {
                    self.remember(tags, |history, tag| {
                        history.record_condition(tag, moment, effect, limit_ms);
                    });
                }
                let since_ms = moment.now_ms;
                let softness = Softness { since_ms, limit_ms };
                self.index.invalidate_where(condition, effect, softness)
            }
            Invalidation::Everything => {
                self.history.record_everything(moment, Effect::Gone);
                self.history.forget_names(moment.clock);
                self.index.flush()
            }
        };
        self.counters.invalidations += 1;
        self.counters.invalidated += dropped;
        dropped
    }

    /// An entry that is stored with one of these tags lives until `until_ms` at most, unix ms. O(tags).
    pub(crate) fn hold(&mut self, tags: &[&[u8]], until_ms: u64) {
        self.remember(tags, |history, tag| history.hold(tag, until_ms));
    }

    /// Whether a value that was loaded under this lease may still be written with these tags: the lease is the last one
    /// granted for the key, and none of the tags was invalidated since. `None`: the tags are unknown, so no tag at all
    /// may have been invalidated.
    pub(crate) fn may_write<'a>(
        &self,
        key: &[u8],
        token: Token,
        tags: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> bool {
        self.leases
            .granted_at(key, token)
            .is_some_and(|clock| match tags {
                None => self.clock == clock,
                Some(tags) => !self.history.is_invalidated_after(tags, clock),
            })
    }

    /// Decides a write under a lease: it may happen if `may_write`, and NX or XX is met. If it may not happen, the
    /// lease ends: its holder will not write again, and a value that is too late is of no use to the callers that wait.
    pub(crate) fn decide_write<'a>(
        &mut self,
        key: &[u8],
        token: Token,
        tags: Option<impl Iterator<Item = &'a [u8]>>,
        condition_is_met: bool,
        now_ms: u64,
    ) -> bool {
        let is_lost = !self.may_write(key, token, tags);
        if is_lost && condition_is_met {
            self.counters.leases_refused += 1;
        }
        if is_lost || !condition_is_met {
            self.leases.release(key, token, now_ms);
            return false;
        }
        self.leases.settle(key, token);
        true
    }

    /// Takes the whole index out, for a native flush, which empties the keyspace by itself. Clock and history stay:
    /// they distinguish later entries from those that were written before.
    pub(crate) fn take_index(&mut self) -> Index<E> {
        self.history.forget_names(self.clock);
        std::mem::take(&mut self.index)
    }

    /// To be called when the clock that gives the stamps was set back: stamps that lie ahead of it are bounded by it,
    /// and all entries here count as written before the stamps that it gives from now on.
    pub(crate) fn stamps_were_set_back(&mut self, back_to_ms: u64) {
        self.history.bound_stamps(back_to_ms);
        self.index.set_all_foreign();
    }

    /// To be called when this node's own clock was set back: spans of time do not become longer by that.
    pub(crate) fn bound_spans(&mut self, from_ms: u64, now_ms: u64) {
        self.history.bound_spans(from_ms, now_ms);
        self.index.marks.bound(from_ms, now_ms);
    }

    /// Whether there is a clock, or a history of tags, to be saved.
    pub(crate) fn has_history(&self) -> bool {
        self.clock > 0 || !self.history.is_empty()
    }

    /// Whether anything here is worth a line in INFO.
    pub(crate) fn is_in_use(&self) -> bool {
        self.index.len() > 0 || self.has_history()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::index::tests::plain;
    use crate::engine::lease::{Ask, MOST, Terms};

    const AT_MS: u64 = 3_600_000;

    /// A database of three entries, with the tags a, a and b.
    fn filled() -> Database<u64> {
        let mut database = Database::default();
        for (entry, tag) in [(1, b"a"), (2, b"a"), (3, b"b")] {
            database.index.insert(plain(entry, &[tag]));
        }
        database
    }

    fn invalidate(database: &mut Database<u64>, tag: &[u8], effect: Effect) -> u64 {
        database.invalidate(Invalidation::Tags(effect, &[tag]), AT_MS, AT_MS)
    }

    fn flush(database: &mut Database<u64>) -> u64 {
        database.invalidate(Invalidation::Everything, AT_MS, AT_MS)
    }

    fn lease(database: &mut Database<u64>) -> Token {
        let (ms, token) = (1_000, None);
        let terms = Terms {
            clock: database.clock,
            now_ms: AT_MS,
            max_ms: ms,
            room: MOST,
        };
        let asked = database.leases.ask(b"key", 1, Ask { ms, token }, terms);
        asked.expect("there is room")
    }

    #[test]
    fn invalidations_and_dropped_entries_are_counted() {
        let mut database = filled();
        let dropped = invalidate(&mut database, b"a", Effect::Gone);
        assert_eq!(dropped, 2);
        for entry in [4, 5] {
            database.index.insert(plain(entry, &[b"c"]));
        }
        assert_eq!(flush(&mut database), 3);
        let counters = database.counters;
        assert_eq!((counters.invalidations, counters.invalidated), (2, 5));
        assert_eq!(database.clock, 2);
    }

    #[test]
    fn an_invalidated_tag_is_known_by_name_until_a_flush() {
        for by_command in [true, false] {
            let mut database = filled();
            invalidate(&mut database, b"a", Effect::Stale);
            assert!(database.history.of_named(b"a").is_some());
            if by_command {
                flush(&mut database);
            } else {
                assert_eq!(database.take_index().len(), 3);
                assert_eq!(database.index.len(), 0);
            }
            assert_eq!(database.history.of_named(b"a"), None);
        }
    }

    #[test]
    fn with_unknown_tags_any_invalidation_refuses_the_write() {
        let mut database = filled();
        let token = lease(&mut database);
        let may_write = |database: &Database<u64>| {
            let unknown: Option<std::iter::Empty<&[u8]>> = None;
            database.may_write(b"key", token, unknown)
        };
        assert!(may_write(&database));
        invalidate(&mut database, b"other", Effect::Gone);
        assert!(!may_write(&database));
    }

    #[test]
    fn a_lease_refusal_is_counted_only_if_the_condition_is_met() {
        for (invalidated, condition_is_met) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let mut database = filled();
            let token = lease(&mut database);
            if invalidated {
                invalidate(&mut database, b"a", Effect::Gone);
            }
            let tags = Some(std::iter::once(&b"a"[..]));
            let may = database.decide_write(b"key", token, tags, condition_is_met, AT_MS);
            assert_eq!(may, !invalidated && condition_is_met);
            let refused = u64::from(invalidated && condition_is_met);
            assert_eq!(database.counters.leases_refused, refused);
        }
    }

    #[test]
    fn setting_the_clock_back_bounds_the_remembered_times() {
        let mut database = filled();
        invalidate(&mut database, b"a", Effect::Gone);
        database.stamps_were_set_back(1_000);
        assert_eq!(database.history.latest_ms(), 1_000);
    }

    #[test]
    fn a_database_with_entries_or_a_history_is_in_use() {
        let of = |database: &Database<u64>| (database.is_in_use(), database.has_history());
        let mut database = Database::default();
        assert_eq!(of(&database), (false, false));
        database.index.insert(plain(1, &[b"a"]));
        assert_eq!(of(&database), (true, false));

        let mut held = Database::default();
        held.hold(&[b"a"], AT_MS);
        let tags = || std::iter::once(&b"a"[..]);
        assert_eq!(held.history.held_until_ms(tags(), 0), Some(AT_MS));
        assert_eq!(of(&held), (true, true));

        let mut flushed = Database::<u64>::default();
        flush(&mut flushed);
        assert_eq!(of(&flushed), (true, true));
    }
}
