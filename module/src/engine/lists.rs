//! One list per tag: the slots of the entries that carry it.

use super::ids::Ids;
use super::pages::{PAGE, Pages, offset_of, page_of};

/// The name of a tag; a short one needs no allocation.
#[derive(Debug)]
pub(super) enum Name {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Box<Box<[u8]>>),
}

/// Keeps a name within the size of two addresses.
const SHORT: usize = 14;

impl Name {
    fn new(name: &[u8]) -> Self {
        if name.len() > SHORT {
            return Self::Long(Box::new(name.into()));
        }
        let mut bytes = [0; SHORT];
        bytes[..name.len()].copy_from_slice(name);
        let len = name.len() as u8;
        Self::Short { len, bytes }
    }

    /// Whether this is the name of a tag. Names of 8 to 14 bytes are compared as two halves that overlap: a call for a
    /// few bytes costs more, and the moves that it causes in the callers cost even more.
    #[inline(always)]
    pub(super) fn is(&self, tag: &[u8]) -> bool {
        match (self, tag.len()) {
            (Self::Short { len, .. }, given) if usize::from(*len) != given => false,
            (Self::Short { bytes, .. }, given @ 8..=SHORT) => {
                let halves = |bytes: &[u8]| {
                    let (first, last) = (&bytes[..8], &bytes[given - 8..given]);
                    [first, last].map(|half| half.try_into().map(u64::from_ne_bytes).ok())
                };
                halves(bytes) == halves(tag)
            }
            _ => **self == *tag,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(name) => size_of::<Box<[u8]>>() + name.len(),
        }
    }
}

impl std::ops::Deref for Name {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(name) => name,
        }
    }
}

/// The entries of one tag: the size of four addresses if a single entry carries it.
#[derive(Debug)]
pub(super) struct TagList {
    pub(super) name: Name,
    pub(super) ids: Ids,
}

const _: () = assert!(
    size_of::<Option<TagList>>() == 32,
    "many tags have one entry"
);

impl TagList {
    fn heap_bytes(&self) -> usize {
        self.name.heap_bytes() + self.ids.heap_bytes()
    }
}

#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) pages: Pages<Box<[Option<TagList>; PAGE]>>,
    /// Bytes of names and ids.
    bytes: usize,
}

impl Lists {
    /// Makes an empty list. O(1).
    pub(super) fn create(&mut self, name: &[u8]) -> u32 {
        let id = self.pages.allocate(0, || {
            let none: Vec<_> = std::iter::repeat_with(|| None).take(PAGE).collect();
            none.try_into().expect("it has the length of a page")
        });
        let list = TagList {
            name: Name::new(name),
            ids: Ids::default(),
        };
        self.bytes += list.heap_bytes();
        self.pages.get_mut(id)[offset_of(id)] = Some(list);
        id
    }

    /// Drops an empty list.
    pub(super) fn destroy(&mut self, id: u32) {
        let list = self.pages.get_mut(id)[offset_of(id)].take();
        let list = list.expect("the list exists");
        debug_assert!(list.ids.is_empty());
        self.bytes -= list.heap_bytes();
        self.pages.release(id);
    }

    #[inline(always)]
    pub(super) fn get(&self, id: u32) -> &TagList {
        let list = self.pages.get(id)[offset_of(id)].as_ref();
        list.expect("the list exists")
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, id: u32) -> &mut TagList {
        let list = self.pages.get_mut(id)[offset_of(id)].as_mut();
        list.expect("the list exists")
    }

    /// Adds an id and its cost to a list.
    #[inline(always)]
    pub(super) fn insert(&mut self, id: u32, new: u32, bytes: u64) {
        if !self.get_mut(id).ids.insert_later(new, bytes) {
            self.change(id, |list| list.ids.insert(new, bytes));
        }
    }

    /// Changes a list, and keeps the sum of bytes.
    pub(super) fn change<R>(&mut self, id: u32, change: impl FnOnce(&mut TagList) -> R) -> R {
        let list = self.get_mut(id);
        let before = list.ids.heap_bytes();
        let result = change(list);
        let after = list.ids.heap_bytes();
        self.bytes = self.bytes + after - before;
        result
    }

    /// Visits lists from an id on, up to `limit` ids, and returns the id to continue from; `None` at the end.
    pub(super) fn visit(
        &self,
        from: u32,
        limit: u32,
        mut visit: impl FnMut(&TagList),
    ) -> Option<u32> {
        let end = self.pages.end().min(from.saturating_add(limit));
        let mut id = from;
        while id < end {
            match self.pages.find(id) {
                None => id = (page_of(id) as u32 + 1) * PAGE as u32,
                Some(page) => {
                    if let Some(list) = &page[offset_of(id)] {
                        visit(list);
                    }
                    id += 1;
                }
            }
        }
        (id < self.pages.end()).then_some(id)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes
            + self.pages.pages_in_use() * PAGE * size_of::<Option<TagList>>()
            + self.pages.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Lists {
        pub(in crate::engine) fn validate(&self) -> Vec<u32> {
            self.pages.validate();
            let mut bytes = 0;
            let mut ids = Vec::new();
            for (number, page) in self.pages.numbered() {
                for (at, list) in page.iter().enumerate() {
                    let id = (number * PAGE + at) as u32;
                    assert_eq!(list.is_some(), self.pages.is_used(id));
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

    #[test]
    fn the_bytes_of_long_names_are_counted() {
        let mut lists = Lists::default();
        let ids = [5, SHORT, SHORT + 1, 500].map(|len| lists.create(&vec![b'n'; len]));
        lists.validate();
        let boxed = size_of::<Box<[u8]>>();
        assert_eq!(lists.bytes, boxed + SHORT + 1 + boxed + 500);
        for id in ids {
            lists.destroy(id);
        }
        assert_eq!(lists.bytes, 0);
    }

    #[test]
    fn a_visit_skips_freed_pages_and_stops_at_its_limit() {
        let page = PAGE as u32;
        let mut lists = Lists::default();
        for _ in 0..3 * page {
            lists.create(b"tag");
        }
        for id in page..2 * page {
            lists.destroy(id);
        }
        let visit = |from, limit| {
            let mut seen = 0;
            let next = lists.visit(from, limit, |_| seen += 1);
            (seen, next)
        };
        assert_eq!(visit(0, u32::MAX), (2 * page, None));
        assert_eq!(visit(0, 5), (5, Some(5)));
        assert_eq!(visit(0, 3 * page), (2 * page, None));
        assert_eq!(visit(page + 7, page), (7, Some(2 * page + 7)));
        assert_eq!(visit(page, 1), (0, Some(2 * page)));
        assert_eq!(visit(3 * page - 1, 1), (1, None));
        assert_eq!(visit(3 * page, 9), (0, None));
    }
}
