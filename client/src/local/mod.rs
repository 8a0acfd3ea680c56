//! The local tier: a bounded cache in this process, with tags, and no server behind it.

mod bounds;
mod builder;
mod cache;
mod cleanup;
mod clock;
mod flights;
mod hits;
mod inner;
mod load;
mod loading;
mod marks;
mod report;
mod stats;
mod stored;
mod sync;
mod tags;
mod tracker;

pub use self::{
    builder::LocalCacheBuilder,
    cache::LocalCache,
    stats::{EntryInfo, LocalStats},
    tracker::AccessedKey,
};
#[cfg_attr(not(feature = "remote"), allow(unused_imports))]
pub(crate) use self::{cache::Lookup, loading::Reservation};
