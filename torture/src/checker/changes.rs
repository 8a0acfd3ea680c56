//! The changes that took values away, with their times.

use crate::log::{Record, Span, Time};

/// A failed change may take effect up to this much later: it waits in buffers of a stopped server, or is sent again.
pub(super) const SETTLE: Time = 15_000_000_000;

/// Changes of one key, of one tag's entries, or of everything.
#[derive(Default)]
pub(super) struct Changes {
    /// Changes that took effect, by their beginning.
    certain: Vec<Span>,
    /// For each, the one that ends first among it and later ones.
    first_end: Vec<Span>,
    /// Changes that took effect or may have, by their beginning.
    possible: Vec<Span>,
    /// For each, the last end among it and earlier ones.
    last_end: Vec<Time>,
}

impl Changes {
    /// Adds a change, and the span in which it certainly began to hold.
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

    /// The one that ended first among the changes that certainly began after a moment.
    pub(super) fn first_after(&self, moment: Time) -> Option<Span> {
        let at = self.certain.partition_point(|span| span.start <= moment);
        self.first_end.get(at).copied()
    }

    /// Whether a change may have happened in this time.
    pub(super) fn may_meet(&self, time: Span) -> bool {
        let begun = self.possible.partition_point(|span| span.start <= time.end);
        begun > 0 && self.last_end[begun - 1] >= time.start
    }

    /// The same for all changes but the one that began with this time.
    pub(super) fn another_may_meet(&self, time: Span) -> bool {
        let before = self
            .possible
            .partition_point(|span| span.start < time.start);
        let begun = self.possible.partition_point(|span| span.start <= time.end);
        begun > before + 1 || (before > 0 && self.last_end[before - 1] >= time.start)
    }
}
