//! The settings of a cache, and those of an [`Entry`] that a local tier does not need.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::entry::Entry;
use crate::remote::Timeouts;
use crate::remote::command::{LONGEST, LONGEST_GRACE, Times};

/// The settings of a cache, as its builder checked them.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The namespace and a colon, or nothing.
    pub(crate) prefix: String,
    pub(crate) name: Option<String>,
    pub(crate) entry: Entry,
    pub(crate) local_max_entries: usize,
    pub(crate) local_max_bytes: u64,
    pub(crate) local_ttl_max: Duration,
    /// How long entries are kept as stale while a server cannot be reached.
    pub(crate) stale_bound: Duration,
    pub(crate) keeps_after_loss: bool,
    pub(crate) load_timeout: Duration,
    pub(crate) timeouts: Timeouts,
    pub(crate) max_waiting_connections: usize,
    /// Zero: hits of the local tier are not reported.
    pub(crate) hits_interval: Duration,
    pub(crate) compress_from: Option<usize>,
}

/// How a value is loaded and how its times are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LoadOptions {
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) early_refresh: f64,
    pub(crate) soft_timeout: Duration,
    pub(crate) hard_timeout: Option<Duration>,
    pub(crate) retry_after: Duration,
}

impl LoadOptions {
    pub(crate) const DEFAULT: Self = Self {
        negative_ttl: None,
        jitter: 0.0,
        early_refresh: 0.0,
        soft_timeout: Duration::ZERO,
        hard_timeout: None,
        retry_after: Duration::from_secs(1),
    };
}

/// For [`Cache`](crate::Cache) only (feature `remote`); a [`LocalCache`](crate::LocalCache) ignores these.
impl<T> Entry<T> {
    /// How long a loader's result `None` is cached ([`get_or_load_optional`](crate::Cache::get_or_load_optional)); with
    /// zero it is not cached. Default: the TTL of a value. The grace is that of a value.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.load.negative_ttl = Some(ttl);
        self
    }

    /// Shortens each TTL by a random share of up to `share`, between 0 and 1, so that values that were stored together
    /// do not expire together. Default: 0. NaN counts as 0.
    pub fn jitter(mut self, share: f64) -> Self {
        self.load.jitter = if share > 0.0 { share.min(1.0) } else { 0.0 };
        self
    }

    /// Lets a loaded value be refreshed before it expires: the longer its load took and the larger `beta` is, the
    /// earlier. 1 is a good start, 0 (the default) turns it off.
    ///
    /// For a time of β·δ·(1 + Exp(1)) before the TTL ends, where δ is the duration of the load, `get_or_load` serves
    /// the value while one caller of the fleet refreshes it. At most half of the TTL is given up for this. `get`
    /// returns `None` in that time. After a soft invalidation, the value is stale for that much longer than its grace.
    /// After Vattani, Chierichetti and Lowenstein, *Optimal Probabilistic Cache Stampede Prevention*, VLDB 2015;
    /// `DESIGN.md` lists the differences.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.load.early_refresh = beta.max(0.0);
        self
    }

    /// How long `get_or_load` waits for a fresh value while it could serve a stale one. Default: zero, so the stale
    /// value is served at once. In any case the load continues in the background.
    pub fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.load.soft_timeout = timeout;
        self
    }

    /// After a refresh failed: how long the stale value is served, in all processes, before the next attempt. A loader
    /// that is down is thus not called again and again. Default: 1 s. It is cut to a quarter of the grace.
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.load.retry_after = pause;
        self
    }

    /// How long a loader may take; a loader that takes longer is dropped. A caller waits for another process's load for
    /// this time and the time of its own commands. Then it runs its own loader, so a call takes at most about twice
    /// this time. Default: the cache's [`load_timeout`](crate::CacheBuilder::load_timeout).
    ///
    /// The lease lasts as long as a load may take, but at most 60 s (or the server's `tagcache.lease-max-ms`). If a
    /// loader takes longer than the lease and others ask for the key meanwhile, one of them loads too, and the value of
    /// the first loader is returned but not stored.
    pub fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.load.hard_timeout = Some(timeout);
        self
    }
}

/// An entry as it is sent to a server, in a form that a task can own.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The tags by their names on the server, each once.
    pub(crate) entry: Entry<Vec<String>>,
    /// One of the tags is empty, so that no server would store the value.
    pub(crate) has_empty_tag: bool,
    pub(crate) hard_timeout: Duration,
    /// How long to wait for another process's load: the time that it may take, commands included.
    pub(crate) longest_wait: Duration,
    /// How the loaded value is stored, if the loader chose that itself.
    pub(crate) chosen: Arc<OnceLock<Plan>>,
    /// Loads even if there is a fresh value.
    pub(crate) anew: bool,
}

