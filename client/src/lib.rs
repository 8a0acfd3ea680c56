//! Client crate of tagcache.
#![forbid(unsafe_code)]
