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
mod native;
#[macro_use]
#[allow(unsafe_code)]
mod redis;
mod syntax;

use std::ffi::{CStr, c_int};

use commands::{
    clock, del, fetch, get, hits, inspect, invalidate, replay, set, stats, taginfo, tagscan,
    tagtop, top, touch,
};
use redis::{Command, command};

/// No keys among the arguments.
const NONE: (c_int, c_int, c_int) = (0, 0, 0);
/// The first argument is a key.
const ONE: (c_int, c_int, c_int) = (1, 1, 1);
/// All arguments are keys.
const ALL: (c_int, c_int, c_int) = (1, -1, 1);

/// Every second argument is a key, from the first on.
const PAIRS: (c_int, c_int, c_int) = (1, -1, 2);

/// How clients of a cluster send a command: to each of the nodes that hold its keys, the answers in the keys' order or
/// added up; or to all nodes, the answers added up, all of them good, or put together by whoever knows what they mean.
const MULTI: Option<&CStr> = Some(c"request_policy:multi_shard");
const MULTI_SUM: Option<&CStr> = Some(c"request_policy:multi_shard response_policy:agg_sum");
const ALL_SUM: Option<&CStr> = Some(c"request_policy:all_shards response_policy:agg_sum");
const ALL_SUCCEED: Option<&CStr> = Some(c"request_policy:all_shards response_policy:all_succeeded");
const ALL_SPECIAL: Option<&CStr> = Some(c"request_policy:all_shards response_policy:special");
const SCAN: Option<&CStr> =
    Some(c"nondeterministic_output request_policy:special response_policy:special");

