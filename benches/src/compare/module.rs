//! The module's commands.

use tagcache_tests::args;

use super::way::{Command, Entry, Link, Way, found};

/// `CACHE.SET`, `CACHE.GET`, `CACHE.INVALIDATE`; a missing value is loaded under a lease.
pub(crate) struct Module;

fn set(entry: &Entry) -> Command {
    let mut command = args!["CACHE.SET", entry.key, entry.value, "EX", entry.ttl_s];
    if !entry.tags.is_empty() {
        command.extend(args!["TAGS", entry.tags.len()]);
        command.extend(entry.tags.iter().map(|tag| tag.clone().into_bytes()));
    }
    command
}

impl Way for Module {
    fn name(&self) -> &'static str {
        "tagcache"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        vec![vec![set(entry)]]
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        found(&link.call(args!["CACHE.GET", entry.key]))
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        link.call(args!["CACHE.INVALIDATE", tag]);
    }

    fn fetch(&mut self, link: &mut Link, entry: &Entry, load: &mut dyn FnMut() -> String) {
        let reply = link.call(args![
            "CACHE.FETCH",
            entry.key,
            "LEASE",
            10_000,
            "WAIT",
            10_000
        ]);
        let token = reply.items()[3].int();
        if token > 0 {
            let value = load();
            let mut command = set(&Entry {
                value,
                ..entry.clone()
            });
            command.extend(args!["LEASE", token]);
            link.call(command);
        }
    }
}
