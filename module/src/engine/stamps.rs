//! Stamps: the times of writes and invalidations, in the order in which these happened, whatever the clock does.
//!
//! `DESIGN.md` (Entries that arrive) explains why, and what a stamp is compared with. Times are unix milliseconds.

/// How far the clocks of two nodes may differ, ms: an entry of another node that was written up to this long after an
/// invalidation counts as written before it.
pub(crate) const CLOCKS_DIFFER_MS: u64 = 1_000;

/// Stamps run ahead of the present by no more than this, ms: one further ahead comes from a clock that was set back.
const AHEAD_MS: u64 = 1_000;

/// The most that the clocks of two nodes may differ for their stamps to make one order, ms.
pub(crate) const FURTHEST_MS: u64 = 60_000;

/// The stamp that is kept for an entry that arrives from another clock. A stamp from the future becomes 0: it does not
/// show when the entry was written, and would seem later than the invalidations until then.
pub(crate) const fn kept_stamp_ms(at_ms: u64, now_ms: u64) -> u64 {
    if at_ms > now_ms + AHEAD_MS { 0 } else { at_ms }
}

/// The time that now is as long ago as `at_ms` was before the clock was set back: spans that are over stay over.
pub(super) const fn as_long_ago(at_ms: u64, from_ms: u64, now_ms: u64) -> u64 {
    now_ms.saturating_sub(from_ms.saturating_sub(at_ms))
}

/// Stamps for writes and invalidations, in the order in which they happen: a write after an invalidation of the same
/// millisecond has a later stamp, and no invalidation has an earlier stamp than a write before it.
///
/// So stamps run ahead of the present where writes and invalidations alternate more than once in a millisecond, up to a
/// bound. At the bound, a write has the stamp of the invalidation before it, and counts as written before.
///
/// They are also ahead where the clock was set back by too little to be noticed: until it shows that time again, or
/// until such steps add up to more than that bound, which [`Stamps::lag_ms`] reports.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// The latest stamp that was given to anything, or the present at an arrival if that is later, unix ms, as the
    /// others.
    latest: u64,
    invalidated: u64,
    /// The latest stamp of this node's primary, or of an earlier life of this node, after which stamps continue.
    followed: u64,
    /// The clock was set back to the first time when it showed the second, so stamps in between may be of either pass.
    pub(crate) passed_twice: Option<(u64, u64)>,
}

impl Stamps {
    /// The stamp of an entry that is written now.
    pub(crate) fn of_write(&mut self, now_ms: u64) -> u64 {
        let mut written = now_ms;
        if self.invalidated >= now_ms {
            written = (self.invalidated + 1).min(self.most_ms(now_ms).max(self.invalidated));
        }
        self.latest = self.latest.max(written);
        written
    }

    /// The stamp of an invalidation that happens now.
    pub(crate) fn of_invalidation(&mut self, now_ms: u64) -> u64 {
        self.invalidated = self.now_ms(now_ms);
        self.invalidated
    }

    /// The present, as stamps show it.
    pub(crate) fn now_ms(&mut self, now_ms: u64) -> u64 {
        self.latest = self.latest.max(now_ms);
        self.latest
    }

    /// Whether stamps are far ahead of the present, because another node's clock is, or the clock was set back.
    pub(crate) const fn are_ahead(&self, now_ms: u64) -> bool {
        self.latest > now_ms + AHEAD_MS
    }

    /// How far the clock was set back, ms, if stamps are further ahead than they run by themselves; otherwise 0.
    pub(crate) fn lag_ms(&self, now_ms: u64) -> u64 {
        if self.latest > self.most_ms(now_ms) {
            self.latest - now_ms
        } else {
            0
        }
    }

    /// The highest possible stamp, unless the clock was set back.
    fn most_ms(&self, now_ms: u64) -> u64 {
        now_ms.max(self.followed) + AHEAD_MS
    }

    /// Continues after a stamp of this node's primary, or of an earlier life of this node, whatever the clock shows.
    pub(crate) fn follow(&mut self, at_ms: u64) {
        for ms in [&mut self.latest, &mut self.invalidated, &mut self.followed] {
            *ms = at_ms.max(*ms);
        }
    }

    /// The same for a stamp of a node that is not this one's primary, less the time by which its clock may be ahead.
    pub(crate) fn follow_foreign(&mut self, at_ms: u64) {
        self.follow(at_ms.saturating_sub(CLOCKS_DIFFER_MS));
    }

    /// From here on another node gives the stamps, after all stamps of this one.
    pub(crate) fn follow_another(&mut self) {
        self.follow(self.latest);
    }

    /// How far this stamp lies behind the latest one that was followed, ms.
    pub(crate) const fn behind_ms(&self, at_ms: u64) -> u64 {
        self.followed.saturating_sub(at_ms)
    }

    /// Continues from the present, to which the clock was set back from a later time. Stamps in between may come from
    /// either pass.
    pub(crate) fn clock_was_set_back(&mut self, from_ms: u64, now_ms: u64) {
        (self.latest, self.invalidated, self.followed) = (now_ms, now_ms, now_ms);
        // The other clock from which that time is known is not exact, and a slightly longer span does no harm.
        self.pass_twice(now_ms, from_ms + AHEAD_MS);
    }

