//! What the index knew of an entry while the entry is not indexed (`DESIGN.md`, Entries and the keyspace). RESTORE and COPY
//! remove an old value in between, hence two places.

use crate::engine::{Facts, Slot};
use crate::entry::{Entry, Handle};

/// The entries that were loaded or copied last, and unlinked last.
#[derive(Debug, Default)]
pub(crate) struct Transit {
    pub(super) arriving: Passage,
    /// The last one first. Of the one before, only its place matters: RENAME vacates that of the new name, then that of the
    /// old.
    leaving: [Passage; 2],
}

/// An entry on its way. This is written for every expiry and eviction, hence the buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct Passage {
    entry: Option<Handle>,
    pub(crate) facts: Facts,
    /// The node that saved it, if it was loaded ([`super::state::State::origin`]); 0 if that is not known.
    pub(crate) origin: u32,
    /// Its tags one behind the other, and where each ends.
    tags: Vec<u8>,
    ends: Vec<usize>,
    /// Where an entry that was loaded is about to be, or one that left was: database and key, and the slot that it had.
    place: Option<u32>,
    key: Vec<u8>,
    slot: Slot,
}

/// Puts bytes into a buffer that is used again and again, and does not keep a large one for small contents.
fn refill(buffer: &mut Vec<u8>, bytes: &[u8]) {
    const KEPT: usize = 1024;
    if buffer.capacity() > KEPT && bytes.len() <= KEPT {
        *buffer = Vec::new();
    }
    buffer.clear();
    buffer.extend_from_slice(bytes);
}

impl Passage {
    /// Remembers an entry that is on its way, of one that is loaded only to which place, if that may be relied on.
    pub(crate) fn set<T: AsRef<[u8]>>(
        &mut self,
        entry: Handle,
        facts: Facts,
        tags: impl Iterator<Item = T>,
        place: Option<(u32, &[u8])>,
    ) {
        self.entry = Some(entry);
        self.facts = facts;
        self.place = place.map(|(db, _)| db);
        refill(&mut self.key, place.map_or(&[], |(_, key)| key));
        refill(&mut self.tags, &[]);
        self.ends.clear();
        for tag in tags {
            self.tags.extend_from_slice(tag.as_ref());
            self.ends.push(self.tags.len());
        }
    }

    /// The database of an entry that was loaded, and was not announced yet.
    pub(super) const fn awaited(&self) -> Option<u32> {
        if self.entry.is_some() {
            self.place
        } else {
            None
        }
    }

    pub(crate) fn tags(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let tag = &self.tags[start..end];
            start = end;
            tag
        })
    }
}

impl Transit {
    /// The entry that was loaded last, if it was for this place, and is visible, or may be gone. The server announces each right
    /// after it was loaded, or drops it without a word; so the last one is in the keyspace if its place is announced.
    pub(crate) fn loaded(&mut self, db: u32, key: &[u8], may_be_gone: bool) -> Option<Handle> {
        let passage = &mut self.arriving;
        let is_meant = may_be_gone || !passage.facts.is_gone;
        let is_it = is_meant && passage.place == Some(db) && passage.key == key;
        is_it.then(|| passage.entry.take()).flatten()
    }

    pub(crate) fn leaves<'t>(
        &mut self,
        entry: Entry<'_>,
        db: u32,
        slot: Slot,
        facts: Facts,
        tags: impl Iterator<Item = &'t [u8]>,
    ) {
        self.leaving.swap(0, 1);
        let place = Some((db, entry.key()));
        self.leaving[0].set(entry.handle(), facts, tags, place);
        self.leaving[0].slot = slot;
        // One that was loaded and dropped at once (RESTORE of an expired key) may have had this address.
        if self.arriving.entry == Some(entry.handle()) {
            self.arriving.entry = None;
        }
    }

    pub(crate) fn moved(&mut self, old: Handle, new: Handle) {
        for passage in [&mut self.arriving, &mut self.leaving[0]] {
            if passage.entry == Some(old) {
                passage.entry = Some(new);
            }
        }
    }

    /// Forgets the entry that left, though not its place: it was removed by the module itself, or counted, so that no
    /// later event is taken for one of it.
    pub(crate) fn clear(&mut self) {
        self.leaving[0].entry = None;
    }

    /// What is known of this entry, if it is on its way; afterwards it is not any more.
    pub(crate) fn end(&mut self, entry: Handle) -> Option<Passage> {
        let mut both = [&mut self.arriving, &mut self.leaving[0]].into_iter();
        let passage = both.find(|passage| passage.entry == Some(entry))?;
        passage.entry = None;
        let mut ended = std::mem::take(passage);
        // The place is known for longer.
        (passage.place, passage.slot) = (ended.place.take(), ended.slot);
        std::mem::swap(&mut passage.key, &mut ended.key);
        Some(ended)
    }

    /// The database that the entry left, if this was its name, and whether it was gone then.
    pub(crate) fn left(&self, key: &[u8]) -> Option<(u32, bool)> {
        let last = &self.leaving[0];
        let is_it = last.entry.is_some() && last.key == key;
        last.place
            .filter(|_| is_it)
            .map(|db| (db, last.facts.is_gone))
    }

    /// The slot that an entry of this name had just before.
    pub(crate) fn vacated(&self, db: u32, key: &[u8]) -> Option<Slot> {
        let mut left = self.leaving.iter();
        left.find(|left| left.place == Some(db) && left.key == key)
            .map(|left| left.slot)
    }
}
