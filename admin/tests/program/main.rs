//! The program as a person or a script uses it: its output, its exit codes, and the processes that it starts and ends.
#![forbid(unsafe_code)]
// A helper may panic: that fails its test, as a panic in the test itself does.
#![allow(clippy::unwrap_used)]

mod alerts;
mod commands;
mod doctor;
mod encrypted;
mod endpoints;
mod packaging;
mod run;
mod trials;
