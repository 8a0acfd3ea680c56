#![doc = include_str!("overview.md")]

mod bounds;
mod builder;
mod cache;
mod clock;
mod hits;
mod inner;
mod load;
mod loading;
mod loads;
mod marks;
mod report;
mod stats;
mod stored;
mod sync;
mod tags;

#[cfg(all(test, not(shuttle)))]
mod model_tests;
#[cfg(all(test, shuttle))]
mod shuttle_tests;

pub use self::{
    builder::LocalCacheBuilder,
    cache::LocalCache,
    loading::Reservation,
    stats::{EntryInfo, LocalStats, TopKey},
};
#[cfg(feature = "remote")]
pub(crate) use self::{load::End, tags::TagSet};
