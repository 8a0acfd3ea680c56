//! Hostile input: an error each time, nothing lost, the server alive.

mod arguments;
mod bounds;
mod distrust;
mod logged;
mod overload;
mod panics;
mod payloads;
