//! Each rule of the checker: records that break it, records that only seem to, and records that are excused.

use super::changes::SETTLE;
use super::*;
use crate::log::HELD;

const LIMITS: Limits = Limits {
    push: 100,
    call: 5_000,
    load: 9_000,
    heal: 2_000,
};

fn at(start: Time, end: Time, event: Event) -> Record {
    Record {
        process: 1,
        span: Span { start, end },
        done: true,
        event,
    }
}

fn failed(record: Record) -> Record {
    Record {
        done: false,
        ..record
    }
}

/// Violations of a rule.
fn count(rule: Rule, records: &[Record]) -> usize {
    check(records, LIMITS).count(rule)
}

fn stale(records: &[Record]) -> usize {
    count(Rule::Stale, records)
}

/// Value 7 of key 1, with the tags 0 and 2.
fn written(start: Time, end: Time, ttl: Time) -> Record {
    let event = Event::Write {
        key: 1,
        value: 7,
        tags: 0b101,
        ttl,
    };
    at(start, end, event)
}

fn write(start: Time, end: Time) -> Record {
    written(start, end, 1_000)
}

fn lasting(start: Time, end: Time) -> Record {
    written(start, end, 60_000_000_000)
}

fn read(start: Time) -> Record {
    let event = Event::Read {
        key: 1,
        value: Some(7),
        loading: false,
    };
    at(start, start + 1, event)
}

fn miss(start: Time) -> Record {
    let event = Event::Read {
        key: 1,
        value: None,
        loading: false,
    };
    at(start, start + 1, event)
}

fn fault(start: Time, end: Time, fault: Fault) -> Record {
    let record = at(start, end, Event::Fault(fault));
    Record {
        process: 0,
        ..record
    }
}

fn load(start: Time, end: Time, value: u64) -> Record {
    let event = Event::Load {
        key: 1,
        value,
        tags: 0b1,
        ttl: 60_000_000_000,
        ran: start + 1,
        alone: false,
    };
    at(start, end, event)
}

const OTHER_WRITE: Event = Event::Write {
    key: 1,
    value: 8,
    tags: 0,
    ttl: 60_000_000_000,
};

#[test]
fn a_read_of_a_value_dropped_long_before_is_a_violation() {
    let takers = [
        OTHER_WRITE,
        Event::Remove { key: 1 },
        Event::Invalidate { tags: 0b100 },
        Event::Flush,
    ];
    for taker in takers {
        let taken = at(20, 30, taker);
        assert_eq!(stale(&[write(0, 10), taken, read(131)]), 1, "{taker:?}");
        assert_eq!(stale(&[write(0, 10), taken, read(130)]), 0, "{taker:?}");
    }
}

#[test]
fn changes_of_other_keys_and_tags_do_not_count() {
    let another = Event::Write {
        key: 2,
        value: 8,
        tags: 0b101,
        ttl: 1000,
    };
    let others = [
        another,
        Event::Remove { key: 2 },
        Event::Invalidate { tags: 0b010 },
    ];
    for other in others {
        assert_eq!(
            stale(&[write(0, 10), at(20, 30, other), read(500)]),
            0,
            "{other:?}"
        );
    }
}

#[test]
fn a_change_that_overlaps_the_write_is_no_violation() {
    let overlapping = at(5, 30, Event::Remove { key: 1 });
    assert_eq!(stale(&[write(0, 10), overlapping, read(500)]), 0);
    // A later change that is certain is found after it.
    let later = at(40, 50, Event::Flush);
    assert_eq!(stale(&[write(0, 10), overlapping, later, read(500)]), 1);
}

#[test]
fn failed_calls_prove_nothing() {
    let flush = at(20, 30, Event::Flush);
    assert_eq!(stale(&[write(0, 10), failed(flush), read(500)]), 0);
    assert_eq!(stale(&[failed(write(0, 10)), flush, read(500)]), 0);
}

#[test]
fn a_load_may_store_its_value_and_drops_no_other() {
    assert_eq!(stale(&[write(0, 10), load(20, 30, 8), read(500)]), 0);
    let flushed = at(20, 30, Event::Flush);
    assert_eq!(stale(&[load(0, 10, 7), flushed, read(500)]), 1);
}

#[test]
fn a_change_during_a_load_makes_the_loaded_value_stale() {
    let takers = [
        OTHER_WRITE,
        Event::Remove { key: 1 },
        Event::Invalidate { tags: 0b1 },
        Event::Flush,
    ];
    for taker in takers {
        // The loader runs from 1 on.
        let taken = |start| stale(&[load(0, 100, 7), at(start, 30, taker), read(500)]);
        assert_eq!([taken(1), taken(2)], [0, 1], "{taker:?}");
    }
}

#[test]
fn a_read_long_after_expiry_is_a_violation_if_clocks_were_right() {
    assert_eq!(stale(&[write(0, 10), read(1110)]), 0, "within the bound");
    assert_eq!(stale(&[write(0, 10), read(1111)]), 1);
    assert_eq!(stale(&[failed(write(0, 10)), read(5000)]), 0);
    let untimed = Fault {
        untimed: true,
        ..Fault::default()
    };
    assert_eq!(
        stale(&[write(0, 10), fault(20, 30, untimed), read(1111)]),
        0
    );
    assert_eq!(
        stale(&[write(0, 10), fault(20, 30, Fault::default()), read(1111)]),
        1
    );
}

