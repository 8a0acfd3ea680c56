//! The admin endpoint over real connections, with a real server behind it.
#![forbid(unsafe_code)]
// A helper may panic: that fails its test, as a panic in the test itself does.
#![allow(clippy::unwrap_used)]

mod answers;
mod auth;
mod connections;
mod control;
mod endpoint;
mod fleet;
mod fuzzed;
mod metrics;
mod names;
mod stats;
mod stream;
mod two_tiers;
