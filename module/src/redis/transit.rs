//! Keeps what the index knew of an entry while the entry is not indexed (`DESIGN.md`, Entries and the keyspace).
//! RESTORE and COPY remove an old value meanwhile, hence two places.

use crate::engine::{Facts, Slot};
use crate::entry::{Entry, Handle};

/// The entry that was loaded or copied last, and the last two that were unlinked.
#[derive(Debug, Default)]
pub(crate) struct Transit {
    pub(super) arriving: Transfer,
    /// The last one first. Only the place of the one before it matters: RENAME vacates first the place of the new name,
    /// then that of the old name.
    leaving: [Transfer; 2],
}

/// An entry in transit. Written at every expiry and eviction, so it reuses its buffers.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    entry: Option<Handle>,
    pub(crate) facts: Facts,
    /// The node that saved it, if it was loaded ([`super::state::State::origin`]); 0 if that is not known.
    pub(crate) origin: u32,
    /// Its tags, joined, and where each ends.
    tags: Vec<u8>,
    ends: Vec<usize>,
    /// The place of a loaded entry, or the former place of one that left: database, key, and the slot that it had.
    place: Option<u32>,
    key: Vec<u8>,
    slot: Slot,
}

/// Puts bytes into a buffer that is reused, and does not keep a large buffer for small contents.
fn refill(buffer: &mut Vec<u8>, bytes: &[u8]) {
    const KEPT: usize = 1024;
    if buffer.capacity() > KEPT && bytes.len() <= KEPT {
        *buffer = Vec::new();
    }
    buffer.clear();
    buffer.extend_from_slice(bytes);
}

impl Transfer {
    /// Remembers an entry in transit. A loaded entry has a place only if this place is reliable.
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

    /// The database of an entry that was loaded and not announced yet.
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
    /// The entry that was loaded last, if it was for this place and is visible or may be gone. The server announces
    /// each entry right after its load, or drops it without an event. So if this place is announced, the keyspace holds
    /// the entry.
    pub(crate) fn loaded(&mut self, db: u32, key: &[u8], may_be_gone: bool) -> Option<Handle> {
        let transfer = &mut self.arriving;
        let is_meant = may_be_gone || !transfer.facts.is_gone;
        let is_it = is_meant && transfer.place == Some(db) && transfer.key == key;
        is_it.then(|| transfer.entry.take()).flatten()
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
        // An entry that was loaded and dropped at once (RESTORE of an expired key) may have had this address.
        if self.arriving.entry == Some(entry.handle()) {
            self.arriving.entry = None;
        }
    }

    pub(crate) fn moved(&mut self, old: Handle, new: Handle) {
        for transfer in [&mut self.arriving, &mut self.leaving[0]] {
            if transfer.entry == Some(old) {
                transfer.entry = Some(new);
            }
        }
    }

    /// Forgets the entry that left, but not its place. The module itself removed it, or it was counted: no later event
    /// is to be taken for one about it.
    pub(crate) fn clear(&mut self) {
        self.leaving[0].entry = None;
    }

    /// Returns what is known of this entry if it is in transit, and ends its transit.
    pub(crate) fn end(&mut self, entry: Handle) -> Option<Transfer> {
        let mut both = [&mut self.arriving, &mut self.leaving[0]].into_iter();
        let transfer = both.find(|transfer| transfer.entry == Some(entry))?;
        transfer.entry = None;
        let mut ended = std::mem::take(transfer);
        // The place stays known.
        (transfer.place, transfer.slot) = (ended.place.take(), ended.slot);
        std::mem::swap(&mut transfer.key, &mut ended.key);
        Some(ended)
    }

    /// The database that the entry left, if this was its name, and whether the entry was gone then.
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
