use std::time::{Duration, Instant};

/// The moment that never comes.
pub(super) const NEVER: u64 = u64::MAX;

/// Monotonic time in nanoseconds since the cache was made: 584 years fit into 64 bits.
#[derive(Debug, Clone)]
pub(super) enum Clock {
    System(Instant),
    /// Time as a test sets it.
    #[cfg(all(test, not(shuttle)))]
    Manual(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    pub(super) fn system() -> Self {
        Self::System(Instant::now())
    }

    pub(super) fn now(&self) -> u64 {
        match self {
            Self::System(start) => nanos(start.elapsed()),
            #[cfg(all(test, not(shuttle)))]
            Self::Manual(now) => now.load(std::sync::atomic::Ordering::SeqCst),
        }
    }
}

/// `duration` in nanoseconds, [`NEVER`] where they do not fit.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

/// What is left from `now` until `end`: [`Duration::MAX`] for [`NEVER`].
pub(super) fn left(end: u64, now: u64) -> Duration {
    if end == NEVER {
        Duration::MAX
    } else {
        Duration::from_nanos(end.saturating_sub(now))
    }
}