/// All commands: name, body, flags, keys, what it does to them, arity, syntax, tips, cost, summary.
#[rustfmt::skip]
#[allow(unsafe_code, reason = "each row is a C function, made by `command!`")]
static COMMANDS: &[Command] = &[
    command!(c"cache.set", set::set, c"write deny-oom", ONE, Write, -3,
        "key value [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL] [GRACE milliseconds] [NX | XX] [LEASE token] [TAGS count tag [tag ...]]",
        None, c"O(tags)", c"Stores a value with tags and a time to live."),
    command!(c"cache.get", get::get, c"readonly fast", ONE, Read, 2,
        "key",
        None, c"O(1)", c"Returns the value of a fresh entry."),
    command!(c"cache.mget", get::mget, c"readonly fast", ALL, Read, -2,
        "key [key ...]",
        MULTI, c"O(keys)", c"Returns the values of fresh entries."),
    command!(c"cache.fetch", fetch::fetch, c"readonly blocking", ONE, Read, -2,
        "key [LEASE milliseconds [TOKEN n]] [WAIT milliseconds]",
        None, c"O(tags)", c"Returns a value, fresh or stale, or the right to load it."),
    command!(c"cache.release", fetch::release, c"write fast", ONE, Change, 3,
        "key token",
        None, c"O(1)", c"Gives back the right to load a value."),
    command!(c"cache.del", del::del, c"write", ALL, Remove, -2,
        "key [key ...]",
        MULTI_SUM, c"O(keys + tags)", c"Removes entries."),
    command!(c"cache.touch", touch::touch, c"write fast", ONE, Change, -3,
        "key <EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST> [GRACE milliseconds]",
        None, c"O(tags)", c"Changes when an entry expires."),
    command!(c"cache.invalidate", invalidate::invalidate, c"write fast", NONE, Nothing, -2,
        "tag [tag ...]",
        ALL_SUM, c"O(tags given + entries / 64)", c"Drops all entries that carry one of the tags."),
    command!(c"cache.revalidate", invalidate::revalidate, c"write fast", NONE, Nothing, -2,
        "tag [tag ...]",
        ALL_SUM, c"O(tags given + entries / 64)", c"Makes all entries that carry one of the tags stale."),
    command!(c"cache.invalidatewhere", invalidate::invalidatewhere, c"write", NONE, Nothing, -4,
        "[ALL count tag [tag ...]] [ANY count tag [tag ...]] [NONE count tag [tag ...]] [SOFT] [DRYRUN]",
        ALL_SUM, c"O(tags given + entries / 64)", c"Drops the entries that a condition on their tags selects."),
    command!(c"cache.flush", invalidate::flush, c"write admin", NONE, Nothing, -1,
        "",
        ALL_SUM, c"O(entries / 64)", c"Drops all entries of the database."),
    command!(c"cache.inspect", inspect::inspect, c"readonly fast", ONE, Read, 2,
        "key",
        None, c"O(tags)", c"Tells what is known about an entry."),
    command!(c"cache.top", top::top, c"readonly admin", NONE, Nothing, -1,
        "[count]",
        ALL_SPECIAL, c"O(entries / 256)", c"Returns the entries with the most hits."),
    command!(c"cache.hits", hits::hits, c"write fast", PAIRS, Change, -3,
        "key n [key n ...]",
        MULTI_SUM, c"O(keys)", c"Adds hits that were served elsewhere."),
    command!(c"cache.tagtop", tagtop::tagtop, c"readonly admin blocking", NONE, Nothing, -1,
        "[BY <ENTRIES | BYTES>] [LIMIT n]",
        ALL_SPECIAL, c"O(tags)", c"Returns the largest tags."),
    command!(c"cache.taginfo", taginfo::taginfo, c"readonly fast", NONE, Nothing, 2,
        "tag",
        ALL_SPECIAL, c"O(1)", c"Tells what is known about a tag."),
    command!(c"cache.tagscan", tagscan::tagscan, c"readonly", NONE, Nothing, -3,
        "tag cursor [COUNT n]",
        SCAN, c"O(count) a call", c"Iterates over the keys of a tag."),
    command!(c"cache.clock", clock::clock, c"readonly fast", NONE, Nothing, 1,
        "",
        ALL_SPECIAL, c"O(1)", c"Returns the node's lineage and the reading of the database's clock."),
    command!(c"cache.stats", stats::stats, c"readonly fast", NONE, Nothing, 1,
        "",
        ALL_SPECIAL, c"O(leases)", c"Returns figures of the database."),
    command!(c"cache.resetstats", stats::resetstats, c"admin fast", NONE, Nothing, 1,
        "",
        ALL_SUCCEED, c"O(1)", c"Sets the database's counters to zero."),
    command!(c"cache.replay", replay::replay, c"write admin", NONE, Nothing, -3,
        "word argument [argument ...]",
        None, c"O(1)", c"Internal: what replicas and append-only files must be told."),
    #[cfg(feature = "panic-on-demand")]
    command!(c"cache.panic", commands::panic::panic, c"admin", NONE, Nothing, 2,
        "place",
        None, c"O(1)", c"Panics, for the test of the panic barrier."),
];

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = include_str!("../COMMANDS.md");

    #[test]
    fn the_reference_has_a_section_for_each_command_and_no_other() {
        let mut described: Vec<String> = REFERENCE
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .map(str::to_ascii_lowercase)
            .collect();
        let mut registered: Vec<String> = COMMANDS
            .iter()
            .map(|command| command.name.to_string_lossy().into_owned())
            .filter(|name| name != "cache.panic")
            .collect();
        described.sort();
        registered.sort();
        assert_eq!(described, registered);
    }

    #[test]
    fn the_reference_has_a_row_for_each_setting_with_its_default() {
        for setting in &config::SETTINGS {
            let start = format!(
                "| `{}` | {} | {} to ",
                setting.name.to_string_lossy(),
                setting.default,
                setting.min
            );
            assert!(REFERENCE.contains(&start), "{start}");
        }
    }

    /// The usage line of each command, with its arguments as the server is told them.
    #[test]
    fn the_reference_shows_each_command_with_the_syntax_that_the_server_is_told() {
        for command in COMMANDS {
            let name = command.name.to_string_lossy().to_ascii_uppercase();
            if ["CACHE.PANIC", "CACHE.REPLAY"].contains(&&*name) {
                continue; // One is for tests, and the other is several commands in one.
            }
            let usage = format!("{name} {}", command.syntax);
            let line = format!("`{}`", usage.trim());
            let section = REFERENCE
                .split("\n### ")
                .find(|section| section.lines().next() == Some(&*name))
                .expect("there is a section");
            assert!(
                section.contains(&line),
                "the section of {name} has no {line}"
            );
        }
    }
}
