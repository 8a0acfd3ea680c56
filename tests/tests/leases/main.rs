//! Leases: one caller loads, the others wait or get stale values, and a value that was read too early is never written.

mod chaos;
mod counted;
mod early;
mod fetch;
mod interleaved;
mod lost;
mod memory;
mod native;
mod orphaned;
mod race;
mod refused;
mod replicated;
mod reshaped;
mod stampede;
mod token;
mod tracked;
mod unblocked;
mod wait;
mod ways;

const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
