use std::time::{Duration, Instant};

pub(super) const NEVER: u64 = u64::MAX;

/// The coarse clock is never further behind than this: Linux advances it with each tick, every 1 to 10 ms. The only
/// exception is after a pause of a whole virtual machine, until the first tick.
#[cfg(target_os = "linux")]
const COARSE_LAG: u64 = 100_000_000;

/// Monotonic time in nanoseconds since the cache was built: 584 years fit into 64 bits.
#[derive(Debug, Clone)]
pub(super) enum Clock {
    System {
        start: Instant,
        /// The coarse clock's time at `start`, or a little before it.
        #[cfg(target_os = "linux")]
        coarse_start: u64,
    },
    /// Time as a test sets it.
    #[cfg(all(test, not(shuttle)))]
    Manual(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    pub(super) fn system() -> Self {
        Self::System {
            #[cfg(target_os = "linux")]
            coarse_start: coarse(),
            start: Instant::now(),
        }
    }

    /// Not inlined, because a hit seldom needs it.
    #[inline(never)]
    pub(super) fn now(&self) -> u64 {
        match self {
            Self::System { start, .. } => nanos(start.elapsed()),
            #[cfg(all(test, not(shuttle)))]
            Self::Manual(now) => now.load(std::sync::atomic::Ordering::SeqCst),
        }
    }

    /// The time of `instant`.
    #[cfg_attr(not(feature = "remote"), allow(dead_code))]
    pub(super) fn at(&self, instant: Instant) -> u64 {
        match self {
            Self::System { start, .. } => nanos(instant.saturating_duration_since(*start)),
            #[cfg(all(test, not(shuttle)))]
            Self::Manual(_) => self.now(),
        }
    }

    /// Whether `end` is still to come. The coarse clock costs a fraction of the exact one, and is enough until shortly
    /// before `end`.
    pub(super) fn is_before(&self, end: u64) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::System { coarse_start, .. }
                if (coarse() - coarse_start).saturating_add(COARSE_LAG) < end =>
            {
                true
            }
            _ => end == NEVER || self.now() < end,
        }
    }
}

#[cfg(target_os = "linux")]
fn coarse() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `duration` in nanoseconds, [`NEVER`] if they do not fit.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

/// The time from `now` until `end`: [`Duration::MAX`] for [`NEVER`].
pub(super) fn left(end: u64, now: u64) -> Duration {
    if end == NEVER {
        Duration::MAX
    } else {
        Duration::from_nanos(end.saturating_sub(now))
    }
}
