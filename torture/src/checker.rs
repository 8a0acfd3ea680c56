//! Checks the records of a run's processes against the promises. A pure function over these records.
//!
//! - **Stale**: a read of value `v` whose key was replaced or removed, or one of whose tags was invalidated, by a call
//!   that began after the write of `v` had ended, or after its loader had begun, and itself had ended longer than the
//!   push bound before the read began; or a read after the TTL of `v`; or a value that is held in the end although no
//!   server has it.
//! - **Invented**: a read of a value that no process wrote.
//! - **Lost**: a read that found nothing although a confirmed value was there and nothing had dropped it.
//! - **Loaded twice**: a loader that ran although another loader's value was there, or was on its way.
//! - **Overrun**: a call that took longer than its time-outs.
//! - **Unhealed**: a process for which not everything works again within a bound after a fault ended, or after a call
//!   failed without one.
//!
//! A violation that is not certain is not reported. Where a process did not get to run, its bounds are longer by that
//! time.

mod changes;
mod faults;
mod loads;
mod reads;

use std::collections::HashMap;

use changes::Changes;

use crate::log::{Event, Fault, Record, Span, Time};

/// The limits that a run is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest time from a change to its push.
    pub(crate) push: Time,
    /// The longest call.
    pub(crate) call: Time,
    /// The longest call that may load.
    pub(crate) load: Time,
    /// The time by which everything works again after a fault.
    pub(crate) heal: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    Stale,
    Invented,
    Lost,
    LoadedTwice,
    Overrun,
    Unhealed,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    /// The record that shows it.
    pub(crate) record: Record,
    /// The span that it contradicts.
    pub(crate) because: Option<Span>,
}

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    pub(crate) reads: usize,
    pub(crate) misses: usize,
    pub(crate) changes: usize,
    pub(crate) loads: usize,
    pub(crate) failed: usize,
    /// Failed calls that no fault explains.
    pub(crate) unexplained: usize,
    pub(crate) faults: usize,
    /// The total time for which a process did not get to run.
    pub(crate) stalled: Time,
    /// The age of the oldest read, counted from the end of the change that took its value away.
    pub(crate) oldest: Time,
    pub(crate) longest_call: Time,
    pub(crate) longest_load: Time,
    pub(crate) slowest_heal: Time,
    /// Processes that never found a value: they show nothing.
    pub(crate) idle: usize,
    /// The number of faults that were followed by enough quiet to check the healing.
    pub(crate) heals: usize,
}

impl Verdict {
    pub(crate) fn count(&self, rule: Rule) -> usize {
        let of_rule = self.violations.iter().filter(|v| v.rule == rule);
        of_rule.count()
    }
}

/// A busy machine may be late by this much without a visible stall.
const SLACK: Time = 250_000_000;
/// A value that is missing this shortly before its end counts as expired.
const CLOSE: Time = 1_000_000_000;

/// The write of a value.
#[derive(Clone, Copy)]
struct Written {
    span: Span,
    /// A change that begins later than this takes the value away. For a load, this is the beginning of its loader: the
    /// lease has to notice what happens while that runs.
    since: Time,
    done: bool,
    tags: u32,
    ttl: Time,
}

struct Checker<'r> {
    limits: Limits,
    records: &'r [Record],
    of_key: HashMap<u32, Changes>,
    of_tag: Vec<Changes>,
    of_all: Changes,
    by_value: HashMap<u64, Written>,
    /// Confirmed writes and loads of each key, by their beginning.
    writes: HashMap<u32, Vec<Written>>,
    loads: HashMap<u32, Vec<&'r Record>>,
    /// With the moment until which the fault may have an effect.
    faults: Vec<(Span, Fault, Time)>,
    stalls: HashMap<u64, Vec<Span>>,
    /// The pulses of each process that ended well, by their beginning, and the last activity of the process.
    pulses: HashMap<u64, (Vec<Span>, Time)>,
    verdict: Verdict,
}

/// Checks the records of all processes.
pub(crate) fn check(records: &[Record], limits: Limits) -> Verdict {
    let mut checker = Checker {
        limits,
        records,
        of_key: HashMap::new(),
        of_tag: (0..32).map(|_| Changes::default()).collect(),
        of_all: Changes::default(),
        by_value: HashMap::new(),
        writes: HashMap::new(),
        loads: HashMap::new(),
        faults: Vec::new(),
        stalls: HashMap::new(),
        pulses: HashMap::new(),
        verdict: Verdict::default(),
    };
    checker.sort();
    checker.calls();
    checker.reads();
    checker.loads();
    checker.heals();
    checker
        .verdict
        .violations
        .sort_by_key(|violation| violation.rule);
    checker.verdict
}

