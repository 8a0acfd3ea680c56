//! Native commands on entries: each works as usual, and afterwards index and keyspace agree.

mod cluster;
mod defrag;
mod dump;
mod events;
mod eviction;
mod expire;
mod flush;
mod gone;
mod keys;
mod lazy;
mod looking;
mod model;
mod natively;
mod operation;
mod overwrite;
mod random;
mod selected;
mod together;
mod watch;
mod world;

const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
