//! A growing array of ids that never copies more than a few kilobytes at once, and gives memory back as it shrinks.

/// Ids in one chunk of a long array: 4 KiB.
const CHUNK: usize = 1024;

/// An array of `u32` with push, swap-remove and access by position, each O(1) whatever the length.
///
/// Short arrays are one `Vec`; from 1,024 ids on they are chunks of that size, so that a tag of a million entries
/// neither moves 4 MB when it grows nor keeps them when it shrinks.
#[derive(Debug)]
pub(super) enum Ids {
    Short(Vec<u32>),
    Long {
        chunks: Vec<Box<[u32; CHUNK]>>,
        len: u32,
    },
}

impl Default for Ids {
    fn default() -> Self {
        Self::Short(Vec::new())
    }
}

impl Ids {
    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Short(ids) => ids.len() as u32,
            Self::Long { len, .. } => *len,
        }
    }

    /// The id at `pos`. Panics if there is none.
    pub(super) fn get(&self, pos: u32) -> u32 {
        match self {
            Self::Short(ids) => ids[pos as usize],
            Self::Long { chunks, len } => {
                assert!(pos < *len);
                chunks[pos as usize / CHUNK][pos as usize % CHUNK]
            }
        }
    }

    pub(super) fn set(&mut self, pos: u32, id: u32) {
        match self {
            Self::Short(ids) => ids[pos as usize] = id,
            Self::Long { chunks, len } => {
                assert!(pos < *len);
                chunks[pos as usize / CHUNK][pos as usize % CHUNK] = id;
            }
        }
    }

    /// Appends an id and returns its position.
    pub(super) fn push(&mut self, id: u32) -> u32 {
        match self {
            Self::Short(ids) => {
                let pos = ids.len();
                if pos == CHUNK {
                    let first = Box::new(std::array::from_fn(|i| ids[i]));
                    *self = Self::Long {
                        chunks: vec![first],
                        len: CHUNK as u32,
                    };
                    return self.push(id);
                }
                if ids.capacity() == 0 {
                    // A tag that belongs to one entry alone is common: it shall cost one id, not the usual four.
                    ids.reserve_exact(1);
                }
                ids.push(id);
                pos as u32
            }
            Self::Long { chunks, len } => {
                let pos = *len;
                if pos as usize == chunks.len() * CHUNK {
                    chunks.push(Box::new([0; CHUNK]));
                }
                chunks[pos as usize / CHUNK][pos as usize % CHUNK] = id;
                *len += 1;
                pos
            }
        }
    }

    /// Removes the id at `pos` by moving the last one there, and returns the one that moved, if any.
    pub(super) fn swap_remove(&mut self, pos: u32) -> Option<u32> {
        let last = self.len() - 1;
        let moved = (pos != last).then(|| self.get(last));
        if let Some(moved) = moved {
            self.set(pos, moved);
        }
        match self {
            Self::Short(ids) => {
                ids.pop();
                if ids.capacity() > 8 && ids.len() * 4 <= ids.capacity() {
                    ids.shrink_to(ids.len() * 2);
                }
            }
            Self::Long { chunks, len } => {
                *len -= 1;
                if *len as usize <= (chunks.len() - 1) * CHUNK {
                    chunks.pop();
                }
            }
        }
        if last == 0 {
            *self = Self::default();
        }
        moved
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Short(ids) => ids.capacity() * size_of::<u32>(),
            Self::Long { chunks, .. } => {
                chunks.len() * CHUNK * size_of::<u32>() + chunks.capacity() * size_of::<usize>()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 64 }))]
        #[test]
        fn it_behaves_like_a_vec(start in 0_u32..3000, ops in proptest::collection::vec((any::<bool>(), any::<u32>()), 0..600)) {
            let mut ids = Ids::default();
            let mut model = Vec::new();
            for i in 0..start {
                prop_assert_eq!(ids.push(i) as usize, model.len());
                model.push(i);
            }
            for (add, x) in ops {
                if add || model.is_empty() {
                    ids.push(x);
                    model.push(x);
                } else {
                    let pos = x as usize % model.len();
                    let moved = ids.swap_remove(pos as u32);
                    model.swap_remove(pos);
                    prop_assert_eq!(moved, model.get(pos).copied());
                }
                prop_assert_eq!(ids.len() as usize, model.len());
            }
            for (pos, x) in model.iter().enumerate() {
                prop_assert_eq!(ids.get(pos as u32), *x);
            }
        }
    }

    #[test]
    fn it_gives_its_memory_back() {
        let mut ids = Ids::default();
        for i in 0..5000 {
            ids.push(i);
        }
        assert!(ids.heap_bytes() >= 5000 * 4);
        while ids.len() > 0 {
            ids.swap_remove(0);
        }
        assert_eq!(ids.heap_bytes(), 0);
    }
}
