//! A server's clock over time: whether all invalidations that it may have lost are remembered here.
//! `DESIGN.md`, section "Invalidations that a server lost".

use std::collections::VecDeque;
use std::time::Instant;

#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    lineage: String,
    /// When which reading was taken, oldest first; since then nothing was missed.
    readings: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Nothing,
    /// No more than is remembered.
    Remembered,
    /// More than that.
    Forgotten,
}

impl History {
    /// More readings than this are not kept.
    const MOST: usize = 256;

    /// The first reading through a new connection. Everything since `since` is remembered.
    pub(crate) fn connected(
        &mut self,
        lineage: &str,
        clock: u64,
        now: Instant,
        since: Instant,
    ) -> Lost {
        let lost = if self.lineage.is_empty() || self.lineage == lineage {
            Lost::Nothing
        } else {
            match self.readings.iter().find(|(at, _)| *at >= since) {
                Some((_, first)) if *first <= clock => Lost::Remembered,
                _ => Lost::Forgotten,
            }
        };
        lineage.clone_into(&mut self.lineage);
        // What others invalidated while there was no connection is not known here.
        self.readings = VecDeque::from([(now, clock)]);
        lost
    }

    /// A later reading through the same connection; `false` if it is one of another lineage.
    pub(crate) fn probed(&mut self, read: (&str, u64), now: Instant, since: Instant) -> bool {
        let (lineage, clock) = read;
        if lineage != self.lineage {
            return false;
        }
        self.readings.push_back((now, clock));
        while self.readings.len() > Self::MOST
            || self.readings.front().is_some_and(|(at, _)| *at < since)
        {
            self.readings.pop_front();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_new_lineage_has_lost_what_came_after_its_clock() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let history = || {
            let mut history = History::default();
            assert_eq!(history.connected("a", 10, at(0), at(0)), Lost::Nothing);
            assert!(history.probed(("a", 15), at(30), at(0)));
            assert!(history.probed(("a", 20), at(60), at(0)));
            assert!(!history.probed(("b", 30), at(60), at(0)));
            history
        };
        assert_eq!(history().connected("a", 30, at(61), at(0)), Lost::Nothing);
        assert_eq!(
            history().connected("b", 10, at(61), at(0)),
            Lost::Remembered
        );
        assert_eq!(
            history().connected("b", 40, at(61), at(0)),
            Lost::Remembered
        );
        assert_eq!(history().connected("b", 9, at(61), at(0)), Lost::Forgotten);
        // What came before the second reading is remembered no more.
        assert_eq!(
            history().connected("b", 14, at(61), at(20)),
            Lost::Forgotten
        );
        assert_eq!(
            history().connected("b", 15, at(61), at(20)),
            Lost::Remembered
        );
        assert_eq!(
            history().connected("b", 90, at(61), at(70)),
            Lost::Forgotten
        );
    }

    #[test]
    fn readings_are_bounded() {
        let start = Instant::now();
        let mut history = History::default();
        history.connected("a", 0, start, start);
        for n in 0..1000 {
            history.probed(("a", n), start + Duration::from_secs(n), start);
        }
        assert_eq!(history.readings.len(), History::MOST);
    }
}
