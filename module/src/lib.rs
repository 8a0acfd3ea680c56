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
mod record;
#[macro_use]
#[allow(unsafe_code)]
mod redis;
mod syntax;

use std::ffi::CStr;

use commands::{
    clock, del, fetch, get, hits, hold, inspect, invalidate, mset, replay, retag, set, stats,
    taginfo, tagscan, tagtop, top, touch,
};
use redis::{Command, Keys, command};

/// The first argument is a key.
const ONE: Keys = Keys::Range(1, 1, 1);
/// All arguments are keys.
const ALL: Keys = Keys::Range(1, -1, 1);
/// Every second argument is a key, from the first on.
const PAIRS: Keys = Keys::Range(1, -1, 2);
/// The first argument is the number of keys, each of which is followed by its value.
const NUMBERED_PAIRS: Keys = Keys::Numbered(2);

/// How clients of a cluster send a command: to each of the nodes that hold its keys, the answers in the keys' order or
/// added up; or to all nodes, the answers added up, all of them good, or put together by whoever knows what they mean.
const MULTI: Option<&CStr> = Some(c"request_policy:multi_shard");
const MULTI_SUM: Option<&CStr> = Some(c"request_policy:multi_shard response_policy:agg_sum");
const ALL_SUM: Option<&CStr> = Some(c"request_policy:all_shards response_policy:agg_sum");
const ALL_SUCCEED: Option<&CStr> = Some(c"request_policy:all_shards response_policy:all_succeeded");
const ALL_SPECIAL: Option<&CStr> = Some(c"request_policy:all_shards response_policy:special");
const SCAN: Option<&CStr> =
    Some(c"nondeterministic_output request_policy:special response_policy:special");

