//! Finds reads that should not have happened.
//!
//! Several processes write down what they did to a cache: each operation with the time before it began and the
//! time after it had ended, by one clock. Every value is written once, so a value names its write. A read of value
//! `v` is **wrong** if something that took `v` away (another write of the key, its removal, an invalidation of one of
//! the tags that `v` was written with, a flush) began after the write of `v` had ended and itself had ended longer
//! than the push delay bound before the read began, or if the TTL of `v` had, counted from the end of its write.
//! Nothing else can be said for sure, so nothing else is reported.

use std::collections::HashMap;

/// Nanoseconds of the common clock.
pub(crate) type Time = u64;

/// When an operation ran. Of one that failed it is unknown whether and when it took effect: it ends never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: Time,
    pub(crate) end: Time,
}

pub(crate) const NEVER: Time = Time::MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Read {
        key: u32,
        value: u64,
    },
    /// Tags as bits.
    Write {
        key: u32,
        value: u64,
        tags: u32,
        ttl: Time,
    },
    /// A value that may have been stored, and if so before this ended; or nothing was.
    Load {
        key: u32,
        value: u64,
        tags: u32,
        ttl: Time,
    },
    Remove {
        key: u32,
    },
    Invalidate {
        tags: u32,
    },
    /// Everything is gone.
    Flush,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) span: Span,
    pub(crate) event: Event,
}

/// A wrong read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) read: Record,
    /// What took the value away before.
    pub(crate) taken: Option<Span>,
}

/// Things that took values away, by their beginning; asks for the one that ended first among those that began
/// after a moment.
#[derive(Default)]
struct Takers {
    spans: Vec<Span>,
    /// For each, the one that ends first among it and those behind it.
    first_end: Vec<Span>,
}

impl Takers {
    fn add(&mut self, span: Span) {
        if span.end != NEVER {
            self.spans.push(span);
        }
    }

    fn ready(&mut self) {
        self.spans.sort_by_key(|span| span.start);
        self.first_end.clone_from(&self.spans);
        for at in (1..self.first_end.len()).rev() {
            if self.first_end[at].end < self.first_end[at - 1].end {
                self.first_end[at - 1] = self.first_end[at];
            }
        }
    }

    fn first_after(&self, moment: Time) -> Option<Span> {
        let at = self.spans.partition_point(|span| span.start <= moment);
        self.first_end.get(at).copied()
    }
}

/// How a value was written.
struct Written {
    span: Span,
    tags: u32,
    ttl: Time,
}

