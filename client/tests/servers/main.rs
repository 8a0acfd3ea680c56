//! The two-tier cache against real servers.
//!
//! All suites are one program, because linking is most of what building them costs.
#![allow(
    clippy::missing_panics_doc,
    reason = "tests panic to say what is wrong"
)]

mod support;

mod basics;
mod checker;
mod coherence;
mod degradation;
mod fleet;
mod loads;
mod observed;
mod proxy;
mod stale;
mod tls;
mod topologies;
