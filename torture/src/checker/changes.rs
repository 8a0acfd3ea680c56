//! What took values away, and when.

use crate::log::{Record, Span, Time};

/// What failed may take effect so much later: it waits in buffers of a server that is stopped, or is told again.
pub(super) const SETTLE: Time = 15_000_000_000;

/// Changes of one key, of one tag's entries, or of everything.
#[derive(Default)]
pub(super) struct Changes {
    /// Those that took effect, by their beginning.
    certain: Vec<Span>,
    /// For each, the one that ends first among it and those behind it.
    first_end: Vec<Span>,
    /// Those that took effect or may have, by their beginning.
    possible: Vec<Span>,
    /// For each, the last end among it and those before it.
    last_end: Vec<Time>,
}

impl Changes {
    /// Adds a change, and from when on it certainly holds.
    pub(super) fn add(&mut self, record: &Record, certain: Option<Span>) {
        let end = record.span.end;
        let end = if record.done {
            end
        } else {
            end.saturating_add(SETTLE)
        };
        self.possible.push(Span { end, ..record.span });
        self.certain.extend(certain);
    }

    pub(super) fn ready(&mut self) {
        self.certain.sort_by_key(|span| span.start);
        self.first_end.clone_from(&self.certain);
        for at in (1..self.first_end.len()).rev() {
            if self.first_end[at].end < self.first_end[at - 1].end {
                self.first_end[at - 1] = self.first_end[at];
            }
        }
        self.possible.sort_by_key(|span| span.start);
        let mut last = 0;
        self.last_end = self
            .possible
            .iter()
            .map(|span| {
                last = last.max(span.end);
                last
            })
            .collect();
    }

    /// The one that ended first among those that certainly began after a moment.
    pub(super) fn first_after(&self, moment: Time) -> Option<Span> {
        let at = self.certain.partition_point(|span| span.start <= moment);
        self.first_end.get(at).copied()
    }

    /// Whether one may have happened in this time.
    pub(super) fn may_meet(&self, time: Span) -> bool {
        let begun = self.possible.partition_point(|span| span.start <= time.end);
        begun > 0 && self.last_end[begun - 1] >= time.start
    }

    /// The same, of all but the change that began with this time.
    pub(super) fn another_may_meet(&self, time: Span) -> bool {
        let before = self
            .possible
            .partition_point(|span| span.start < time.start);
        let begun = self.possible.partition_point(|span| span.start <= time.end);
        begun > before + 1 || (before > 0 && self.last_end[before - 1] >= time.start)
    }
}