/// Finds the wrong reads among what all processes did.
pub(crate) fn check(records: &[Record], bound: Time) -> Vec<Violation> {
    let mut of_key: HashMap<u32, Takers> = HashMap::new();
    let mut of_tag: Vec<Takers> = (0..32).map(|_| Takers::default()).collect();
    let mut of_all = Takers::default();
    let mut writes: HashMap<u64, Written> = HashMap::new();
    for record in records {
        let span = record.span;
        match record.event {
            Event::Read { .. } => {}
            Event::Write {
                key,
                value,
                tags,
                ttl,
            } => {
                writes.insert(value, Written { span, tags, ttl });
                of_key.entry(key).or_default().add(span);
            }
            // It may have taken nothing away.
            Event::Load {
                value, tags, ttl, ..
            } => {
                writes.insert(value, Written { span, tags, ttl });
            }
            Event::Remove { key } => of_key.entry(key).or_default().add(span),
            Event::Invalidate { tags } => {
                for (tag, takers) in of_tag.iter_mut().enumerate() {
                    if tags & (1 << tag) != 0 {
                        takers.add(span);
                    }
                }
            }
            Event::Flush => of_all.add(span),
        }
    }
    of_key.values_mut().for_each(Takers::ready);
    of_tag.iter_mut().for_each(Takers::ready);
    of_all.ready();

    let mut violations = Vec::new();
    for read in records {
        let Event::Read { key, value } = read.event else {
            continue;
        };
        let Some(write) = writes.get(&value) else {
            // Nobody has ever written it.
            violations.push(Violation {
                read: read.clone(),
                taken: None,
            });
            continue;
        };
        if write.span.end == NEVER {
            continue;
        }
        let expired = Span {
            start: write.span.end,
            end: write.span.end.saturating_add(write.ttl),
        };
        let by_tag = of_tag
            .iter()
            .enumerate()
            .filter(|(tag, _)| write.tags & (1 << tag) != 0)
            .map(|(_, takers)| takers);
        let takers = of_key.get(&key).into_iter().chain(by_tag).chain([&of_all]);
        let first = takers
            .filter_map(|takers| takers.first_after(write.span.end))
            .chain([expired])
            .min_by_key(|span| span.end);
        if let Some(taken) = first
            && taken.end.saturating_add(bound) < read.span.start
        {
            violations.push(Violation {
                read: read.clone(),
                taken: Some(taken),
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Time = 100;

    fn at(start: Time, end: Time, event: Event) -> Record {
        Record {
            span: Span { start, end },
            event,
        }
    }

    fn wrong(records: &[Record]) -> usize {
        check(records, BOUND).len()
    }

    fn write(start: Time, end: Time) -> Record {
        at(
            start,
            end,
            Event::Write {
                key: 1,
                value: 7,
                tags: 0b101,
                ttl: 1000,
            },
        )
    }

    fn read(start: Time) -> Record {
        at(start, start + 1, Event::Read { key: 1, value: 7 })
    }

    #[test]
    fn a_value_that_was_taken_away_long_before_is_wrong_to_read() {
        for taker in [
            Event::Write {
                key: 1,
                value: 8,
                tags: 0,
                ttl: 1000,
            },
            Event::Remove { key: 1 },
            Event::Invalidate { tags: 0b100 },
            Event::Flush,
        ] {
            let taken = at(20, 30, taker.clone());
            assert_eq!(
                wrong(&[write(0, 10), taken.clone(), read(131)]),
                1,
                "{taker:?}"
            );
            assert_eq!(
                wrong(&[write(0, 10), taken, read(130)]),
                0,
                "{taker:?} within the bound"
            );
        }
    }

    #[test]
    fn what_is_about_others_takes_nothing_away() {
        for other in [
            Event::Write {
                key: 2,
                value: 8,
                tags: 0b101,
                ttl: 1000,
            },
            Event::Remove { key: 2 },
            Event::Invalidate { tags: 0b010 },
        ] {
            assert_eq!(
                wrong(&[write(0, 10), at(20, 30, other.clone()), read(500)]),
                0,
                "{other:?}"
            );
        }
    }

    #[test]
    fn what_may_have_happened_before_the_write_is_not_held_against_the_read() {
        let overlapping = at(5, 30, Event::Remove { key: 1 });
        assert_eq!(wrong(&[write(0, 10), overlapping.clone(), read(500)]), 0);
        // A later one that is certain is found behind it.
        let later = at(40, 50, Event::Flush);
        assert_eq!(wrong(&[write(0, 10), overlapping, later, read(500)]), 1);
    }

    #[test]
    fn what_failed_proves_nothing() {
        assert_eq!(
            wrong(&[write(0, 10), at(20, NEVER, Event::Flush), read(500)]),
            0
        );
        assert_eq!(
            wrong(&[write(0, NEVER), at(20, 30, Event::Flush), read(500)]),
            0
        );
    }

    #[test]
    fn a_load_may_have_stored_its_value_and_takes_nothing_away() {
        let load = |value| Event::Load {
            key: 1,
            value,
            tags: 0b1,
            ttl: 1000,
        };
        assert_eq!(wrong(&[write(0, 10), at(20, 30, load(8)), read(500)]), 0);
        let flushed = at(20, 30, Event::Flush);
        assert_eq!(wrong(&[at(0, 10, load(7)), flushed, read(500)]), 1);
    }

    #[test]
    fn a_value_that_has_expired_long_before_is_wrong_to_read() {
        assert_eq!(wrong(&[write(0, 10), read(1110)]), 0, "within the bound");
        assert_eq!(wrong(&[write(0, 10), read(1111)]), 1);
        assert_eq!(wrong(&[write(0, NEVER), read(5000)]), 0);
    }

    #[test]
    fn a_value_that_nobody_wrote_is_wrong_to_read() {
        assert_eq!(wrong(&[read(1)]), 1);
    }

    #[test]
    fn the_one_that_ended_first_counts_whatever_order_they_began_in() {
        let slow = at(20, 1000, Event::Remove { key: 1 });
        let quick = at(25, 30, Event::Remove { key: 1 });
        assert_eq!(wrong(&[write(0, 10), slow, quick, read(200)]), 1);
    }
}
