//! Ways that keep, for each tag, the names of its keys in a collection of the server.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use tagcache_tests::{Reply, args};

use super::way::{Command, Entry, Link, Way, found};
use crate::invalidate::LUA_DROP;
use crate::workload::LUA_SET;

fn sadd(entry: &Entry) -> impl Iterator<Item = Command> {
    let add = |tag| args!["SADD", tag, entry.key];
    entry.tags.iter().map(add)
}

/// A set per tag, written and dropped by scripts in the server.
pub(crate) struct LuaSets {
    set: String,
    drop: String,
}

impl LuaSets {
    pub(crate) fn new(link: &mut Link) -> Self {
        let mut load = |script| link.call(args!["SCRIPT", "LOAD", script]).text();
        Self {
            set: load(LUA_SET),
            drop: load(LUA_DROP),
        }
    }
}

impl Way for LuaSets {
    fn name(&self) -> &'static str {
        "Lua: tag sets"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        let mut command = args!["EVALSHA", self.set, entry.tags.len() + 1, entry.key];
        command.extend(entry.tags.iter().map(|tag| tag.clone().into_bytes()));
        command.extend(args![entry.value, entry.ttl_s * 1000]);
        vec![vec![command]]
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        found(&link.call(args!["GET", entry.key]))
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        link.call(args!["EVALSHA", self.drop, 1, tag]);
    }
}

/// A set per tag, written and dropped by a client in transactions.
pub(crate) struct MultiSets;

impl Way for MultiSets {
    fn name(&self) -> &'static str {
        "MULTI: tag sets"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        let mut commands = vec![
            args!["MULTI"],
            args!["SET", entry.key, entry.value, "EX", entry.ttl_s],
        ];
        commands.extend(sadd(entry));
        commands.push(args!["EXEC"]);
        vec![commands]
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        found(&link.call(args!["GET", entry.key]))
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        let members = link.call(args!["SMEMBERS", tag]);
        let mut commands = vec![args!["MULTI"]];
        for some in members.items().chunks(1000) {
            commands.push(with_names(args!["UNLINK"], some));
        }
        commands.extend([args!["UNLINK", tag], args!["EXEC"]]);
        link.pipeline(&commands);
    }
}

fn with_names(mut command: Command, names: &[Reply]) -> Command {
    command.extend(names.iter().map(|name| name.bytes().to_vec()));
    command
}

/// `RedisTaggedCache` of Laravel 13: a sorted set per tag, scored by the entry's expiry. The key of an entry begins
/// with a hash of all its tags, so that only a reader that names the same tags finds it. Invalidating reads the sorted
/// set by pages and deletes a thousand keys per script; the names stay in the sets of their other tags.
pub(crate) struct LaravelSortedSets;

/// Deletes keys, and removes their names from the tags that are dropped.
const LARAVEL_DROP: &str = "for _, key in ipairs(KEYS) do
  redis.call('DEL', key)
  for _, tag in ipairs(ARGV) do redis.call('ZREM', tag, key) end
end";

impl LaravelSortedSets {
    fn tag(tag: &str) -> String {
        format!("tag:{tag}:entries")
    }

    /// 40 digits before the name, as many as Laravel's SHA-1 has.
    fn key(entry: &Entry) -> String {
        let mut hasher = DefaultHasher::new();
        entry.tags.hash(&mut hasher);
        format!("{:040x}:{}", hasher.finish(), entry.key)
    }

    fn drop(link: &mut Link, keys: &[String], tag: &str) {
        let mut command = args!["EVAL", LARAVEL_DROP, keys.len()];
        command.extend(keys.iter().map(|key| key.clone().into_bytes()));
        command.push(tag.as_bytes().to_vec());
        link.call(command);
    }
}

impl Way for LaravelSortedSets {
    fn name(&self) -> &'static str {
        "Laravel: sorted sets"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        let (key, until) = (Self::key(entry), now().as_secs() + entry.ttl_s);
        let add = |tag: &String| vec![args!["ZADD", Self::tag(tag), until, key]];
        let mut trips: Vec<_> = entry.tags.iter().map(add).collect();
        trips.push(vec![args!["SETEX", key, entry.ttl_s, entry.value]]);
        trips
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        found(&link.call(args!["GET", Self::key(entry)]))
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        let tag = Self::tag(tag);
        let mut cursor = String::from("0");
        let mut keys = Vec::new();
        loop {
            let page = link.call(args!["ZSCAN", tag, cursor, "MATCH", "*", "COUNT", 1000]);
            keys.extend(page.items()[1].items().iter().step_by(2).map(Reply::text));
            cursor = page.items()[0].text();
            while keys.len() >= 1000 {
                let some: Vec<_> = keys.drain(..1000).collect();
                Self::drop(link, &some, &tag);
            }
            if cursor == "0" {
                break;
            }
        }
        if !keys.is_empty() {
            Self::drop(link, &keys, &tag);
        }
    }

    /// `cache:prune-stale-tags`
    fn sweep(&mut self, link: &mut Link) -> bool {
        let mut cursor = String::from("0");
        loop {
            let page = link.call(args![
                "SCAN",
                cursor,
                "MATCH",
                "tag:*:entries",
                "COUNT",
                1000
            ]);
            for tag in page.items()[1].items() {
                link.call(args!["ZREMRANGEBYSCORE", tag.bytes(), 0, now().as_secs()]);
            }
            cursor = page.items()[0].text();
            if cursor == "0" {
                return true;
            }
        }
    }
}

/// `RedisTagAwareAdapter` of Symfony 7: a set per tag, with the tags in the value as well. A script reads the set by
/// pages, deletes and removes; keys that a cluster left over are moved to a second set (versions before 5.4 renamed the
/// set first and deleted from the client).
pub(crate) struct SymfonySets;

const SYMFONY_DROP: &str = "local cursor = '0'
repeat
  local page = redis.call('SSCAN', KEYS[1], cursor, 'COUNT', 5000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do redis.call('DEL', key) end
  if #page[2] > 0 then redis.call('SREM', KEYS[1], unpack(page[2])) end
until cursor == '0'
redis.call('SUNIONSTORE', KEYS[2], KEYS[1])
redis.call('DEL', KEYS[1])
return redis.call('SSCAN', KEYS[2], '0', 'COUNT', 5000)";

impl Way for SymfonySets {
    fn name(&self) -> &'static str {
        "Symfony: sets"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        let value = format!("{}\n{}", entry.tags.join(" "), entry.value);
        let mut commands = vec![args!["SETEX", entry.key, entry.ttl_s, value]];
        commands.extend(sadd(entry));
        vec![commands]
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        let value = found(&link.call(args!["MGET", entry.key]).items()[0])?;
        Some(value.split_once('\n')?.1.to_owned())
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        let rest = format!("{{{tag}}}{tag}");
        let left = link.call(args!["EVAL", SYMFONY_DROP, 2, tag, rest]);
        assert_eq!(left.items()[1].items(), [], "one node has all keys");
    }
}

pub(crate) fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("a clock after 1970")
}