/// A longer time-out counts as this one, which can still be added to the current time.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Plan {
    /// How to store the loaded value: as the loader chose, or else as the caller did.
    pub(crate) fn of_loaded(&self) -> &Self {
        self.chosen.get().unwrap_or(self)
    }

    /// How long a value, or its absence, is stored; zero: not at all.
    pub(crate) fn ttl_of(&self, negative: bool) -> Duration {
        let negative_ttl = self.entry.load.negative_ttl.filter(|_| negative);
        negative_ttl.unwrap_or(self.entry.ttl)
    }

    /// The times of one write. `draw` returns random numbers from 0 to below 1, `took` is the duration of the load.
    pub(crate) fn times(
        &self,
        negative: bool,
        took: Duration,
        mut draw: impl FnMut() -> f64,
    ) -> Times {
        let Entry { grace, load, .. } = &self.entry;
        let grace = (*grace).min(LONGEST_GRACE);
        let ttl = self.ttl_of(negative);
        if ttl >= LONGEST {
            return Times { ttl: None, grace };
        }
        let ttl = ttl.mul_f64(1.0 - load.jitter * draw());
        let mut cut = Duration::ZERO;
        if load.early_refresh > 0.0 {
            // -ln(1 - u) is Exp(1) for u from 0 to below 1.
            let scale = load.early_refresh * (1.0 - (1.0 - draw()).ln());
            let earlier = Duration::try_from_secs_f64(took.as_secs_f64() * scale);
            cut = earlier.unwrap_or(ttl).min(ttl / 2);
        }
        Times {
            ttl: Some(ttl.saturating_sub(cut)),
            grace: (grace + cut).min(LONGEST_GRACE),
        }
    }

    pub(crate) fn lease(&self) -> Duration {
        self.longest_wait.min(Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(load: LoadOptions) -> Plan {
        Plan {
            entry: Entry {
                load,
                ..Entry::ttl(Duration::from_secs(100))
                    .grace(Duration::from_secs(5))
                    .map_tags(|_| Vec::new())
            },
            has_empty_tag: false,
            hard_timeout: Duration::from_secs(10),
            longest_wait: Duration::from_secs(12),
            chosen: Arc::default(),
            anew: false,
        }
    }

    #[test]
    fn without_options_ttl_and_grace_are_unchanged() {
        let times = plan(LoadOptions::DEFAULT).times(false, Duration::from_secs(3), || 0.9);
        let (ttl, grace) = (Some(Duration::from_secs(100)), Duration::from_secs(5));
        assert_eq!(times, Times { ttl, grace });
    }

    #[test]
    fn absence_uses_the_negative_ttl_if_set() {
        let mut load = LoadOptions::DEFAULT;
        assert_eq!(
            plan(load).times(true, Duration::ZERO, || 0.0).ttl,
            Some(Duration::from_secs(100))
        );
        load.negative_ttl = Some(Duration::from_secs(2));
        assert_eq!(
            plan(load).times(true, Duration::ZERO, || 0.0).ttl,
            Some(Duration::from_secs(2))
        );
        assert_eq!(
            plan(load).times(false, Duration::ZERO, || 0.0).ttl,
            Some(Duration::from_secs(100))
        );
    }

    #[test]
    fn entry_without_expiry_ignores_jitter_and_early_refresh() {
        let mut plan = plan(LoadOptions {
            jitter: 0.5,
            early_refresh: 1.0,
            ..LoadOptions::DEFAULT
        });
        plan.entry.ttl = Duration::MAX;
        assert_eq!(plan.times(false, Duration::from_secs(1), || 0.5).ttl, None);
    }

    proptest! {
        #[test]
        fn jitter_and_early_refresh_stay_within_the_ttl(
            jitter in 0.0..=1.0_f64, beta in 0.0..1e9_f64, took in 0..1_000_000_u64, draw in 0.0..1.0_f64,
        ) {
            let plan = plan(LoadOptions { jitter, early_refresh: beta, ..LoadOptions::DEFAULT });
            let times = plan.times(false, Duration::from_millis(took), || draw);
            let ttl = times.ttl.expect("it expires");
            let longest = Duration::from_secs(100);
            // The fresh and the early time together are the TTL after jitter.
            let early = times.grace.saturating_sub(plan.entry.grace);
            let all = ttl + early;
            prop_assert!(all <= longest);
            prop_assert!(all >= longest.mul_f64((1.0 - jitter).max(0.0)).saturating_sub(Duration::from_micros(1)));
            prop_assert!(ttl * 2 + Duration::from_nanos(1) >= all);
            if beta > 0.0 {
                let least = Duration::from_millis(took).mul_f64(beta.min(1e6));
                prop_assert!(early >= least.min(all / 2).saturating_sub(Duration::from_micros(1)));
            }
        }
    }
}
