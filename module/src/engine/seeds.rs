//! Hash functions that cannot be predicted.

use std::hash::{BuildHasher, RandomState};

/// `ahash` with random seeds, so that a client cannot choose keys that collide. The standard library makes the seeds:
/// `ahash` would keep allocations of its own in statics, which are lost when a server closes the module again.
#[derive(Debug, Clone)]
pub(crate) struct Seeded(ahash::RandomState);

impl Default for Seeded {
    fn default() -> Self {
        let seed = || RandomState::new().hash_one(0_u8);
        Self(ahash::RandomState::with_seeds(
            seed(),
            seed(),
            seed(),
            seed(),
        ))
    }
}

impl BuildHasher for Seeded {
    type Hasher = ahash::AHasher;

    #[inline]
    fn build_hasher(&self) -> ahash::AHasher {
        self.0.build_hasher()
    }
}
