//! Hits to be reported to the server, so that its counts are those of the whole fleet.

use std::collections::HashMap;

use super::{
    stored::Handle,
    sync::{AtomicUsize, Mutex, Ordering, unpoisoned},
};

/// Entries with hits that were not taken yet, each once. An entry that leaves the cache stays here until its hits are
/// taken.
pub(super) struct Report {
    /// 0 if hits are not reported.
    capacity: usize,
    /// Length of the queue, to check without the lock whether there is room.
    queued: AtomicUsize,
    queue: Mutex<Vec<Handle>>,
}

impl Report {
    /// The least that a queue should have room for, because entries of a small cache come and go quickly.
    pub(super) const LEAST: usize = 1024;

    /// A queue for at most `capacity` entries, 0 for none. Without room an entry counts on, and queues at a later hit.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            queued: AtomicUsize::new(0),
            queue: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.capacity > 0
    }

    /// Whether more entries can be queued: while no caller takes the hits, the queue must not grow.
    pub(super) fn has_room(&self) -> bool {
        self.queued.load(Ordering::Relaxed) < self.capacity
    }

    /// Queues an entry that was hit and is not queued.
    #[cold]
    #[inline(never)]
    pub(super) fn note(&self, handle: Handle) {
        let mut queue = unpoisoned(self.queue.lock());
        if queue.len() < self.capacity && !handle.stored().hits.queue().is_queued() {
            queue.push(handle);
            self.queued.store(queue.len(), Ordering::Relaxed);
        }
    }

    /// Takes the hits since the last call, for up to `max` entries.
    pub(super) fn take(&self, max: usize) -> Vec<(String, u64)> {
        let mut queue = unpoisoned(self.queue.lock());
        // The oldest first: new ones must not keep them waiting forever.
        let rest = {
            let count = max.min(queue.len());
            queue.split_off(count)
        };
        let taken = std::mem::replace(&mut *queue, rest);
        self.queued.store(queue.len(), Ordering::Relaxed);
        drop(queue);

        // An entry and its successor are queued separately.
        let mut hits = HashMap::<&str, u64>::new();
        for handle in &taken {
            match handle.stored().take_unreported() {
                Some(0) => {}
                Some(fresh) => *hits.entry(handle.key()).or_default() += fresh,
                None => self.note(handle.clone()),
            }
        }
        hits.into_iter()
            .map(|(key, hits)| (key.to_owned(), hits))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::LocalCache;

    #[test]
    fn hits_are_reported_oldest_first() {
        let cache: LocalCache<u32> = LocalCache::builder().report_hits(true).build();
        for key in ["a", "b", "c"] {
            cache.set(key, 1, Duration::MAX, []);
            cache.get(key);
        }
        for key in ["a", "b", "c", "a", "b", "c"] {
            assert_eq!(cache.take_hits(1), [(key.to_owned(), 1)]);
            cache.get(key);
        }
    }
}
