//! The share of the time that background work may take.

use std::time::Duration;

/// Work in slices, paced by the thread's other work: at least a sixteenth of the time, and otherwise the idle time. An
/// idle server works off a backlog at once; a busy one gets slower by no more than that.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The end of the last slice.
    last: Option<Moment>,
    /// The share of the time between slices that other work took recently.
    busy: f64,
}

/// A point in time: how long the thread has existed, and how long it has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) wall: Duration,
    pub(crate) ran: Duration,
}

impl Moment {
    /// The time from an earlier moment to this one, and the part of it in which the thread ran, seconds.
    fn since(self, earlier: Self) -> (f64, f64) {
        let wall = self.wall.saturating_sub(earlier.wall);
        let ran = self.ran.saturating_sub(earlier.ran);
        (wall.as_secs_f64(), ran.as_secs_f64())
    }
}

/// The time needed to measure how busy the thread is, seconds.
const WINDOW: f64 = 0.01;
/// A last slice that is longer ago than this, seconds, is no measure.
const OUTDATED: f64 = 1.0;
const LEAST_SHARE: f64 = 1.0 / 16.0;

impl Pace {
    /// The time to rest after a slice that lasted from `start` to `end`.
    pub(crate) fn rest_after(&mut self, start: Moment, end: Moment) -> Duration {
        let between = self.last.replace(end).map(|last| start.since(last));
        self.busy = match between.filter(|&(wall, _)| wall < OUTDATED) {
            Some((wall, ran)) => self.busy + (ran - self.busy * wall) / wall.max(WINDOW),
            None => 1.0,
        };
        // A thread that others keep from running looks idler than it is: half busy counts as busy.
        let share = (1.0 - 2.0 * self.busy).clamp(LEAST_SHARE, 1.0);
        let (_, took) = end.since(start);
        Duration::from_secs_f64(took * (share.recip() - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of the time that slices of a millisecond get after a second, while other work takes `busy` of the
    /// rest.
    fn share(pace: &mut Pace, from: &mut Moment, busy: f64) -> f64 {
        let (begin, slice) = (from.wall, Duration::from_millis(1));
        let mut worked = Duration::ZERO;
        while from.wall.saturating_sub(begin) < Duration::from_secs(1) {
            let start = *from;
            from.wall += slice;
            from.ran += slice;
            worked += slice;
            // The server's timers take a millisecond at least.
            let rest = pace.rest_after(start, *from).max(slice);
            from.wall += rest;
            from.ran += rest.mul_f64(busy);
        }
        worked.as_secs_f64() / from.wall.saturating_sub(begin).as_secs_f64()
    }

    #[test]
    fn slices_get_a_sixteenth_of_a_busy_thread_or_half_if_idle() {
        let mut pace = Pace::default();
        let mut now = Moment {
            wall: Duration::from_secs(5),
            ran: Duration::from_secs(3),
        };
        for (busy, low, high) in [
            (1.0, 0.06, 0.07),
            (0.0, 0.4, 0.5),
            (0.9, 0.06, 0.1),
            (0.2, 0.4, 0.5),
            (1.0, 0.06, 0.1),
        ] {
            let share = share(&mut pace, &mut now, busy);
            assert!((low..=high).contains(&share), "{busy}: {share}");
        }
    }

    #[test]
    fn old_measurements_are_forgotten() {
        let mut pace = Pace::default();
        let mut now = Moment {
            wall: Duration::ZERO,
            ran: Duration::ZERO,
        };
        share(&mut pace, &mut now, 0.0);
        now.wall += Duration::from_secs(100);
        let start = now;
        now.wall += Duration::from_millis(1);
        now.ran += Duration::from_millis(1);
        assert_eq!(pace.rest_after(start, now), Duration::from_millis(15));
    }
}
