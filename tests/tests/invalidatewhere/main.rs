//! CACHE.INVALIDATEWHERE: by all, any or none of some tags.

mod clauses;
mod during;
mod random;
mod replicated;

use std::collections::BTreeSet;

use tagcache_tests::look::{entry_keys, inspect};
use tagcache_tests::{RawClient, Reply, args};

/// Longer than any test takes.
const LONG: i64 = 1_000_000_000;

/// The tags of the clauses.
#[derive(Clone, Debug, Default)]
struct Where {
    all: Vec<String>,
    any: Vec<String>,
    none: Vec<String>,
}

impl Where {
    fn all(tags: &[&str]) -> Self {
        Self {
            all: owned(tags),
            ..Self::default()
        }
    }

    fn any(tags: &[&str]) -> Self {
        Self {
            any: owned(tags),
            ..Self::default()
        }
    }

    fn none(tags: &[&str]) -> Self {
        Self {
            none: owned(tags),
            ..Self::default()
        }
    }

    fn and_any(self, tags: &[&str]) -> Self {
        Self {
            any: owned(tags),
            ..self
        }
    }

    fn and_none(self, tags: &[&str]) -> Self {
        Self {
            none: owned(tags),
            ..self
        }
    }

    /// Whether an entry with these tags is selected; an empty list selects by nothing.
    fn meets(&self, tags: &BTreeSet<String>) -> bool {
        self.all.iter().all(|tag| tags.contains(tag))
            && (self.any.is_empty() || self.any.iter().any(|tag| tags.contains(tag)))
            && !self.none.iter().any(|tag| tags.contains(tag))
    }

    fn command(&self, options: &[&str]) -> Vec<Vec<u8>> {
        let mut command = args!["CACHE.INVALIDATEWHERE"];
        for (word, tags) in [("ALL", &self.all), ("ANY", &self.any), ("NONE", &self.none)] {
            if !tags.is_empty() {
                command.extend(args![word, tags.len()]);
                command.extend(tags.iter().map(|tag| tag.clone().into_bytes()));
            }
        }
        command.extend(options.iter().map(|option| option.as_bytes().to_vec()));
        command
    }

    /// Sends the command, and returns the number of entries in its reply.
    fn run(&self, client: &mut RawClient, options: &[&str]) -> i64 {
        match client.call(&self.command(options)) {
            Reply::Int(count) => count,
            reply => panic!("{self:?} {options:?} answers {reply:?}"),
        }
    }
}

fn owned(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|&tag| tag.to_owned()).collect()
}

/// Sets an entry of these tags.
fn set(client: &mut RawClient, key: &str, tags: &[&str]) {
    let mut set = args!["CACHE.SET", key, "v"];
    if !tags.is_empty() {
        set.extend(args!["TAGS", tags.len()]);
        set.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    }
    assert_eq!(client.call(&set), Reply::ok());
}

/// The names of the entries that are visible.
fn visible(client: &mut RawClient) -> BTreeSet<String> {
    let keys = entry_keys(client);
    let seen = keys
        .into_iter()
        .filter(|key| inspect(client, key).is_some());
    seen.collect::<Vec<_>>()
        .into_iter()
        .map(|key| key.escape_ascii().to_string())
        .collect()
}