/// All commands.
#[rustfmt::skip]
#[allow(unsafe_code, reason = "each row is a C function, made by `command!`")]
static COMMANDS: &[Command] = &[
    command! {
        name: c"cache.set", run: set::set, flags: c"write deny-oom", arity: -3, keys: ONE, uses: Write, tips: None,
        syntax: "key value [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL] [GRACE milliseconds] [NX | XX] [LEASE token] [TAGS count tag [tag ...] | KEEPTAGS]",
        complexity: c"O(tags)", summary: c"Stores a value with tags and a time to live.",
    },
    command! {
        name: c"cache.mset", run: mset::mset, flags: c"write deny-oom getkeys-api", arity: -4, keys: NUMBERED_PAIRS, uses: Write, tips: None,
        syntax: "numkeys key value [key value ...] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds] [GRACE milliseconds] [NX | XX] [TAGS count tag [tag ...]]",
        complexity: c"O(keys * tags)", summary: c"Stores values with one list of tags and one time to live.",
    },
    command! {
        name: c"cache.retag", run: retag::retag, flags: c"write deny-oom fast", arity: -4, keys: ONE, uses: Change, tips: None,
        syntax: "key TAGS count [tag [tag ...]]",
        complexity: c"O(tags)", summary: c"Gives an entry other tags.",
    },
    command! {
        name: c"cache.get", run: get::get, flags: c"readonly fast", arity: 2, keys: ONE, uses: Read, tips: None,
        syntax: "key",
        complexity: c"O(1)", summary: c"Returns the value of a fresh entry.",
    },
    command! {
        name: c"cache.mget", run: get::mget, flags: c"readonly fast", arity: -2, keys: ALL, uses: Read, tips: MULTI,
        syntax: "key [key ...]",
        complexity: c"O(keys)", summary: c"Returns the values of fresh entries.",
    },
    command! {
        name: c"cache.exists", run: get::exists, flags: c"readonly fast", arity: -2, keys: ALL, uses: Read, tips: MULTI_SUM,
        syntax: "key [key ...]",
        complexity: c"O(keys)", summary: c"Counts the keys that hold fresh entries.",
    },
    command! {
        name: c"cache.mfetch", run: fetch::mfetch, flags: c"readonly fast", arity: -2, keys: ALL, uses: Read, tips: MULTI,
        syntax: "key [key ...]",
        complexity: c"O(keys + tags)", summary: c"Returns values, fresh or stale, with their tags.",
    },
    command! {
        name: c"cache.fetch", run: fetch::fetch, flags: c"readonly blocking", arity: -2, keys: ONE, uses: Read, tips: None,
        syntax: "key [LEASE milliseconds [TOKEN n] [EARLY]] [WAIT milliseconds] [WITHTAGS count tag [tag ...]]",
        complexity: c"O(tags)", summary: c"Returns a value, fresh or stale, or the right to load it.",
    },
    command! {
        name: c"cache.release", run: fetch::release, flags: c"write fast", arity: 3, keys: ONE, uses: Change, tips: None,
        syntax: "key token",
        complexity: c"O(1)", summary: c"Gives back the right to load a value.",
    },
    command! {
        name: c"cache.del", run: del::del, flags: c"write", arity: -2, keys: ALL, uses: Remove, tips: MULTI_SUM,
        syntax: "key [key ...]",
        complexity: c"O(keys + tags)", summary: c"Removes entries.",
    },
    command! {
        name: c"cache.getdel", run: del::getdel, flags: c"write fast", arity: 2, keys: ONE, uses: Take, tips: None,
        syntax: "key",
        complexity: c"O(tags)", summary: c"Returns the value of a fresh entry and removes the entry.",
    },
    command! {
        name: c"cache.touch", run: touch::touch, flags: c"write fast", arity: -3, keys: ONE, uses: Change, tips: None,
        syntax: "key <EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST> [GRACE milliseconds]",
        complexity: c"O(tags)", summary: c"Changes when an entry expires.",
    },
    command! {
        name: c"cache.invalidate", run: invalidate::invalidate, flags: c"write fast", arity: -2, keys: Keys::None, uses: Nothing, tips: ALL_SUM,
        syntax: "tag [tag ...]",
        complexity: c"O(tags given + entries / 64)", summary: c"Drops all entries that carry one of the tags.",
    },
    command! {
        name: c"cache.revalidate", run: invalidate::revalidate, flags: c"write fast", arity: -2, keys: Keys::None, uses: Nothing, tips: ALL_SUM,
        syntax: "tag [tag ...]",
        complexity: c"O(tags given + entries / 64)", summary: c"Makes all entries that carry one of the tags stale.",
    },
    command! {
        name: c"cache.invalidatewhere", run: invalidate::invalidatewhere, flags: c"write", arity: -4, keys: Keys::None, uses: Nothing, tips: ALL_SUM,
        syntax: "[ALL count tag [tag ...]] [ANY count tag [tag ...]] [NONE count tag [tag ...]] [SOFT [GRACE milliseconds]] [DRYRUN]",
        complexity: c"O(tags given + entries / 64)", summary: c"Drops the entries that a condition on their tags selects.",
    },
    command! {
        name: c"cache.hold", run: hold::hold, flags: c"write fast", arity: -3, keys: Keys::None, uses: Nothing, tips: ALL_SUCCEED,
        syntax: "milliseconds tag [tag ...]",
        complexity: c"O(tags)", summary: c"Bounds the life of what is stored with the tags for a while.",
    },
    command! {
        name: c"cache.flush", run: invalidate::flush, flags: c"write admin", arity: -1, keys: Keys::None, uses: Nothing, tips: ALL_SUM,
        syntax: "",
        complexity: c"O(entries / 64)", summary: c"Drops all entries of the database.",
    },
    command! {
        name: c"cache.inspect", run: inspect::inspect, flags: c"readonly fast", arity: 2, keys: ONE, uses: Read, tips: None,
        syntax: "key",
        complexity: c"O(tags)", summary: c"Tells what is known about an entry.",
    },
    command! {
        name: c"cache.top", run: top::top, flags: c"readonly admin", arity: -1, keys: Keys::None, uses: Nothing, tips: ALL_SPECIAL,
        syntax: "[count]",
        complexity: c"O(entries / 256)", summary: c"Returns the entries with the most hits.",
    },
    command! {
        name: c"cache.hits", run: hits::hits, flags: c"write fast", arity: -3, keys: PAIRS, uses: Change, tips: MULTI_SUM,
        syntax: "key n [key n ...]",
        complexity: c"O(keys)", summary: c"Adds hits that were served elsewhere.",
    },
    command! {
        name: c"cache.tagtop", run: tagtop::tagtop, flags: c"readonly admin blocking", arity: -1, keys: Keys::None, uses: Nothing, tips: ALL_SPECIAL,
        syntax: "[BY <ENTRIES | BYTES>] [LIMIT n]",
        complexity: c"O(tags)", summary: c"Returns the largest tags.",
    },
    command! {
        name: c"cache.taginfo", run: taginfo::taginfo, flags: c"readonly fast", arity: 2, keys: Keys::None, uses: Nothing, tips: ALL_SPECIAL,
        syntax: "tag",
        complexity: c"O(1)", summary: c"Tells what is known about a tag.",
    },
    command! {
        name: c"cache.tagtimes", run: taginfo::tagtimes, flags: c"readonly fast", arity: -2, keys: Keys::None, uses: Nothing, tips: ALL_SPECIAL,
        syntax: "tag [tag ...]",
        complexity: c"O(tags)", summary: c"Returns when tags were last invalidated.",
    },
    command! {
        name: c"cache.tagscan", run: tagscan::tagscan, flags: c"readonly", arity: -3, keys: Keys::None, uses: Nothing, tips: SCAN,
        syntax: "tag cursor [COUNT n]",
        complexity: c"O(count) a call", summary: c"Iterates over the keys of a tag.",
    },
    command! {
        name: c"cache.clock", run: clock::clock, flags: c"readonly fast", arity: 1, keys: Keys::None, uses: Nothing, tips: ALL_SPECIAL,
        syntax: "",
        complexity: c"O(1)", summary: c"Returns the node's lineage and the reading of the database's clock.",
    },
    command! {
        name: c"cache.stats", run: stats::stats, flags: c"readonly fast", arity: 1, keys: Keys::None, uses: Nothing, tips: ALL_SPECIAL,
        syntax: "",
        complexity: c"O(leases)", summary: c"Returns figures of the database.",
    },
    command! {
        name: c"cache.resetstats", run: stats::resetstats, flags: c"admin fast", arity: 1, keys: Keys::None, uses: Nothing, tips: ALL_SUCCEED,
        syntax: "",
        complexity: c"O(1)", summary: c"Sets the database's counters to zero.",
    },
    command! {
        name: c"cache.replay", run: replay::replay, flags: c"write admin", arity: -3, keys: Keys::None, uses: Nothing, tips: None,
        syntax: "word argument [argument ...]",
        complexity: c"O(1)", summary: c"Internal: what replicas and append-only files must be told.",
    },
    #[cfg(feature = "panic-on-demand")]
    command! {
        name: c"cache.panic", run: commands::panic::panic, flags: c"admin", arity: 2, keys: Keys::None, uses: Nothing, tips: None,
        syntax: "place",
        complexity: c"O(1)", summary: c"Panics, for the test of the panic barrier.",
    },
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
            let name = setting.name.to_string_lossy();
            let start = match setting.words {
                [] => format!("| `{name}` | {} | {} to ", setting.default, setting.min),
                [first, ..] => format!("| `{name}` | {0} | {0} or ", first.to_string_lossy()),
            };
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
