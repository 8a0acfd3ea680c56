//! Hostile input: an error each time, nothing lost, the server alive.

mod arguments;
mod bounds;
mod distrust;
mod overload;
mod panics;
mod payloads;
