//! One list a tag: the slots of the entries that carry it.
//!
//! An invalidation does not walk a list. It *detaches* it: the tag gets a new, empty list, and the old one, entries
//! and all, waits to be reclaimed. An entry is gone exactly when one of the lists it stands in is detached, so there
//! is nothing else to write down, and an entry that leaves early is taken out of a detached list like out of any other.

use super::ids::Ids;
use super::pages::{PAGE, PageMap, offset_of, page_of};

/// A list, and the generation that tells it from a later list with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListRef {
    pub(super) id: u32,
    pub(super) generation: u32,
}

/// What happened to a tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct History {
    /// How often it was invalidated by its name, hard or soft, and when last, unix ms.
    pub(super) invalidations: u32,
    pub(super) last_ms: u64,
    /// When entries that carry it were last invalidated in whatever way, hard and soft, unix ms; 0: never.
    pub(super) hard_ms: u64,
    pub(super) soft_ms: u64,
    /// The database's clock after the last of these.
    pub(super) clock: u64,
    /// Until when it is remembered without entries, unix ms.
    pub(super) remember_until_ms: u64,
}

/// The entries of one tag, and what is known about the tag.
#[derive(Debug)]
pub(super) struct TagList {
    /// Empty for the list of entries without tags, and for detached lists.
    pub(super) name: Box<[u8]>,
    pub(super) hash: u32,
    pub(super) generation: u32,
    /// The database's flush count when the list was made: a flush detaches all older lists by raising that count.
    pub(super) epoch: u32,
    pub(super) detached: bool,
    /// Stands in the queue of tags that are forgotten some time after their last invalidation.
    pub(super) fading: bool,
    pub(super) ids: Ids,
    /// Memory of the entries in the list.
    pub(super) bytes: u64,
    /// There is none until the first invalidation: most tags never see one.
    pub(super) history: Option<Box<History>>,
}

impl TagList {
    fn heap_bytes(&self) -> usize {
        let history = self.history.as_ref().map_or(0, |_| size_of::<History>());
        self.name.len() + self.ids.heap_bytes() + history
    }

    /// What happened to the tag.
    pub(super) fn past(&self) -> History {
        self.history.as_deref().copied().unwrap_or_default()
    }
}

/// All lists of a database.
#[derive(Debug, Default)]
pub(super) struct Lists {
    map: PageMap,
    pages: Vec<Option<Box<[Option<TagList>]>>>,
    next_generation: u32,
    /// Bytes of names and ids.
    bytes: usize,
}

impl Lists {
    /// Makes an empty list. O(1).
    pub(super) fn create(&mut self, name: Box<[u8]>, hash: u32, epoch: u32) -> u32 {
        let allocated = self.map.allocate(0);
        let number = page_of(allocated.id);
        if allocated.new_page {
            if self.pages.len() <= number {
                self.pages.resize_with(number + 1, || None);
            }
            self.pages[number] = Some(std::iter::repeat_with(|| None).take(PAGE).collect());
        }
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        self.bytes += name.len();
        let page = self.pages[number]
            .as_mut()
            .expect("the page of an allocated list exists");
        page[offset_of(allocated.id)] = Some(TagList {
            name,
            hash,
            generation,
            epoch,
            detached: false,
            fading: false,
            ids: Ids::default(),
            bytes: 0,
            history: None,
        });
        allocated.id
    }

    /// Drops an empty list.
    pub(super) fn destroy(&mut self, id: u32) {
        let number = page_of(id);
        let list = self.pages[number]
            .as_mut()
            .and_then(|page| page[offset_of(id)].take())
            .expect("the list exists");
        debug_assert!(list.ids.is_empty());
        self.bytes -= list.heap_bytes();
        if self.map.release(id) {
            self.pages[number] = None;
        }
        if self.map.live() == 0 {
            self.pages = Vec::new();
        }
    }

    pub(super) fn get(&self, id: u32) -> &TagList {
        self.pages[page_of(id)]
            .as_ref()
            .and_then(|page| page[offset_of(id)].as_ref())
            .expect("the list exists")
    }

    pub(super) fn get_mut(&mut self, id: u32) -> &mut TagList {
        self.pages[page_of(id)]
            .as_mut()
            .and_then(|page| page[offset_of(id)].as_mut())
            .expect("the list exists")
    }

    /// The list that a reference meant, if it is still that one.
    pub(super) fn resolve(&mut self, list: ListRef) -> Option<&mut TagList> {
        self.pages
            .get_mut(page_of(list.id))?
            .as_mut()?
            .get_mut(offset_of(list.id))?
            .as_mut()
            .filter(|found| found.generation == list.generation)
    }

    /// Changes the ids of a list, and keeps the sum of bytes.
    pub(super) fn change_ids<R>(&mut self, id: u32, change: impl FnOnce(&mut Ids) -> R) -> R {
        let ids = &mut self.get_mut(id).ids;
        let before = ids.heap_bytes();
        let result = change(ids);
        let after = ids.heap_bytes();
        self.bytes = self.bytes + after - before;
        result
    }

    /// What happened to the tag of a list; made where there was nothing yet.
    pub(super) fn history(&mut self, id: u32) -> &mut History {
        if self.get(id).history.is_none() {
            self.bytes += size_of::<History>();
        }
        self.get_mut(id).history.get_or_insert_default()
    }

    /// Moves name and history of a list that is to be detached to a new one.
    pub(super) fn renew(&mut self, old: u32) -> u32 {
        let list = self.get_mut(old);
        let (name, history) = (std::mem::take(&mut list.name), list.history.take());
        let (hash, epoch) = (list.hash, list.epoch);
        self.bytes -= name.len();
        let new = self.create(name, hash, epoch);
        self.get_mut(new).history = history;
        new
    }

    /// Visits lists from an id on, `limit` numbers at most, and returns where to go on; `None` at the end.
    pub(super) fn visit(
        &self,
        from: u32,
        limit: u32,
        mut visit: impl FnMut(&TagList),
    ) -> Option<u32> {
        let end = self.end().min(from.saturating_add(limit));
        let mut id = from;
        while id < end {
            match self.pages.get(page_of(id)).and_then(Option::as_ref) {
                None => id = (page_of(id) as u32 + 1) * PAGE as u32,
                Some(page) => {
                    if let Some(list) = &page[offset_of(id)] {
                        visit(list);
                    }
                    id += 1;
                }
            }
        }
        (id < self.end()).then_some(id)
    }

    /// See [`PageMap::next_in_page`].
    pub(super) fn next_in_page(&self, from: u32) -> Result<u32, u32> {
        self.map.next_in_page(from)
    }

    pub(super) fn end(&self) -> u32 {
        self.map.end()
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes
            + self.map.pages_in_use() * PAGE * size_of::<Option<TagList>>()
            + self.pages.capacity() * size_of::<Option<Box<[Option<TagList>]>>>()
            + self.map.heap_bytes()
    }

    #[cfg(test)]
    pub(super) fn validate(&self) -> Vec<u32> {
        self.map.validate();
        let mut bytes = 0;
        let mut ids = Vec::new();
        for (number, page) in self.pages.iter().enumerate() {
            for at in 0..PAGE {
                let id = (number * PAGE + at) as u32;
                let list = page.as_ref().and_then(|page| page[at].as_ref());
                assert_eq!(list.is_some(), self.map.is_used(id));
                if let Some(list) = list {
                    bytes += list.heap_bytes();
                    ids.push(id);
                }
            }
        }
        assert_eq!(bytes, self.bytes);
        ids
    }
}
