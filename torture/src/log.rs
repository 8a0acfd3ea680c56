//! The records of a run's processes: each operation with the time before it began and the time after it ended, by one
//! clock. Every value is written once, so a value identifies its write.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Nanoseconds of the common clock.
pub(crate) type Time = u64;

pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock after 1970").as_nanos() as Time
}

/// Stands for a value that a process holds although no server has it.
pub(crate) const HELD: u64 = u64::MAX;

/// From one moment to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Span {
    pub(crate) start: Time,
    pub(crate) end: Time,
}

impl Span {
    pub(crate) fn meets(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// Tags as bits, TTLs in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Event {
    /// The result of a read. `loading`: the read could have loaded the value, and may take that long.
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
    /// A loader ran, from `ran` on: its value may have been stored, and if so, before this ended. `alone`: the process
    /// could not have known of another load, since a server did not reply.
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

/// The possible damage of a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Fault {
    /// Values may be gone although nothing dropped them.
    pub(crate) loses: bool,
    /// Changes that were confirmed since this moment may be undone until clients have sent them again.
    pub(crate) undone_since: Option<Time>,
    /// Changes of keys, unlike others, are not sent again.
    pub(crate) keys_undone: bool,
    /// TTLs may end at another time.
    pub(crate) untimed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Record {
    /// 0: the process that disturbs the servers.
    pub(crate) process: u64,
    pub(crate) span: Span,
    /// For a failed operation it is unknown whether and when it took effect.
    pub(crate) done: bool,
    pub(crate) event: Event,
}

/// Writes records for [`read`].
pub(crate) fn write(file: &Path, records: &[Record]) {
    let bytes = rmp_serde::to_vec(records).expect("records can be written");
    std::fs::write(file, bytes).expect("a file in the parent's directory");
}

/// Reads the records that [`write()`] wrote.
pub(crate) fn read(file: &Path) -> Vec<Record> {
    let bytes = std::fs::read(file).expect("the records of a process of ours");
    rmp_serde::from_slice(&bytes).expect("records")
}
