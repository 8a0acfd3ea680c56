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

#[cfg(all(test, not(shuttle)))]
mod model_tests;
#[cfg(all(test, shuttle))]
mod shuttle_tests;

#[cfg_attr(not(feature = "remote"), allow(unused_imports))]
pub(crate) use self::cache::Lookup;
pub use self::{
    builder::LocalCacheBuilder,
    cache::LocalCache,
    loading::Reservation,
    stats::{EntryInfo, LocalStats},
    tracker::AccessedKey,
};
