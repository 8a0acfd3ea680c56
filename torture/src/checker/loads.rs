//! Whether a loader ran although another loader's value was there, or was being loaded.

use super::{CLOSE, Checker, Rule, bits};
use crate::log::{Event, Record, Span, Time};

impl Checker<'_> {
    /// For each key, checks each loader that ran with the next one.
    pub(super) fn loads(&mut self) {
        let mut loads: Vec<(u32, Vec<&Record>)> = self
            .loads
            .iter()
            .map(|(key, loads)| (*key, loads.clone()))
            .collect();
        for (key, loads) in &mut loads {
            loads.retain(|load| load_of(load).1 > 0);
            self.verdict.loads += loads.len();
            loads.sort_by_key(|load| load_of(load).1);
            for pair in loads.windows(2) {
                let [first, second] = [pair[0], pair[1]];
                let ((tags, _, ttl, alone), (more, ran, _, also_alone)) =
                    (load_of(first), load_of(second));
                let between = Span {
                    start: first.span.start,
                    end: ran,
                };
                let apart = alone
                    || also_alone
                    || !first.done
                    || load_of(first).1.saturating_add(ttl) < ran + CLOSE
                    || self
                        .of_key
                        .get(key)
                        .is_some_and(|changes| changes.may_meet(between))
                    || bits(tags | more).any(|tag| self.of_tag[tag].may_meet(between))
                    || self.of_all.may_meet(between)
                    || self.disturbed(between, |_| true)
                    || self.stalled(between) > 0;
                if !apart {
                    self.violate(Rule::LoadedTwice, second, Some(first.span));
                }
            }
        }
    }
}

/// Tags, beginning of the loader, TTL, and whether the process could not know of other loads.
fn load_of(record: &Record) -> (u32, Time, Time, bool) {
    match record.event {
        Event::Load {
            tags,
            ran,
            ttl,
            alone,
            ..
        } => (tags, ran, ttl, alone),
        _ => unreachable!("only loads are asked for this"),
    }
}