#[test]
fn a_read_of_a_value_never_written_is_a_violation() {
    assert_eq!(count(Rule::Invented, &[read(1)]), 1);
    assert_eq!(count(Rule::Invented, &[write(0, 1), read(1)]), 0);
}

#[test]
fn a_process_without_hits_is_counted_as_idle() {
    let other = |record: Record| Record {
        process: 2,
        ..record
    };
    let idle = |records: &[Record]| check(records, LIMITS).idle;
    assert_eq!(idle(&[write(0, 10), read(20), other(read(20))]), 0);
    assert_eq!(idle(&[write(0, 10), read(20), other(miss(20))]), 1);
    assert_eq!(idle(&[write(0, 10)]), 1);
}

#[test]
fn of_two_changes_the_one_that_ended_first_counts() {
    let slow = at(20, 1000, Event::Remove { key: 1 });
    let quick = at(25, 30, Event::Remove { key: 1 });
    assert_eq!(stale(&[write(0, 10), slow, quick, read(200)]), 1);
}

#[test]
fn a_stall_extends_the_bound_for_stale_reads() {
    let flush = at(20, 30, Event::Flush);
    let stall = at(40, 90, Event::Stall);
    assert_eq!(stale(&[write(0, 10), flush, stall, read(180)]), 0);
    assert_eq!(stale(&[write(0, 10), flush, stall, read(181)]), 1);
}

#[test]
fn a_change_lost_in_a_fault_must_hold_again_later() {
    let invalidate = at(20, 30, Event::Invalidate { tags: 1 });
    let undone = |since, keys_undone| {
        let lost = Fault {
            undone_since: Some(since),
            keys_undone,
            ..Fault::default()
        };
        fault(40, 50, lost)
    };
    let seen = |change, fault, start| stale(&[lasting(0, 10), change, fault, read(start)]);
    assert_eq!(seen(invalidate, undone(25, false), 2_150), 0);
    assert_eq!(seen(invalidate, undone(25, false), 2_151), 1);
    assert_eq!(
        seen(invalidate, undone(31, false), 200),
        1,
        "it was not lost"
    );
    let pulse = at(60, 70, Event::Pulse);
    let after = |ms| {
        let failed = undone(25, false);
        stale(&[lasting(0, 10), invalidate, failed, pulse, read(ms)])
    };
    assert_eq!([after(170), after(171)], [0, 1], "everything works again");
    let replace = at(20, 30, OTHER_WRITE);
    assert_eq!(seen(replace, undone(25, false), 2_151), 1);
    assert_eq!(
        seen(replace, undone(25, true), 9_000),
        0,
        "nobody tells it again"
    );
    assert_eq!(seen(invalidate, undone(25, true), 2_151), 1);
}

#[test]
fn a_confirmed_value_must_exist_unless_something_dropped_it() {
    let lost = |records: &[Record]| count(Rule::Lost, records);
    assert_eq!(lost(&[lasting(0, 10), miss(500)]), 1);
    assert_eq!(lost(&[lasting(0, 10), miss(9)]), 0, "it was being written");
    assert_eq!(lost(&[failed(lasting(0, 10)), miss(500)]), 0);
    assert_eq!(lost(&[write(0, 10), miss(500)]), 0, "it may have expired");
    assert_eq!(lost(&[lasting(0, 10), failed(miss(500))]), 0);
    let droppers = [
        at(5, 6, Event::Remove { key: 1 }),
        failed(at(20, 30, Event::Remove { key: 1 })),
        at(500, 600, Event::Invalidate { tags: 0b100 }),
        at(20, 30, Event::Flush),
        load(20, 30, 8),
        fault(
            20,
            30,
            Fault {
                loses: true,
                ..Fault::default()
            },
        ),
    ];
    for dropper in droppers {
        assert_eq!(
            lost(&[lasting(0, 10), dropper, miss(500)]),
            0,
            "{dropper:?}"
        );
    }
    let others = [
        at(20, 30, Event::Invalidate { tags: 0b010 }),
        at(20, 30, Event::Remove { key: 2 }),
        at(502, 600, Event::Flush),
        fault(20, 30, Fault::default()),
    ];
    for other in others {
        assert_eq!(lost(&[lasting(0, 10), other, miss(500)]), 1, "{other:?}");
    }
    // A failed change may still happen for a while.
    let slow = failed(at(0, 1, Event::Flush));
    assert_eq!(lost(&[slow, lasting(10, 20), miss(500)]), 0);
    assert_eq!(
        lost(&[slow, lasting(SETTLE + 2, SETTLE + 3), miss(SETTLE + 500)]),
        1
    );
}

