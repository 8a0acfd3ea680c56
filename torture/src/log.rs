//! What the processes of a run write down: each operation with the time before it began and the time after it had
//! ended, by one clock. Every value is written once, so a value names its write.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds of the common clock.
pub(crate) type Time = u64;

pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock after 1970").as_nanos() as Time
}

/// From one moment to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: Time,
    pub(crate) end: Time,
}

impl Span {
    pub(crate) fn meets(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// Tags as bits, times to live in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// What a read answered. `loading`: it could have loaded the value, and may take that long.
    Read {
        key: u32,
        value: Option<u64>,
        loading: bool,
    },
    Write {
        key: u32,
        value: u64,
        tags: u32,
        ttl: Time,
    },
    /// A loader ran, from `ran` on: its value may have been stored, and if so before this ended. `alone`: the process
    /// could not have known of another load, since a server did not answer.
    Load {
        key: u32,
        value: u64,
        tags: u32,
        ttl: Time,
        ran: Time,
        alone: bool,
    },
    Remove {
        key: u32,
    },
    Invalidate {
        tags: u32,
    },
    /// Everything is gone.
    Flush,
    /// A value was written and its tag invalidated: everything works for this process.
    Pulse,
    /// The process did not get to run.
    Stall,
    /// Something was done to the servers.
    Fault(Fault),
}

/// What a fault may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Values may be gone that nothing dropped.
    pub(crate) loses: bool,
    /// What was confirmed since this moment may be undone until clients have told it again.
    pub(crate) undone_since: Option<Time>,
    /// And what was done to keys is not told again.
    pub(crate) keys_undone: bool,
    /// Times to live end at another time.
    pub(crate) untimed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// 0: the process that disturbs the servers.
    pub(crate) process: u64,
    pub(crate) span: Span,
    /// Of what failed it is unknown whether and when it took effect.
    pub(crate) done: bool,
    pub(crate) event: Event,
}

/// Writes records, one a line.
pub(crate) fn write(file: &Path, records: &[Record]) {
    let mut text = String::new();
    for Record {
        process,
        span,
        done,
        event,
    } in records
    {
        let (kind, numbers) = match *event {
            Event::Read {
                key,
                value,
                loading,
            } => (
                'r',
                [
                    key.into(),
                    value.unwrap_or(0),
                    value.is_some().into(),
                    loading.into(),
                    0,
                    0,
                ],
            ),
            Event::Write {
                key,
                value,
                tags,
                ttl,
            } => ('w', [key.into(), value, tags.into(), ttl, 0, 0]),
            Event::Load {
                key,
                value,
                tags,
                ttl,
                ran,
                alone,
            } => (
                'l',
                [key.into(), value, tags.into(), ttl, ran, alone.into()],
            ),
            Event::Remove { key } => ('d', [key.into(), 0, 0, 0, 0, 0]),
            Event::Invalidate { tags } => ('i', [tags.into(), 0, 0, 0, 0, 0]),
            Event::Flush => ('f', [0; 6]),
            Event::Pulse => ('p', [0; 6]),
            Event::Stall => ('s', [0; 6]),
            Event::Fault(_) => {
                unreachable!("only the parent process has faults, and writes no file")
            }
        };
        let [a, b, c, d, e, f] = numbers;
        let (start, end, done) = (span.start, span.end, u64::from(*done));
        writeln!(
            text,
            "{kind} {process} {start} {end} {done} {a} {b} {c} {d} {e} {f}"
        )
        .expect("a string takes everything");
    }
    std::fs::write(file, text).expect("a file in the parent's directory");
}

/// Reads what [`write`] wrote.
pub(crate) fn read(file: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(file).expect("the records of a process of ours");
    text.lines().map(parsed).collect()
}

fn parsed(line: &str) -> Record {
    let (kind, rest) = line.split_once(' ').expect("a kind and its numbers");
    let mut n = [0; 10];
    for (number, word) in n.iter_mut().zip(rest.split(' ')) {
        *number = word.parse().expect("a number");
    }
    let [process, start, end, done, a, b, c, d, ran, alone] = n;
    let (key, tags, ttl) = (a as u32, c as u32, d);
    let event = match kind {
        "r" => Event::Read {
            key,
            value: (c == 1).then_some(b),
            loading: d == 1,
        },
        "w" => Event::Write {
            key,
            value: b,
            tags,
            ttl,
        },
        "l" => Event::Load {
            key,
            value: b,
            tags,
            ttl,
            ran,
            alone: alone == 1,
        },
        "d" => Event::Remove { key },
        "i" => Event::Invalidate { tags: a as u32 },
        "f" => Event::Flush,
        "p" => Event::Pulse,
        _ => Event::Stall,
    };
    Record {
        process,
        span: Span { start, end },
        done: done == 1,
        event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let events = [
            Event::Read {
                key: 1,
                value: Some(2),
                loading: true,
            },
            Event::Read {
                key: 1,
                value: None,
                loading: false,
            },
            Event::Write {
                key: 1,
                value: 2,
                tags: 3,
                ttl: 4,
            },
            Event::Load {
                key: 1,
                value: 2,
                tags: 3,
                ttl: 4,
                ran: 5,
                alone: true,
            },
            Event::Remove { key: 1 },
            Event::Invalidate { tags: 3 },
            Event::Flush,
            Event::Pulse,
            Event::Stall,
        ];
        let records = events.map(|event| Record {
            process: 9,
            span: Span { start: 10, end: 20 },
            done: true,
            event,
        });
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("records");
        write(&file, &records);
        assert_eq!(read(&file), records);
    }
}
