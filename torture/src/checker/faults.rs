//! The effects that faults and a busy machine excuse, and whether everything works again after them.

use super::{Checker, Rule};
use crate::log::{Event, Fault, Record, Span, Time};

const NEVER: Time = Time::MAX;

impl Checker<'_> {
    /// The span in which a change began to hold, if that is certain. A change that a server lost holds when it has been
    /// sent again.
    pub(super) fn took_effect(&self, record: &Record, of_key: bool) -> Option<Span> {
        if !record.done {
            return None;
        }
        let mut span = record.span;
        for (fault_span, fault, until) in &self.faults {
            let Some(start) = fault.undone_since else {
                continue;
            };
            let undone = Span {
                start,
                end: fault_span.end,
            };
            if record.span.meets(undone) {
                if of_key && fault.keys_undone {
                    return None;
                }
                span.end = span.end.max(*until);
            }
        }
        Some(span)
    }

    /// The part of that time in which a process did not get to run. All processes share the machine with the servers,
    /// so if one could not run, the others could not either.
    pub(super) fn stalled(&self, time: Span) -> Time {
        let within = |stall: &Span| {
            let (start, end) = (stall.start.max(time.start), stall.end.min(time.end));
            end.saturating_sub(start)
        };
        let each = self
            .stalls
            .values()
            .map(|stalls| stalls.iter().map(within).sum());
        each.max().unwrap_or(0)
    }

    /// Whether a fault may still have had its effect in this time.
    pub(super) fn disturbed(&self, time: Span, counts: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(|(span, fault, until)| {
            let end = *until;
            counts(fault) && Span { end, ..*span }.meets(time)
        })
    }

    /// Whether a call may fail because of a fault.
    pub(super) fn may_fail(&self, time: Span) -> bool {
        self.faults.iter().any(|(span, ..)| {
            let end = span.end.saturating_add(self.limits.heal);
            Span { end, ..*span }.meets(time)
        })
    }

    /// On a busy machine a probe may fail without a fault. That must heal as well.
    pub(super) fn recovers(&mut self, failed: &Record) {
        let Some((pulses, last)) = self.pulses.get(&failed.process) else {
            return;
        };
        let start = failed.span.end;
        let end = start.saturating_add(self.limits.heal);
        let deadline = end + self.stalled(Span { start, end });
        let healed = first_after(pulses, failed.span.start);
        if *last > deadline && healed.is_none_or(|healed| healed > deadline) {
            self.violate(Rule::Unhealed, failed, None);
        }
    }

    /// Finds the pulses of each process. A fault has no effect any more when everything works for each process again.
    pub(super) fn find_pulses(&mut self) {
        for record in self.records.iter().filter(|record| record.process > 0) {
            let (pulses, last) = self.pulses.entry(record.process).or_default();
            *last = record.span.end.max(*last);
            if record.event == Event::Pulse && record.done {
                pulses.push(record.span);
            }
        }
        for (pulses, _) in self.pulses.values_mut() {
            pulses.sort_by_key(|pulse| pulse.start);
        }
        for (fault, _, until) in &mut self.faults {
            let first = self
                .pulses
                .values()
                .map(|(pulses, _)| first_after(pulses, fault.end));
            let all: Option<Vec<Time>> = first.collect();
            let healed = all.and_then(|all| all.into_iter().max());
            *until = healed.map_or(*until, |healed| healed.min(*until));
        }
    }

    /// Checks that each process has a pulse soon enough after each fault.
    pub(super) fn heals(&mut self) {
        let faults = self.faults.clone();
        for (at, (fault, ..)) in faults.iter().enumerate() {
            let next = faults.get(at + 1).map_or(NEVER, |(span, ..)| span.start);
            let each: Vec<(u64, Option<Time>, Time)> = self
                .pulses
                .iter()
                .map(|(process, (pulses, last))| (*process, first_after(pulses, fault.end), *last))
                .collect();
            for (process, healed, last) in each {
                let end = fault.end.saturating_add(self.limits.heal);
                let start = fault.end;
                let deadline = end + self.stalled(Span { start, end });
                if let Some(healed) = healed.filter(|healed| *healed <= next.min(deadline)) {
                    self.verdict.heals += 1;
                    self.verdict.slowest_heal = self.verdict.slowest_heal.max(healed - start);
                } else if deadline < next.min(last) {
                    let record = Record {
                        process,
                        span: *fault,
                        done: false,
                        event: Event::Pulse,
                    };
                    self.violate(
                        Rule::Unhealed,
                        &record,
                        healed.map(|end| Span { start, end }),
                    );
                }
            }
        }
    }
}

/// The end of the first pulse that began after a moment.
fn first_after(pulses: &[Span], moment: Time) -> Option<Time> {
    let first = pulses.partition_point(|pulse| pulse.start < moment);
    pulses.get(first).map(|pulse| pulse.end)
}
