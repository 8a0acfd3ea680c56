//! A limit of requests per minute and caller, by the generic cell rate algorithm.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::problem::Problem;

/// The limiter forgets idle callers when it remembers more than this many.
const MANY: usize = 10_000;
/// An address may send this many times the requests of one caller, because several callers may share it.
const PER_ADDRESS: u32 = 10;

/// Returns a caller's address.
pub(super) type ClientAddress = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

/// The address at the other end of the connection; `None` where the application serves without connection info.
pub(super) fn of_connection(request: &Parts) -> Option<IpAddr> {
    let info = request.extensions.get::<ConnectInfo<SocketAddr>>();
    info.map(|info| info.0.ip())
}

pub(super) struct Limit {
    callers: DefaultKeyedRateLimiter<(String, Option<IpAddr>)>,
    addresses: DefaultKeyedRateLimiter<Option<IpAddr>>,
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

    /// Runs before authentication: bounds how fast tokens can be tried. Callers without a known address share one
    /// limit.
    pub(super) fn address(&self, address: Option<IpAddr>) -> Result<(), Problem> {
        self.take(&self.addresses, &address.map(network))
    }

    pub(super) fn caller(&self, name: &str, shared_by: Option<IpAddr>) -> Result<(), Problem> {
        self.take(&self.callers, &(name.to_owned(), shared_by.map(network)))
    }

    fn take<K: Hash + Eq + Clone>(
        &self,
        limiter: &DefaultKeyedRateLimiter<K>,
        key: &K,
    ) -> Result<(), Problem> {
        if limiter.len() > MANY {
            limiter.retain_recent();
        }
        limiter
            .check_key(key)
            .map_err(|until| Problem::too_many(until.wait_time_from(self.clock.now())))
    }
}

/// The addresses of one caller: an IPv6 caller has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_share_a_rate_limit() {
        let limit = Limit::new(NonZeroU32::MIN);
        let from = |address: &str| limit.address(Some(address.parse().unwrap())).is_ok();
        let tries: Vec<bool> = (0..20).map(|i| from(&format!("2001:db8::{i:x}"))).collect();
        assert_eq!(tries.iter().filter(|let_in| **let_in).count(), 10);
        assert!(from("2001:db8:0:1::1"), "another network");
        for _ in 0..10 {
            assert!(from("192.0.2.1"));
        }
        assert!(!from("::ffff:192.0.2.1"), "the same address");
        assert!(from("192.0.2.2"));
    }

    #[test]
    fn callers_with_the_same_token_have_separate_limits() {
        let limit = Limit::new(NonZeroU32::MIN);
        let from = |address: &str| limit.caller("token 0", address.parse().ok()).is_ok();
        assert!(from("192.0.2.1"));
        assert!(!from("192.0.2.1"));
        assert!(from("192.0.2.2"));
    }
}
