//! The largest numbers among those that a command looks at one by one.

use std::collections::BTreeSet;

/// A number and the name that has it.
pub(super) type Named = (u64, Box<[u8]>);

/// The largest numbers so far, `most` at most.
#[derive(Debug)]
pub(super) struct Largest {
    most: usize,
    found: BTreeSet<Named>,
}

impl Largest {
    pub(super) const fn new(most: usize) -> Self {
        let found = BTreeSet::new();
        Self { most, found }
    }

    /// The least of them once there are `most`, else 0: only a greater number is to be added.
    pub(super) fn least(&self) -> u64 {
        let least = self.found.first();
        let least = least.filter(|_| self.found.len() == self.most);
        least.map_or(0, |(least, _)| *least)
    }

    /// Adds a number that exceeds the least.
    pub(super) fn add(&mut self, number: u64, name: &[u8]) {
        self.found.insert((number, name.into()));
        if self.found.len() > self.most {
            self.found.pop_first();
        }
    }

    /// Takes them out, the largest first.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Named> {
        std::mem::take(&mut self.found).into_iter().rev()
    }
}
