//! Starts real servers with the module for the suites in `tests/tests`.
#![forbid(unsafe_code)]
