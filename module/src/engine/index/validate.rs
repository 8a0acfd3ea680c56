//! The invariants of the index, asserted one by one.

use super::Index;
use crate::engine::slots::Slot;

impl<E: Copy + PartialEq> Index<E> {
    pub(in crate::engine) fn validate(&self, bytes_of: impl Fn(E) -> u64) {
        use std::collections::HashMap;

        let slots = self.slots.validate();
        self.marks.validate(|id| slots.contains(&Slot(id)));
        let mut listed: HashMap<u32, (u32, u64)> = HashMap::new();
        let (mut bytes, mut gone_bytes, mut gone) = (0, 0, 0);
        for &slot in &slots {
            let cost = bytes_of(self.entry(slot));
            assert_eq!(self.slots.bytes(slot), cost, "invariant 4");
            bytes += cost;
            if self.is_gone(slot) {
                gone += 1;
                gone_bytes += cost;
            }
            let lists = self.slots.lists(slot);
            for (at, &id) in lists.iter().enumerate() {
                assert!(self.lists.get(id).ids.contains(slot.0), "invariant 1");
                assert!(!lists[..at].contains(&id), "invariant 1");
                let seen = listed.entry(id).or_default();
                seen.0 += 1;
                seen.1 += cost;
            }
        }
        assert_eq!(self.gone.len(), gone, "invariant 3");
        assert_eq!(
            (self.bytes, self.gone_bytes),
            (bytes, gone_bytes),
            "invariant 4"
        );
        let lists = self.lists.validate();
        assert_eq!(self.table.len(), lists.len(), "invariant 2");
        for id in lists {
            let list = self.lists.get(id);
            let (len, cost) = listed.get(&id).copied().unwrap_or_default();
            assert_eq!(
                (list.ids.len(), list.ids.bytes()),
                (len, cost),
                "invariants 1 and 4"
            );
            assert!(len > 0, "invariant 2");
            assert_eq!(self.find(&list.name), Some(id), "invariant 2");
            self.validate_hollow(id);
        }
    }
}
