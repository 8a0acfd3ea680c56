//! tagcache: a Redis module for cached values with tags.
//!
//! The module at a glance: the table of commands below; the data type `tagcache1` (`redis/data_type.rs`); the events
//! that keep the index true (`redis/events.rs`); the settings (`config.rs`); the index itself (`engine/index.rs`).
//! Data goes one way: arguments, command, engine, reply, replication.

#![deny(unsafe_code)]

mod args;
mod commands;
mod config;
mod engine;
#[allow(unsafe_code)]
mod entry;
mod error;
mod figures;
mod leb128;
#[macro_use]
#[allow(unsafe_code)]
mod redis;

use std::ffi::c_int;

use commands::{del, flush, get, inspect, invalidate, set, stats, taginfo, tagscan, touch};
use redis::{Command, command};

/// No keys among the arguments.
const NONE: (c_int, c_int, c_int) = (0, 0, 0);
/// The first argument is a key.
const ONE: (c_int, c_int, c_int) = (1, 1, 1);
/// All arguments are keys.
const ALL: (c_int, c_int, c_int) = (1, -1, 1);

/// All commands: name, body, flags, keys.
#[rustfmt::skip]
#[allow(unsafe_code, reason = "each row is a C function, made by `command!`")]
static COMMANDS: &[Command] = &[
    command!(c"CACHE.SET",        set::set,               c"write deny-oom",      ONE),
    command!(c"CACHE.GET",        get::get,               c"readonly fast",       ONE),
    command!(c"CACHE.MGET",       get::mget,              c"readonly fast",       ALL),
    command!(c"CACHE.DEL",        del::del,               c"write",               ALL),
    command!(c"CACHE.TOUCH",      touch::touch,           c"write fast",          ONE),
    command!(c"CACHE.INVALIDATE", invalidate::invalidate, c"write fast",          NONE),
    command!(c"CACHE.FLUSH",      flush::flush,           c"write admin",         NONE),
    command!(c"CACHE.INSPECT",    inspect::inspect,       c"readonly fast",       ONE),
    command!(c"CACHE.TAGINFO",    taginfo::taginfo,       c"readonly fast",       NONE),
    command!(c"CACHE.TAGSCAN",    tagscan::tagscan,       c"readonly",            NONE),
    command!(c"CACHE.STATS",      stats::stats,           c"readonly fast",       NONE),
    command!(c"CACHE.RESETSTATS", stats::resetstats,      c"admin fast",          NONE),
    command!(c"CACHE.RECLAIM",    redis::reclaim_command, c"admin",               NONE),
    #[cfg(feature = "panic-on-demand")]
    command!(c"CACHE.PANIC",      commands::panic::panic, c"admin",               NONE),
];
