//! Paired measurements.
#![forbid(unsafe_code)]
