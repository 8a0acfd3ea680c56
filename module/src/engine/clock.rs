//! The logical clock of a database.

/// Counts the invalidations of a database: each hard or soft invalidation and each flush adds one.
///
/// Two nodes that applied the same stream show the same clock, whatever their wall clocks say, so "older than that
/// invalidation" never depends on time of day. It is saved in the RDB and travels with replication.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Clock(u64);

impl Clock {
    /// Adds one and returns the new reading.
    pub(crate) const fn tick(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }

    pub(crate) const fn reading(self) -> u64 {
        self.0
    }

    /// Takes over the reading that belongs to the data that is being loaded.
    pub(crate) const fn restore(&mut self, reading: u64) {
        self.0 = reading;
    }

    /// Goes on from a reading, if that is later than its own.
    pub(crate) fn advance(&mut self, reading: u64) {
        self.0 = self.0.max(reading);
    }
}
