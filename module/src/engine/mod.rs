//! Pure logic: tags, entries, clocks and counters, with no server, no FFI and no clock of its own.
//!
//! Everything here runs under plain `cargo test`, Miri and property tests; time comes in as an argument.

mod database;
mod history;
mod ids;
mod index;
mod lease;
mod lists;
mod marks;
mod pace;
mod pages;
mod seeds;
mod slots;
mod stamps;
mod stats;
mod table;
mod token;

pub(crate) use database::{Database, Invalidation};
pub(crate) use history::{History, Outcome};
pub(crate) use index::{Condition, Effect, Freshness, Incoming, Index, Step, TagFigures};
pub(crate) use lease::{Answer, Ask, Caller, Key, Leases, MOST, Terms, Token, Waiter};
pub(crate) use marks::Softened;
pub(crate) use pace::{Moment, Pace};
pub(crate) use seeds::Seeded;
pub(crate) use slots::{Slot, UNIT};
pub(crate) use stamps::{CLOCKS_DIFFER_MS, FURTHEST_MS, Stamps, kept_stamp_ms};
pub(crate) use stats::Counters;

pub(crate) use crate::record::{Facts, Softness};