#[test]
fn loading_an_existing_value_again_is_a_violation() {
    let twice = |records: &[Record]| count(Rule::LoadedTwice, records);
    assert_eq!(twice(&[load(0, 100, 8), load(50, 150, 9)]), 1, "at once");
    assert_eq!(
        twice(&[load(0, 100, 8), load(200, 250, 9)]),
        1,
        "afterwards"
    );
    assert_eq!(twice(&[failed(load(0, 100, 8)), load(200, 250, 9)]), 0);
    let reasons = [
        at(120, 130, Event::Remove { key: 1 }),
        failed(at(120, 130, Event::Invalidate { tags: 0b1 })),
        at(120, 130, Event::Flush),
        at(120, 130, Event::Stall),
        fault(120, 130, Fault::default()),
    ];
    for reason in reasons {
        assert_eq!(
            twice(&[load(0, 100, 8), reason, load(200, 250, 9)]),
            0,
            "{reason:?}"
        );
    }
    let other = at(120, 130, Event::Invalidate { tags: 0b10 });
    assert_eq!(twice(&[load(0, 100, 8), other, load(200, 250, 9)]), 1);
    let alone = |record: Record| match record.event {
        Event::Load {
            key,
            value,
            tags,
            ttl,
            ran,
            ..
        } => Record {
            event: Event::Load {
                key,
                value,
                tags,
                ttl,
                ran,
                alone: true,
            },
            ..record
        },
        _ => record,
    };
    assert_eq!(twice(&[load(0, 100, 8), alone(load(200, 250, 9))]), 0);
    assert_eq!(twice(&[alone(load(0, 100, 8)), load(200, 250, 9)]), 0);
}

#[test]
fn a_call_beyond_its_timeout_is_a_violation() {
    let overrun = |records: &[Record]| count(Rule::Overrun, records);
    let longest = LIMITS.call + SLACK;
    let call = |took| at(0, took, Event::Remove { key: 1 });
    assert_eq!(overrun(&[call(longest)]), 0);
    assert_eq!(overrun(&[call(longest + 1)]), 1);
    assert_eq!(overrun(&[failed(call(longest + 1))]), 1);
    assert_eq!(overrun(&[call(longest + 1), at(10, 20, Event::Stall)]), 0);
    let loads = LIMITS.load + SLACK;
    assert_eq!(overrun(&[load(0, loads, 8)]), 0);
    assert_eq!(overrun(&[load(0, loads + 1, 8)]), 1);
}

#[test]
fn no_success_soon_after_a_fault_is_a_violation() {
    let unhealed = |records: &[Record]| count(Rule::Unhealed, records);
    let broken = fault(100, 200, Fault::default());
    let pulse = |start: Time| at(start, start + 1, Event::Pulse);
    assert_eq!(unhealed(&[broken, pulse(2_199)]), 0);
    let late = check(&[broken, pulse(2_201)], LIMITS);
    assert_eq!(late.count(Rule::Unhealed), 1);
    assert_eq!((late.heals, late.slowest_heal), (0, 0));
    let healed = check(&[broken, pulse(150), pulse(300)], LIMITS);
    assert_eq!((healed.heals, healed.slowest_heal), (1, 101));
    // The process did no work for that long, or the next fault came before.
    assert_eq!(unhealed(&[broken, pulse(150)]), 0);
    let next = fault(1_000, 1_100, Fault::default());
    assert_eq!(unhealed(&[broken, next, pulse(2_500)]), 0);
    // A call that fails without a fault, and the calls after it.
    let failure = failed(at(5_000, 5_001, Event::Remove { key: 1 }));
    let later = at(9_000, 9_001, Event::Remove { key: 1 });
    assert_eq!(unhealed(&[failure, later]), 1);
    assert_eq!(unhealed(&[failure, pulse(7_000), later]), 0);
    assert_eq!(unhealed(&[failure, pulse(7_001), later]), 1);
    assert_eq!(unhealed(&[failure]), 0, "nobody worked on for so long");
    assert_eq!(unhealed(&[broken, pulse(300), failure, later]), 1);
    let again = fault(4_000, 4_100, Fault::default());
    assert_eq!(check(&[again, failure, later], LIMITS).unexplained, 0);
}

#[test]
fn a_local_value_that_no_server_has_at_the_end_is_stale() {
    let held = Event::Read {
        key: 1,
        value: Some(HELD),
        loading: true,
    };
    assert_eq!(stale(&[at(0, 1, held)]), 1);
}

#[test]
fn a_violation_lists_the_records_of_its_key_and_tags() {
    let invalidated = |start, tags| at(start, start + 1, Event::Invalidate { tags });
    let (own, other) = (
        invalidated(2_000_000_020, 0b100),
        invalidated(2_000_000_020, 0b10),
    );
    let long_ago = at(0, 10, Event::Remove { key: 1 });
    let elsewhere = at(2_000_000_010, 2_000_000_011, Event::Remove { key: 2 });
    let (old, late) = (read(2_000_000_500), read(2_000_000_600));
    let written = lasting(2_000_000_000, 2_000_000_010);
    let records = [old, late, own, other, long_ago, elsewhere, written];
    let verdict = check(&records, LIMITS);
    assert_eq!(
        history(&records, &verdict.violations[0]),
        [written, own, old]
    );
}
