//! So many requests a minute and caller, by the generic cell rate algorithm.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::problem::Problem;

/// Callers that are remembered before those that have been quiet are forgotten.
const MANY: usize = 10_000;
/// How much more one address may ask for than one caller: several callers may share it.
const PER_ADDRESS: u32 = 10;

pub(super) struct Limit {
    callers: DefaultKeyedRateLimiter<String>,
    addresses: DefaultKeyedRateLimiter<String>,
    clock: DefaultClock,
}

impl Limit {
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        let address = per_minute.saturating_mul(NonZeroU32::MIN.saturating_add(PER_ADDRESS - 1));
        Self {
            callers: RateLimiter::keyed(Quota::per_minute(per_minute)),
            addresses: RateLimiter::keyed(Quota::per_minute(address)),
            clock: DefaultClock::default(),
        }
    }

    /// Before anybody is let in: bounds how fast tokens can be tried.
    pub(super) fn address(&self, request: &Parts) -> Result<(), Problem> {
        // A router that was mounted without connection info knows no addresses: then all share one.
        let address = request
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map_or_else(String::new, |info| info.0.ip().to_string());
        self.take(&self.addresses, &address)
    }

    pub(super) fn caller(&self, name: &str) -> Result<(), Problem> {
        self.take(&self.callers, &name.to_owned())
    }

    // governor wants a reference to the key's own type.
    #[allow(clippy::ptr_arg)]
    fn take(&self, limiter: &DefaultKeyedRateLimiter<String>, key: &String) -> Result<(), Problem> {
        if limiter.len() > MANY {
            limiter.retain_recent();
        }
        limiter
            .check_key(key)
            .map_err(|until| Problem::too_many(until.wait_time_from(self.clock.now())))
    }
}
