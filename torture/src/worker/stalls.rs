//! Times in which a process did not get to run, because the machine was busy with other work.

use std::collections::HashMap;
use std::fs::{read_dir, read_to_string};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{STOP, Task};
use crate::log::{Event, Record, Span, Time, now};

/// Shorter stalls occur on any machine.
const STALL: Time = 90_000_000;

/// Notes stalls until `stop` is set.
pub(super) fn watch(task: &Task, stop: &AtomicBool) -> Vec<Record> {
    const PAUSE: Duration = Duration::from_millis(10);
    let parent = std::os::unix::process::parent_id();
    let mut stalls: Vec<Record> = Vec::new();
    let mut waits = Waits::default();
    let mut last = now();
    while !task.dir.join(STOP).exists() {
        if std::os::unix::process::parent_id() != parent {
            // The parent has ended.
            std::process::exit(1);
        }
        std::thread::sleep(PAUSE);
        let end = now();
        let late = (end - last).saturating_sub(PAUSE.as_nanos() as Time);
        last = end;
        // A thread that mostly sleeps is run soon after it wakes, while those that work wait for a core.
        let stall = late.max(waits.longest());
        if stall > STALL {
            let noted = stalls.last().map_or(0, |stall| stall.span.end);
            stalls.push(Record {
                process: task.number,
                span: Span {
                    start: noted.max(end - stall),
                    end,
                },
                done: true,
                event: Event::Stall,
            });
        }
    }
    stop.store(true, Ordering::Relaxed);
    stalls
}

/// How long each thread of this process has waited for a core, as the system counts it; empty where it does not.
#[derive(Default)]
struct Waits(HashMap<std::ffi::OsString, Time>);

impl Waits {
    /// The longest wait of a thread that has ended since the last look.
    fn longest(&mut self) -> Time {
        let Ok(threads) = read_dir("/proc/self/task") else {
            return 0;
        };
        let waited = threads.flatten().filter_map(|thread| {
            let text = read_to_string(thread.path().join("schedstat")).ok()?;
            let waited: Time = text.split(' ').nth(1)?.parse().ok()?;
            let before = self.0.insert(thread.file_name(), waited).unwrap_or(0);
            Some(waited.saturating_sub(before))
        });
        waited.max().unwrap_or(0)
    }
}
