//! Hits on their way to the server, so that its counts are those of the whole fleet.

use std::collections::HashMap;

use super::{
    stored::Handle,
    sync::{Mutex, unpoisoned},
};

/// Entries with hits that were not handed out yet, each once. An entry that leaves the cache stays here until its
/// hits are taken.
pub(super) struct Report {
    enabled: bool,
    capacity: usize,
    queue: Mutex<Vec<Handle>>,
}

impl Report {
    /// The least that a queue should have room for, because entries of a small cache come and go quickly.
    pub(super) const LEAST: usize = 1024;

    /// A queue for at most `capacity` entries. What does not fit is counted on and queues at a later hit.
    pub(super) fn new(enabled: bool, capacity: usize) -> Self {
        Self {
            enabled,
            capacity,
            queue: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The entry was hit and is not queued.
    pub(super) fn note(&self, handle: &Handle) {
        if !self.enabled {
            return;
        }
        let mut queue = unpoisoned(self.queue.lock());
        if queue.len() < self.capacity && !handle.stored().hits.queue().is_queued() {
            queue.push(handle.clone());
        }
    }

    /// Hits since they were last taken, for up to `max` entries.
    pub(super) fn take(&self, max: usize) -> Vec<(String, u64)> {
        let mut queue = unpoisoned(self.queue.lock());
        let from = queue.len().saturating_sub(max);
        let taken = queue.split_off(from);
        drop(queue);

        // An entry and its successor are queued separately.
        let mut hits = HashMap::<&str, u64>::new();
        for handle in &taken {
            match handle.stored().take_unreported() {
                Some(0) => {}
                Some(fresh) => *hits.entry(handle.key()).or_default() += fresh,
                None => self.note(handle),
            }
        }
        hits.into_iter()
            .map(|(key, hits)| (key.to_owned(), hits))
            .collect()
    }
}