/// The other events of a violation's key, and of the tags of its value, since shortly before the value was written.
pub(crate) fn history(records: &[Record], violation: &Violation) -> Vec<Record> {
    const BEFORE: Time = 1_000_000_000;
    let end = violation.record.span.end;
    let (key, value) = match violation.record.event {
        Event::Read { key, value, .. } => (key, value),
        Event::Load { key, value, .. } => (key, Some(value)),
        _ => return Vec::new(),
    };
    let written = records.iter().find_map(|record| match record.event {
        Event::Write {
            value: of, tags, ..
        }
        | Event::Load {
            value: of, tags, ..
        } if Some(of) == value => Some((record.span.start, tags)),
        _ => None,
    });
    let (since, of_value) = written.unwrap_or((violation.record.span.start, 0));
    let concerns = |record: &&Record| {
        record.span.end >= since.saturating_sub(BEFORE)
            && record.span.start <= end
            && match record.event {
                Event::Read { key: of, .. }
                | Event::Write { key: of, .. }
                | Event::Load { key: of, .. }
                | Event::Remove { key: of } => of == key,
                Event::Invalidate { tags } => tags & of_value != 0,
                Event::Flush | Event::Stall | Event::Fault(_) => true,
                Event::Pulse => false,
            }
    };
    let mut history: Vec<Record> = records.iter().filter(concerns).copied().collect();
    history.sort_by_key(|record| record.span.start);
    history
}

impl Checker<'_> {
    fn sort(&mut self) {
        for record in self.records {
            match record.event {
                Event::Fault(fault) => {
                    let until = record.span.end.saturating_add(self.limits.heal);
                    self.faults.push((record.span, fault, until));
                }
                Event::Stall => self
                    .stalls
                    .entry(record.process)
                    .or_default()
                    .push(record.span),
                _ => {}
            }
        }
        self.faults.sort_by_key(|(span, ..)| span.start);
        self.find_pulses();
        for record in self.records {
            let (span, done) = (record.span, record.done);
            match record.event {
                Event::Write {
                    key,
                    value,
                    tags,
                    ttl,
                } => {
                    let written = Written {
                        span,
                        since: span.end,
                        done,
                        tags,
                        ttl,
                    };
                    self.by_value.insert(value, written);
                    if done {
                        self.writes.entry(key).or_default().push(written);
                    }
                    self.change_key(key, record);
                }
                // A load may have taken nothing away.
                Event::Load {
                    key,
                    value,
                    tags,
                    ttl,
                    ran,
                    ..
                } => {
                    self.by_value.insert(
                        value,
                        Written {
                            span,
                            since: ran,
                            done,
                            tags,
                            ttl,
                        },
                    );
                    self.loads.entry(key).or_default().push(record);
                }
                Event::Remove { key } => self.change_key(key, record),
                Event::Invalidate { tags } => {
                    let certain = self.took_effect(record, false);
                    for tag in bits(tags) {
                        self.of_tag[tag].add(record, certain);
                    }
                }
                Event::Flush => {
                    let certain = self.took_effect(record, false);
                    self.of_all.add(record, certain);
                }
                _ => {}
            }
        }
        self.of_key.values_mut().for_each(Changes::ready);
        self.of_tag.iter_mut().for_each(Changes::ready);
        self.of_all.ready();
        for writes in self.writes.values_mut() {
            writes.sort_by_key(|written| written.span.start);
        }
    }

    fn change_key(&mut self, key: u32, record: &Record) {
        let certain = self.took_effect(record, true);
        self.of_key.entry(key).or_default().add(record, certain);
    }

    fn violate(&mut self, rule: Rule, record: &Record, because: Option<Span>) {
        self.verdict.violations.push(Violation {
            rule,
            record: *record,
            because,
        });
    }

    fn calls(&mut self) {
        let limits = self.limits;
        for record in self.records {
            let loads = match record.event {
                Event::Read { loading, .. } => loading,
                Event::Load { .. } => true,
                Event::Stall => {
                    self.verdict.stalled += record.span.end - record.span.start;
                    continue;
                }
                Event::Fault(_) => {
                    self.verdict.faults += 1;
                    continue;
                }
                _ => false,
            };
            // The process that disturbs the servers makes no client calls.
            if record.process == 0 {
                continue;
            }
            let took = record.span.end.saturating_sub(record.span.start);
            let (limit, longest) = if loads {
                (limits.load, &mut self.verdict.longest_load)
            } else {
                (limits.call, &mut self.verdict.longest_call)
            };
            *longest = took.max(*longest);
            if took > limit + SLACK && took > limit + SLACK + self.stalled(record.span) {
                self.violate(Rule::Overrun, record, None);
            }
            if !record.done {
                self.verdict.failed += 1;
                if !self.may_fail(record.span) {
                    self.verdict.unexplained += 1;
                    self.recovers(record);
                }
            }
        }
    }
}

fn bits(tags: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |tag| tags & (1 << tag) != 0)
}

#[cfg(test)]
mod tests;
