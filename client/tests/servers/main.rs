//! The two-tier cache against real servers.
//!
//! All suites are one program, because linking takes most of the time to build them.
#![allow(
    clippy::unwrap_used,
    clippy::useless_vec,
    reason = "helpers of tests may panic as tests do; `args!` makes vectors of any mix of types"
)]

mod support;

mod basics;
mod calls;
mod degradation;
mod examples;
mod fleet;
mod fuzzed;
mod leases;
mod loads;
mod moves;
mod observed;
mod outages;
mod refused;
mod restarts;
mod single_flight;
mod stale;
mod strangers;
mod times;
mod tls;
mod topologies;
