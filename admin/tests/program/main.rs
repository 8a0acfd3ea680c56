//! The program as a person or a script uses it: its output, its exit codes, what it starts and ends.
#![forbid(unsafe_code)]
// A helper that cannot go on fails its test, as the test itself would.
#![allow(clippy::unwrap_used)]

mod alerts;
mod commands;
mod doctor;
mod encrypted;
mod endpoints;
mod packaging;
mod run;
mod trials;
