//! A server's clock over time: it shows whether all invalidations that the server may have lost are remembered here.
//! `DESIGN.md`, section "Invalidations that a server lost".

use std::time::{Duration, Instant};

#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    lineage: String,
    /// Readings with their times, oldest first; since then nothing was missed.
    readings: Vec<(Instant, u64)>,
}

/// The reply of `CACHE.CLOCK`.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) lineage: String,
    pub(crate) clock: u64,
    /// The clock when the lineage began; the same as `clock` if the module does not return it.
    pub(crate) start: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Nothing,
    /// No more than is remembered.
    Remembered,
    /// More than is remembered.
    Forgotten,
}

impl History {
    /// The first reading through a new connection, requested at `at`. Everything since `since` is remembered.
    pub(crate) fn connected(&mut self, read: Reading, at: Instant, since: Instant) -> Lost {
        let lost = if self.lineage.is_empty() || self.lineage == read.lineage {
            Lost::Nothing
        } else {
            match self.readings.iter().find(|(at, _)| *at >= since) {
                Some((_, first)) if *first <= read.start => Lost::Remembered,
                _ => Lost::Forgotten,
            }
        };
        self.lineage = read.lineage;
        // Invalidations by others while there was no connection are not known here.
        self.readings = vec![(at, read.clock)];
        lost
    }

    /// A later reading through the same connection; `false` if it has another lineage.
    pub(crate) fn probed(&mut self, read: &Reading, at: Instant, since: Instant) -> bool {
        if read.lineage != self.lineage {
            return false;
        }
        self.readings.retain(|(at, _)| *at >= since);
        // One per second is enough.
        let last = self.readings.last().map(|(last, _)| *last);
        if last.is_none_or(|last| at.saturating_duration_since(last) >= Duration::from_secs(1)) {
            self.readings.push((at, read.clock));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(lineage: &str, start: u64, clock: u64) -> Reading {
        let lineage = lineage.to_owned();
        Reading {
            lineage,
            clock,
            start,
        }
    }

    #[test]
    fn new_lineage_lacks_invalidations_after_its_start() {
        let begin = Instant::now();
        let at = |secs| begin + Duration::from_secs(secs);
        let lost = |lineage, start, since| {
            let mut history = History::default();
            let first = history.connected(reading("a", 0, 10), at(0), at(0));
            assert_eq!(first, Lost::Nothing);
            assert!(history.probed(&reading("a", 0, 15), at(30), at(0)));
            assert!(history.probed(&reading("a", 0, 20), at(60), at(0)));
            assert!(!history.probed(&reading("b", 0, 30), at(60), at(0)));
            // Others have used it by now, so its clock shows nothing.
            history.connected(reading(lineage, start, 90), at(61), at(since))
        };
        assert_eq!(lost("a", 0, 0), Lost::Nothing);
        assert_eq!(lost("b", 10, 0), Lost::Remembered);
        assert_eq!(lost("b", 40, 0), Lost::Remembered);
        assert_eq!(lost("b", 9, 0), Lost::Forgotten);
        // Invalidations before the second reading are no longer remembered.
        assert_eq!(lost("b", 14, 20), Lost::Forgotten);
        assert_eq!(lost("b", 15, 20), Lost::Remembered);
        assert_eq!(lost("b", 90, 70), Lost::Forgotten);
    }

    #[test]
    fn number_of_readings_is_limited() {
        let start = Instant::now();
        let mut history = History::default();
        history.connected(reading("a", 0, 0), start, start);
        for n in 0..1000 {
            let at = start + Duration::from_millis(100 * n);
            assert!(history.probed(&reading("a", 0, n), at, start + Duration::from_secs(20)));
        }
        assert_eq!(history.readings.len(), 80);
    }
}
