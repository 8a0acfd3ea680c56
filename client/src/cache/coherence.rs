//! What may enter the local tier, and what must leave it.
//!
//! Pure logic: no network and no clock. Why it is as it is says `DESIGN.md`, section "Order". In short: a read is
//! registered before it is sent; what the server says meanwhile is noted under the same lock; and a value enters
//! only if nothing was said about its key, its tags or everything since. So an invalidation either comes before
//! the value enters, and keeps it out, or after, and takes it out again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The part of the local tier that the rule needs.
pub(crate) trait Tier: Send + Sync + 'static {
    /// Takes out the entry of this key.
    fn remove(&self, key: &str);
    /// Takes out all entries with this tag.
    fn invalidate_tag(&self, tag: &str);
    /// Takes out everything.
    fn clear(&self);
    /// Serves nothing as fresh any more: nobody will say what changes.
    fn lose(&self);
}

/// Whether the rule is kept. Only the test of the coherence checker does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordering {
    Kept,
    Ignored,
}

/// More marks than this are folded into one on everything.
const MAX_TAG_MARKS: usize = 10_000;

/// The local tier's doorkeeper.
#[derive(Debug)]
pub(crate) struct Coherence<T> {
    tier: T,
    ordering: Ordering,
    marks: Mutex<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    /// Raised by everything the server says.
    seq: u64,
    /// When something was last said that concerns everything.
    everything: u64,
    /// The keys that are being read.
    keys: HashMap<Box<str>, Reading>,
    /// When each tag was last named, as far back as the oldest read under way.
    tags: HashMap<Box<str>, u64>,
    /// How many reads under way began at each sequence number.
    begun: BTreeMap<u64, usize>,
    /// Tag marks are pruned when there are so many: amortised O(1) for each message.
    prune_at: usize,
}

#[derive(Debug)]
struct Reading {
    under_way: usize,
    /// When the key was last named.
    mark: u64,
}

/// A read under way; registered until it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Read<T: Tier> {
    coherence: Arc<Coherence<T>>,
    key: Box<str>,
    begun: u64,
}

/// What became of a value that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is in the local tier.
    Entered,
    /// Something was said about it since its read was sent, so it is not.
    Overtaken,
}

impl<T: Tier> Coherence<T> {
    pub(crate) fn new(tier: T, ordering: Ordering) -> Self {
        Self {
            tier,
            ordering,
            marks: Mutex::default(),
        }
    }

    pub(crate) fn tier(&self) -> &T {
        &self.tier
    }

    /// Registers a read of `key`, which must not have been sent yet.
    pub(crate) fn begin(self: &Arc<Self>, key: &str) -> Read<T> {
        let mut marks = self.lock();
        let begun = marks.seq;
        let key: Box<str> = key.into();
        *marks.begun.entry(begun).or_default() += 1;
        let reading = marks.keys.entry(key.clone()).or_insert(Reading {
            under_way: 0,
            mark: 0,
        });
        reading.under_way += 1;
        Read {
            coherence: Arc::clone(self),
            key,
            begun,
        }
    }

    /// A key changed: its entry leaves, and reads of it that are under way are overtaken. O(1).
    pub(crate) fn key_changed(&self, key: &str) {
        let mut marks = self.lock();
        marks.seq += 1;
        let seq = marks.seq;
        if let Some(reading) = marks.keys.get_mut(key) {
            reading.mark = seq;
        }
        self.tier.remove(key);
    }

    /// Tags were invalidated: their entries leave, and reads of such entries that are under way are overtaken.
    /// O(1) for each tag.
    pub(crate) fn tags_invalidated<'a>(&self, tags: impl IntoIterator<Item = &'a str>) {
        let mut marks = self.lock();
        marks.seq += 1;
        let seq = marks.seq;
        for tag in tags {
            marks.mark_tag(tag, seq);
            self.tier.invalidate_tag(tag);
        }
    }

    /// Anything may have changed: everything leaves, and all reads under way are overtaken.
    pub(crate) fn everything_changed(&self) {
        let mut marks = self.lock();
        marks.overtake_all();
        self.tier.clear();
    }

    /// The connection that kept the tier true is gone: nothing is fresh, and all reads under way are overtaken.
    pub(crate) fn lost(&self) {
        let mut marks = self.lock();
        marks.overtake_all();
        self.tier.lose();
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        // A panic under this lock can only come from an allocation or the tier; marks are raised before the tier is
        // touched, so what it leaves behind keeps values out rather than letting them in.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Marks {
    fn mark_tag(&mut self, tag: &str, seq: u64) {
        // Without a read under way nobody will ask: the next one begins at this number or later.
        let Some((&oldest, _)) = self.begun.first_key_value() else {
            self.tags.clear();
            return;
        };
        if let Some(mark) = self.tags.get_mut(tag) {
            *mark = seq;
            return;
        }
        if self.tags.len() >= self.prune_at.max(64) {
            self.tags.retain(|_, mark| *mark > oldest);
            self.prune_at = self.tags.len() * 2;
        }
        if self.tags.len() >= MAX_TAG_MARKS {
            self.overtake_all();
            return;
        }
        self.tags.insert(tag.into(), seq);
    }

    fn overtake_all(&mut self) {
        self.seq += 1;
        self.everything = self.seq;
        self.tags.clear();
    }

    fn end(&mut self, key: &str, begun: u64) {
        if let Some(count) = self.begun.get_mut(&begun) {
            *count -= 1;
            if *count == 0 {
                self.begun.remove(&begun);
            }
        }
        if let Some(reading) = self.keys.get_mut(key) {
            reading.under_way -= 1;
            if reading.under_way == 0 {
                self.keys.remove(key);
            }
        }
    }

    fn is_overtaken(&self, key: &str, begun: u64, tags: &[String]) -> bool {
        self.everything > begun
            || self
                .keys
                .get(key)
                .is_some_and(|reading| reading.mark > begun)
            || (!self.tags.is_empty()
                && tags.iter().any(|tag| {
                    self.tags
                        .get(tag.as_str())
                        .is_some_and(|&mark| mark > begun)
                }))
    }
}

impl<T: Tier> Read<T> {
    /// Whether nothing has been said about the key, these tags or everything since it began.
    pub(crate) fn is_current(&self, tags: &[String]) -> bool {
        let marks = self.coherence.lock();
        !marks.is_overtaken(&self.key, self.begun, tags)
    }

    /// Lets `put` put the value into the tier, unless it was overtaken. `put` runs under the lock: it must do
    /// no more than that.
    pub(crate) fn enter(&self, tags: &[String], put: impl FnOnce(&T)) -> Outcome {
        let marks = self.coherence.lock();
        let overtaken = marks.is_overtaken(&self.key, self.begun, tags);
        if overtaken && self.coherence.ordering == Ordering::Kept {
            drop(marks);
            return Outcome::Overtaken;
        }
        put(&self.coherence.tier);
        drop(marks);
        Outcome::Entered
    }
}

impl<T: Tier> Drop for Read<T> {
    fn drop(&mut self) {
        let coherence = Arc::clone(&self.coherence);
        coherence.lock().end(&self.key, self.begun);
    }
}

#[cfg(test)]
#[path = "coherence_tests.rs"]
mod tests;
