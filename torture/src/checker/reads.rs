//! Whether each value that was read is fresh and was written, and whether each missing value is gone for a reason.

use std::collections::HashMap;

use super::{CLOSE, Checker, Rule, bits};
use crate::log::{Event, HELD, Record, Span};

impl Checker<'_> {
    pub(super) fn reads(&mut self) {
        let mut found = HashMap::new();
        for record in self.records.iter().filter(|record| record.process > 0) {
            let found: &mut bool = found.entry(record.process).or_default();
            *found |= matches!(record.event, Event::Read { value: Some(_), .. });
        }
        self.verdict.idle = found.values().filter(|found| !**found).count();
        for record in self.records {
            match record.event {
                Event::Read {
                    key,
                    value: Some(value),
                    ..
                } => {
                    self.verdict.reads += 1;
                    self.found(record, key, value);
                }
                Event::Read {
                    key, value: None, ..
                } if record.done => {
                    self.verdict.misses += 1;
                    self.missed(record, key);
                }
                Event::Write { .. }
                | Event::Remove { .. }
                | Event::Invalidate { .. }
                | Event::Flush => {
                    self.verdict.changes += 1;
                }
                _ => {}
            }
        }
    }

    fn found(&mut self, read: &Record, key: u32, value: u64) {
        if value == HELD {
            return self.violate(Rule::Stale, read, None);
        }
        let Some(&write) = self.by_value.get(&value) else {
            return self.violate(Rule::Invented, read, None);
        };
        if !write.done {
            return;
        }
        let lived = Span {
            start: write.span.end,
            end: read.span.start.max(write.span.end),
        };
        let expired = Span {
            end: write.span.end.saturating_add(write.ttl),
            ..lived
        };
        let timed = !self.disturbed(lived, |fault| fault.untimed);
        let of_tags = bits(write.tags).map(|tag| &self.of_tag[tag]);
        let changes = self
            .of_key
            .get(&key)
            .into_iter()
            .chain(of_tags)
            .chain([&self.of_all]);
        let first = changes
            .filter_map(|changes| changes.first_after(write.since))
            .chain(timed.then_some(expired))
            .min_by_key(|span| span.end);
        let Some(taken) = first.filter(|taken| taken.end < read.span.start) else {
            return;
        };
        let since = Span {
            start: taken.end,
            end: read.span.start,
        };
        self.verdict.oldest = self.verdict.oldest.max(since.end - since.start);
        let late = since.end - since.start;
        if late > self.limits.push && late > self.limits.push + self.stalled(since) {
            self.violate(Rule::Stale, read, Some(taken));
        }
    }

    fn missed(&mut self, read: &Record, key: u32) {
        let Some(writes) = self.writes.get(&key) else {
            return;
        };
        let before = writes.partition_point(|written| written.span.start < read.span.start);
        let Some(&write) = before.checked_sub(1).and_then(|last| writes.get(last)) else {
            return;
        };
        let lived = Span {
            start: write.span.start,
            end: read.span.end,
        };
        let loaded = self
            .loads
            .get(&key)
            .is_some_and(|loads| loads.iter().any(|load| load.span.meets(lived)));
        let dropped = loaded
            || write.span.end >= read.span.start
            || write.span.start.saturating_add(write.ttl) < read.span.end + CLOSE
            || self.of_key[&key].another_may_meet(lived)
            || bits(write.tags).any(|tag| self.of_tag[tag].may_meet(lived))
            || self.of_all.may_meet(lived)
            || self.disturbed(lived, |fault| fault.loses);
        if !dropped {
            self.violate(Rule::Lost, read, Some(write.span));
        }
    }
}
