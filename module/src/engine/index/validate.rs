//! The invariants of the index, asserted one by one.

use super::Index;
use crate::engine::slots::Slot;

impl<E: Copy + PartialEq> Index<E> {
    pub(in crate::engine) fn validate(&self, bytes_of: impl Fn(E) -> u64) {
        use std::collections::HashMap;

        let slots = self.slots.validate();
        self.marks.validate(|id| slots.contains(&Slot(id)));
        for &id in slots.iter().filter(|_| self.sweep.is_some()) {
            let old = self.lists.get(self.slots.lists(id)[0]).epoch != self.epoch;
            assert_eq!(self.since_flush.contains(id.0), !old, "invariant 7");
        }
        let mut listed: HashMap<u32, (u32, u64)> = HashMap::new();
        let (mut bytes, mut stale_pairs, mut stale_bytes, mut flushed, mut flushed_bytes) =
            (0, 0, 0, 0, 0);
        for &slot in &slots {
            let cost = bytes_of(self.entry(slot));
            bytes += cost;
            let lists = self.slots.lists(slot);
            assert!(!lists.is_empty(), "invariant 2");
            let old = self.lists.get(lists[0]).epoch != self.epoch;
            if old {
                flushed += 1;
                flushed_bytes += cost;
            }
            for (at, &id) in lists.iter().enumerate() {
                let list = self.lists.get(id);
                assert!(list.ids.contains(slot.0), "invariant 1");
                assert!(!lists[..at].contains(&id), "invariant 2");
                assert_eq!(
                    list.epoch != self.epoch,
                    old,
                    "an entry's lists are of one epoch"
                );
                if list.detached && !old {
                    stale_pairs += 1;
                    stale_bytes += cost;
                }
                let seen = listed.entry(id).or_default();
                seen.0 += 1;
                seen.1 += cost;
            }
        }
        assert_eq!(
            (self.bytes, self.stale_pairs, self.stale_bytes),
            (bytes, stale_pairs, stale_bytes),
            "invariant 6"
        );
        assert_eq!(
            (self.flushed, self.flushed_bytes),
            (flushed, flushed_bytes),
            "invariant 6"
        );
        let (mut populated, mut named) = (0, 0);
        for id in self.lists.validate() {
            let list = self.lists.get(id);
            let (len, cost) = listed.get(&id).copied().unwrap_or_default();
            assert_eq!((list.ids.len(), list.bytes), (len, cost), "invariant 1");
            if list.epoch != self.epoch {
                assert!(self.sweep.is_some_and(|from| from <= id), "invariant 5");
            } else if list.detached {
                assert_eq!(
                    self.backlog.iter().filter(|&&b| b == id).count(),
                    1,
                    "invariant 5"
                );
            } else if list.name.is_empty() {
                assert_eq!(self.untagged, Some(id));
                assert!(len > 0, "invariant 4");
            } else {
                assert_eq!(self.find(list.hash, &list.name), Some(id), "invariant 3");
                assert!(len > 0 || list.fading, "invariant 4");
                named += 1;
                populated += usize::from(len > 0);
            }
        }
        assert_eq!(self.table.len(), named, "invariant 3");
        assert_eq!(self.populated, populated, "invariant 6");
    }
}
