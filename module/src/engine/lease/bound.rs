//! How much leases may take.

/// What leases may take in all databases together. They cannot be evicted, so the bound is small next to any
/// `maxmemory` of a cache, and does not depend on it. 100,000 leases of keys of 250 bytes fit.
pub(crate) const MOST: Used = Used {
    leases: 100_000,
    bytes: 64 << 20,
};

/// Bytes of a lease beside its key, and of a waiter, about: their rows, with what the tables keep free.
pub(super) const LEASE_BYTES: usize = 384;
pub(super) const WAITER_BYTES: usize = 192;

/// How much leases take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) leases: usize,
    pub(crate) bytes: usize,
}

impl Used {
    pub(crate) const fn without(self, other: Self) -> Self {
        Self {
            leases: self.leases.saturating_sub(other.leases),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether so much taken away would leave less than half of [`MOST`].
    pub(crate) const fn is_below_half_without(self, other: Self) -> bool {
        let left = self.without(other);
        left.leases < MOST.leases / 2 || left.bytes < MOST.bytes / 2
    }
}
