//! tagcache: a Redis module for cached values with tags.
//!
//! The module at a glance: the table of commands below; the data type `tagcache1` (`redis/data_type.rs`); the events
//! that keep the index correct (`redis/events.rs`); the settings (`config.rs`); the index itself (`engine/index.rs`).
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
use redis::{Command, Keys, Use, command};

/// The first argument is a key.
const ONE: Keys = Keys::Range(1, 1, 1);
/// The fourth argument is a key, if there are that many.
const FOURTH: Keys = Keys::Range(4, 4, 1);
/// All arguments are keys.
const ALL: Keys = Keys::Range(1, -1, 1);
/// Every second argument is a key, from the first on.
const PAIRS: Keys = Keys::Range(1, -1, 2);

/// The way in which clients of a cluster send a command: to each node that holds some of its keys, with the replies in
/// the keys' order or added up; or to all nodes, with the replies added up, all successful, or combined by a rule that
/// depends on the command.
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
    command! { run: set::set, name: c"cache.set", flags: c"write deny-oom", arity: -3, keys: ONE, uses: Use::Write, tips: None,
        syntax: "key value [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL] [GRACE milliseconds] [NX | XX] [LEASE token] [TAGS count tag [tag ...] | KEEPTAGS]",
        since: c"0.1.0", complexity: c"O(tags)", summary: c"Stores a value with tags and a time to live." },
    command! { run: mset::mset, name: c"cache.mset", flags: c"write deny-oom getkeys-api", arity: -4, keys: Keys::NumberedPairs, uses: Use::Write, tips: None,
        syntax: "numkeys key value [key value ...] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds] [GRACE milliseconds] [NX | XX] [TAGS count tag [tag ...]]",
        since: c"0.2.0", complexity: c"O(keys * tags)", summary: c"Stores values with one list of tags and one time to live." },
    command! { run: retag::retag, name: c"cache.retag", flags: c"write deny-oom fast", arity: -4, keys: ONE, uses: Use::Change, tips: None,
        syntax: "key TAGS count [tag [tag ...]]",
        since: c"0.2.0", complexity: c"O(tags)", summary: c"Gives an entry other tags." },
    command! { run: get::get, name: c"cache.get", flags: c"readonly fast", arity: 2, keys: ONE, uses: Use::Read, tips: None,
        syntax: "key",
        since: c"0.1.0", complexity: c"O(1)", summary: c"Returns the value of a fresh entry." },
    command! { run: get::mget, name: c"cache.mget", flags: c"readonly fast", arity: -2, keys: ALL, uses: Use::Read, tips: MULTI,
        syntax: "key [key ...]",
        since: c"0.1.0", complexity: c"O(keys)", summary: c"Returns the values of fresh entries." },
    command! { run: get::exists, name: c"cache.exists", flags: c"readonly fast", arity: -2, keys: ALL, uses: Use::Read, tips: MULTI_SUM,
        syntax: "key [key ...]",
        since: c"0.2.0", complexity: c"O(keys)", summary: c"Counts the keys that hold fresh entries." },
    command! { run: fetch::mfetch, name: c"cache.mfetch", flags: c"readonly fast", arity: -2, keys: ALL, uses: Use::Read, tips: MULTI,
        syntax: "key [key ...]",
        since: c"0.2.0", complexity: c"O(keys + tags)", summary: c"Returns values, fresh or stale, with their tags." },
    command! { run: fetch::fetch, name: c"cache.fetch", flags: c"readonly blocking", arity: -2, keys: ONE, uses: Use::Read, tips: None,
        syntax: "key [LEASE milliseconds [TOKEN n [RENEW]] [EARLY]] [WAIT milliseconds] [WITHTAGS count tag [tag ...]]",
        since: c"0.1.0", complexity: c"O(tags)", summary: c"Returns a value, fresh or stale, or the right to load it." },
    command! { run: fetch::release, name: c"cache.release", flags: c"write fast", arity: 3, keys: ONE, uses: Use::Change, tips: None,
        syntax: "key token",
        since: c"0.1.0", complexity: c"O(1)", summary: c"Gives back the right to load a value." },
    command! { run: del::del, name: c"cache.del", flags: c"write", arity: -2, keys: ALL, uses: Use::Remove, tips: MULTI_SUM,
        syntax: "key [key ...]",
        since: c"0.1.0", complexity: c"O(keys + tags)", summary: c"Removes entries." },
    command! { run: del::getdel, name: c"cache.getdel", flags: c"write fast", arity: 2, keys: ONE, uses: Use::Take, tips: None,
        syntax: "key",
        since: c"0.2.0", complexity: c"O(tags)", summary: c"Returns the value of a fresh entry and removes the entry." },
    command! { run: touch::touch, name: c"cache.touch", flags: c"write fast", arity: -3, keys: ONE, uses: Use::Change, tips: None,
        syntax: "key <EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST> [GRACE milliseconds]",
        since: c"0.1.0", complexity: c"O(tags)", summary: c"Changes when an entry expires." },
    command! { run: invalidate::invalidate, name: c"cache.invalidate", flags: c"write fast", arity: -2, keys: Keys::None, uses: Use::Nothing, tips: ALL_SUM,
        syntax: "tag [tag ...]",
        since: c"0.1.0", complexity: c"O(tags given + entries / 64)", summary: c"Drops all entries that carry one of the tags." },
    command! { run: invalidate::revalidate, name: c"cache.revalidate", flags: c"write fast", arity: -2, keys: Keys::None, uses: Use::Nothing, tips: ALL_SUM,
        syntax: "tag [tag ...]",
        since: c"0.1.0", complexity: c"O(tags given + entries / 64)", summary: c"Makes all entries that carry one of the tags stale." },
    command! { run: invalidate::invalidatewhere, name: c"cache.invalidatewhere", flags: c"write", arity: -4, keys: Keys::None, uses: Use::Nothing, tips: ALL_SUM,
        syntax: "[ALL count tag [tag ...]] [ANY count tag [tag ...]] [NONE count tag [tag ...]] [SOFT [GRACE milliseconds]] [DRYRUN]",
        since: c"0.1.0", complexity: c"O(tags given + entries / 64)", summary: c"Drops the entries that a condition on their tags selects." },
    command! { run: hold::hold, name: c"cache.hold", flags: c"write fast", arity: -3, keys: Keys::None, uses: Use::Nothing, tips: ALL_SUCCEED,
        syntax: "milliseconds tag [tag ...]",
        since: c"0.2.0", complexity: c"O(tags)", summary: c"Bounds the life of what is stored with the tags for a while." },
    command! { run: invalidate::flush, name: c"cache.flush", flags: c"write admin", arity: -1, keys: Keys::None, uses: Use::Nothing, tips: ALL_SUM,
        syntax: "",
        since: c"0.1.0", complexity: c"O(entries / 64)", summary: c"Drops all entries of the database." },
    command! { run: inspect::inspect, name: c"cache.inspect", flags: c"readonly fast", arity: 2, keys: ONE, uses: Use::Read, tips: None,
        syntax: "key",
        since: c"0.1.0", complexity: c"O(tags)", summary: c"Returns what is known about an entry." },
    command! { run: top::top, name: c"cache.top", flags: c"readonly admin blocking", arity: -1, keys: Keys::None, uses: Use::Nothing, tips: ALL_SPECIAL,
        syntax: "[count]",
        since: c"0.1.0", complexity: c"O(entries)", summary: c"Returns the entries with the most hits." },
    command! { run: hits::hits, name: c"cache.hits", flags: c"write fast", arity: -3, keys: PAIRS, uses: Use::Change, tips: MULTI_SUM,
        syntax: "key n [key n ...]",
        since: c"0.1.0", complexity: c"O(keys)", summary: c"Adds hits that were served elsewhere." },
    command! { run: tagtop::tagtop, name: c"cache.tagtop", flags: c"readonly admin blocking", arity: -1, keys: Keys::None, uses: Use::Nothing, tips: ALL_SPECIAL,
        syntax: "[BY <ENTRIES | BYTES>] [LIMIT n]",
        since: c"0.1.0", complexity: c"O(tags)", summary: c"Returns the largest tags." },
    command! { run: taginfo::taginfo, name: c"cache.taginfo", flags: c"readonly fast", arity: 2, keys: Keys::None, uses: Use::Nothing, tips: ALL_SPECIAL,
        syntax: "tag",
        since: c"0.1.0", complexity: c"O(1)", summary: c"Returns what is known about a tag." },
    command! { run: taginfo::tagtimes, name: c"cache.tagtimes", flags: c"readonly fast", arity: -2, keys: Keys::None, uses: Use::Nothing, tips: ALL_SPECIAL,
        syntax: "tag [tag ...]",
        since: c"0.2.0", complexity: c"O(tags)", summary: c"Returns when tags were last invalidated." },
    command! { run: tagscan::tagscan, name: c"cache.tagscan", flags: c"readonly", arity: -3, keys: Keys::None, uses: Use::Nothing, tips: SCAN,
        syntax: "tag cursor [COUNT n]",
        since: c"0.1.0", complexity: c"O(count) a call", summary: c"Iterates over the keys of a tag." },
    command! { run: clock::clock, name: c"cache.clock", flags: c"readonly fast", arity: -1, keys: Keys::None, uses: Use::Nothing, tips: ALL_SPECIAL,
        syntax: "[START]",
        since: c"0.2.0", complexity: c"O(1)", summary: c"Returns the node's lineage and the reading of the database's clock." },
    command! { run: stats::stats, name: c"cache.stats", flags: c"readonly blocking", arity: 1, keys: Keys::None, uses: Use::Nothing, tips: ALL_SPECIAL,
        syntax: "",
        since: c"0.1.0", complexity: c"O(leases)", summary: c"Returns figures of the database." },
    command! { run: stats::resetstats, name: c"cache.resetstats", flags: c"admin fast", arity: 1, keys: Keys::None, uses: Use::Nothing, tips: ALL_SUCCEED,
        syntax: "",
        since: c"0.1.0", complexity: c"O(1)", summary: c"Sets the database's counters to zero." },
    command! { run: replay::replay, name: c"cache.replay", flags: c"write admin", arity: -2, keys: FOURTH, uses: Use::Change, tips: None,
        syntax: "word [argument [argument ...]]",
        since: c"0.1.0", complexity: c"O(1)", summary: c"Internal: what replicas and append-only files need." },
    #[cfg(feature = "panic-on-demand")]
    command! { run: commands::panic::panic, name: c"cache.panic", flags: c"admin", arity: 2, keys: Keys::None, uses: Use::Nothing, tips: None,
        syntax: "place",
        since: c"0.1.0", complexity: c"O(1)", summary: c"Panics, for the test of the panic barrier." },
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;
    use crate::error::Error;
    use crate::redis::categories;

    /// The documentation, `docs/src` of the workspace.
    fn page(name: &str) -> String {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../docs/src")
            .join(name);
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// The start of a command's page.
    fn head(name: &str, command: &Command) -> String {
        let text = |text: &'static CStr| text.to_string_lossy();
        let usage = format!("{name} {}", command.syntax);
        let categories = categories(command);
        let categories: Vec<_> = categories.iter().map(|name| format!("`@{name}`")).collect();
        format!(
            "# {name}\n\n{}\n\n`{}`\n\n| | |\n|---|---|\n| Since | {} |\n| Complexity | {} |\n| ACL categories | {} |\n",
            text(command.summary),
            usage.trim(),
            text(command.since),
            text(command.complexity),
            categories.join(" ")
        )
    }

    /// The commands by the names of their pages.
    fn documented() -> BTreeMap<String, &'static Command> {
        let commands = COMMANDS.iter().map(|command| {
            let name = command.name.to_string_lossy();
            let word = name.strip_prefix("cache.").expect("all begin like this");
            (word.to_owned(), command)
        });
        commands.filter(|(word, _)| word != "panic").collect()
    }

    #[test]
    fn each_command_has_a_page_that_matches_the_command_table() {
        let overview = page("commands.md");
        for (word, command) in documented() {
            let name = format!("CACHE.{}", word.to_uppercase());
            let page = page(&format!("commands/{word}.md"));
            let head = head(&name, command);
            assert!(
                page.starts_with(&head),
                "the page of {name} must begin with:\n{head}"
            );
            let summary = command.summary.to_string_lossy();
            let row = format!("| [{name}](commands/{word}.md) | {summary} |\n");
            assert!(overview.contains(&row), "commands.md has no row {row}");
        }
    }

    #[test]
    fn no_page_describes_a_command_that_does_not_exist() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/commands");
        let pages = std::fs::read_dir(folder).expect("the pages of the commands");
        let pages: BTreeSet<String> = pages
            .map(|page| {
                let name = page.expect("a page").file_name();
                name.to_string_lossy().trim_end_matches(".md").to_owned()
            })
            .collect();
        assert_eq!(pages, documented().into_keys().collect());
    }

    #[test]
    fn the_settings_page_lists_each_setting_with_its_default() {
        let page = page("settings.md");
        for setting in config::SETTINGS {
            let name = setting.name.to_string_lossy();
            let (default, range) = match setting.words {
                [] => {
                    let default = (setting.get)(&config::Config::default());
                    (default.to_string(), format!("{} to ", setting.min))
                }
                [first, ..] => {
                    let first = first.to_string_lossy();
                    (first.to_string(), format!("{first} or "))
                }
            };
            let start = format!("| `{name}` | {default} | {range}");
            assert!(page.contains(&start), "{start}");
        }
    }

    #[test]
    fn troubleshooting_explains_each_error_of_the_module() {
        let page = page("troubleshooting.md");
        let errors = [
            Error::Syntax,
            Error::NotAnInteger,
            Error::InvalidCursor,
            Error::InvalidExpire { command: "…" },
            Error::WrongType,
            Error::TooManyTags { given: 1, limit: 1 },
            Error::EmptyTag { limit: 2 },
            Error::TagTooLong { given: 1, limit: 1 },
            Error::TagNotPermitted,
            Error::KeyNotPermitted,
            Error::CrossSlot,
            Error::TryAgain,
            Error::Internal,
        ];
        for error in errors {
            // Figures differ, but a tag has at least 1 byte.
            let text = error.to_string().replace(['1', '2'], "…");
            let text = text.replace("has … to", "has 1 to");
            assert!(page.contains(&format!("| `{text}` |")), "{text}");
        }
    }
}