    /// Extends the span that the clock passes twice to include these two times.
    pub(crate) fn pass_twice(&mut self, back_to_ms: u64, from_ms: u64) {
        let (earliest, latest) = self.passed_twice.unwrap_or((back_to_ms, from_ms));
        self.passed_twice = Some((earliest.min(back_to_ms), latest.max(from_ms)));
    }

    /// The earliest time at which an entry with this stamp may have been written. The stamp is foreign if another
    /// node's clock gave it, which may differ, or this node's clock before it was set back; not if this node's clock,
    /// or that of a primary that it followed, gave it since then.
    pub(crate) fn written_since_ms(&self, at_ms: u64, is_foreign: bool, now_ms: u64) -> u64 {
        let at_ms = kept_stamp_ms(at_ms, now_ms);
        if !is_foreign {
            return at_ms;
        }
        let since_ms = at_ms.saturating_sub(CLOCKS_DIFFER_MS);
        since_ms.min(self.saved_stamp_ms(at_ms))
    }

    /// The saved time of a write by another clock: where that is ambiguous, the earliest possible time.
    pub(crate) fn saved_stamp_ms(&self, at_ms: u64) -> u64 {
        match self.passed_twice {
            Some((back_to_ms, from_ms)) if (back_to_ms..=from_ms).contains(&at_ms) => back_to_ms,
            _ => at_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_continue_after_those_of_another_clock() {
        let mut stamps = Stamps::default();
        stamps.follow(5_000);
        assert_eq!(stamps.of_invalidation(100), 5_000);
        assert_eq!(stamps.of_write(101), 5_001);
        // This holds however far ahead they are: an earlier stamp shows how far that clock was set back.
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
    fn small_clock_steps_back_keep_the_order_until_they_add_up() {
        let mut stamps = Stamps::default();
        let now = 50_000;
        // The order holds for stamps of this node, of another node, and of this node's primary.
        assert_eq!(stamps.of_write(now), now);
        assert_eq!(stamps.of_invalidation(now - 400), now);
        assert_eq!(stamps.now_ms(now + 1), now + 1);
        assert_eq!(stamps.of_invalidation(now - 400), now + 1);
        stamps.follow(now + 2);
        assert_eq!(stamps.of_invalidation(now - 400), now + 2);
        // Stamps that were followed may be further ahead than the node's own run.
        let back = now - 5 * AHEAD_MS;
        assert_eq!(stamps.lag_ms(back), 0);
        stamps.clock_was_set_back(now, back);
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
        // Later they equal the present again.
        assert_eq!(stamps.of_write(now + 2 * AHEAD_MS), now + 2 * AHEAD_MS);
    }

    #[test]
    fn stamps_count_as_ahead_beyond_a_bound() {
        let mut stamps = Stamps::default();
        let now = 1_000_000;
        stamps.follow(now + FURTHEST_MS);
        let ahead = now + FURTHEST_MS - AHEAD_MS;
        assert!(stamps.are_ahead(ahead - 1));
        assert!(!stamps.are_ahead(ahead));
    }

    #[test]
    fn foreign_stamps_are_reduced_and_future_stamps_ignored() {
        let stamps = Stamps::default();
        let now = 20_000;
        for (at_ms, own, foreign) in [
            (9_999, 9_999, 9_999 - CLOCKS_DIFFER_MS),
            (500, 500, 0),
            (now + AHEAD_MS, now + AHEAD_MS, now),
            (now + AHEAD_MS + 1, 0, 0),
            (3_600_000, 0, 0),
        ] {
            assert_eq!(stamps.written_since_ms(at_ms, false, now), own);
            assert_eq!(stamps.written_since_ms(at_ms, true, now), foreign);
        }
    }

    #[test]
    fn stamps_from_before_a_clock_set_back_stay_in_the_past() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.of_invalidation(3_600_000), 3_600_000);
        assert!(stamps.are_ahead(1_000));
        stamps.clock_was_set_back(3_600_000, 1_000);
        assert_eq!(stamps.of_write(1_000), 1_001);
        assert_eq!(stamps.written_since_ms(1_001, false, 1_002), 1_001);
        assert_eq!(stamps.written_since_ms(999, false, 1_002), 999);
        for now in [1_002, 3_600_001, 7_200_000] {
            let since_ms = stamps.written_since_ms(3_599_000, true, now);
            assert!(since_ms <= 1_000, "{since_ms}");
        }
        let since_ms = stamps.written_since_ms(3_700_000, true, 3_700_000);
        assert_eq!(since_ms, 3_700_000 - CLOCKS_DIFFER_MS);
        // The clock that was set back may have been a little ahead of what is known of it.
        assert_eq!(stamps.saved_stamp_ms(999), 999);
        assert_eq!(stamps.saved_stamp_ms(3_600_000 + AHEAD_MS), 1_000);
        let later = 3_600_000 + AHEAD_MS + 1;
        assert_eq!(stamps.saved_stamp_ms(later), later);
        // The span grows when the clock is set back again, and when a span is loaded.
        stamps.pass_twice(500, 600);
        stamps.pass_twice(2_000, 9_000_000);
        assert_eq!(stamps.saved_stamp_ms(8_000_000), 500);
    }
}
