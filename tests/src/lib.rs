//! Starts real servers with the module for the suites in `tests/tests`.
//!
//! Each test starts its own [`Server`] on a free loopback port with a directory of its own, sends commands through
//! `redis-rs` or the [`RawClient`] (which shows every byte of a reply), and drops it again. A server that dies or
//! panics meanwhile fails its test, whatever the test itself checks.
//!
//! Environment:
//! - `TAGCACHE_MODULE`: the module under test; default `target/release/tagcache.so` of the workspace.
//! - `TAGCACHE_MODULE_PANIC`: the build with the feature `panic-on-demand`.
//! - `TAGCACHE_ENGINES`: the servers to test, `NAME=COMMAND` separated by newlines or `;`; default
//!   `redis-7.0=redis-server`.
//! - `TAGCACHE_FUZZ_SECONDS` and others: see [`fuzz`].
//! - `TAGCACHE_SLOWDOWN`: a whole number by which all deadlines are multiplied, for servers under a sanitizer.
//! - `TAGCACHE_EMPTY_AT_END`: servers drop their entries before they end.
//! - `TAGCACHE_ALL_ENGINES=1`: run every test on every engine, not only those about differences.
#![forbid(unsafe_code)]

mod agree;
mod builder;
pub mod clock;
pub mod cluster;
mod engine;
pub mod fetch;
pub mod fuzz;
pub mod look;
pub mod payload;
mod process;
pub mod proxy;
mod reply;
mod resp;
mod rng;
pub mod sentinel;
mod server;
pub mod state;
pub mod stream;
pub mod threads;
pub mod traffic;
mod wait;

pub use builder::{ServerBuilder, module_path, panic_module_path};
pub use engine::{Engine, engines, for_all_engines, for_each_engine, on_both_protocols};
pub use process::free_port;
pub use reply::Reply;
pub use resp::{RawClient, ToArg, split};
pub use rng::Rng;
pub use server::Server;
pub use wait::{DEADLINE, slowed, wait_until};
