//! Ways that scan everything to find a tag's entries.

use tagcache_tests::{Reply, args};

use super::sets::now;
use super::way::{Command, Entry, Link, Way, found};

/// The handler `redis-strings` of `@neshca/cache-handler` 1.8 for Next.js: the tags of all keys in one hash. A read
/// also requests the last revalidation of its tags, which is recorded only for tags of paths. Invalidating reads the
/// whole hash, a hundred fields per round trip, then deletes.
pub(crate) struct NextHash;

const SHARED_TAGS: &str = "__sharedTags__";
const REVALIDATED_TAGS: &str = "__revalidated_tags__";

impl Way for NextHash {
    fn name(&self) -> &'static str {
        "Next.js: hash, HSCAN"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        let now = now();
        let value = format!(
            "{} {}\n{}",
            now.as_millis(),
            entry.tags.join(" "),
            entry.value
        );
        let mut commands = vec![
            args!["SET", entry.key, value],
            args!["EXPIREAT", entry.key, now.as_secs() + entry.ttl_s],
        ];
        if !entry.tags.is_empty() {
            let tags = format!("{:?}", entry.tags);
            commands.push(args!["HSET", SHARED_TAGS, entry.key, tags]);
        }
        vec![commands]
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        let value = found(&link.call(args!["GET", entry.key]))?;
        let (head, value) = value.split_once('\n')?;
        let (stamp, tags) = head.split_once(' ')?;
        if !tags.is_empty() {
            let mut command = args!["HMGET", REVALIDATED_TAGS];
            command.extend(tags.split(' ').map(|tag| tag.as_bytes().to_vec()));
            let stamp: i64 = stamp.parse().ok()?;
            let times = link.call(command);
            let mut times = times.items().iter().filter(|time| !time.is_null());
            if times.any(|time| time.int() > stamp) {
                link.call(args!["UNLINK", entry.key]);
                return None;
            }
        }
        Some(value.to_owned())
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        let quoted = format!("{tag:?}");
        let mut cursor = String::from("0");
        let mut keys = Vec::new();
        loop {
            let page = link.call(args!["HSCAN", SHARED_TAGS, cursor, "COUNT", 100]);
            for pair in page.items()[1].items().chunks(2) {
                if pair[1].text().contains(&quoted) {
                    keys.push(pair[0].bytes().to_vec());
                }
            }
            cursor = page.items()[0].text();
            if cursor == "0" {
                break;
            }
        }
        if !keys.is_empty() {
            let with = |mut command: Command| {
                command.extend_from_slice(&keys);
                command
            };
            link.pipeline(&[with(args!["UNLINK"]), with(args!["HDEL", SHARED_TAGS])]);
        }
    }
}

/// Tags as parts of the key's name, found by SCAN with a pattern: no index at all.
pub(crate) struct NameScan;

impl NameScan {
    fn key(entry: &Entry) -> String {
        format!("|{}|{}", entry.tags.join("|"), entry.key)
    }
}

impl Way for NameScan {
    fn name(&self) -> &'static str {
        "tags in names, SCAN"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        vec![vec![args![
            "SET",
            Self::key(entry),
            entry.value,
            "EX",
            entry.ttl_s
        ]]]
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        found(&link.call(args!["GET", Self::key(entry)]))
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        let pattern = format!("*|{tag}|*");
        let mut cursor = String::from("0");
        loop {
            let page = link.call(args!["SCAN", cursor, "MATCH", pattern, "COUNT", 1000]);
            let keys = page.items()[1].items();
            if !keys.is_empty() {
                let mut command = args!["UNLINK"];
                command.extend(keys.iter().map(Reply::bytes).map(<[u8]>::to_vec));
                link.call(command);
            }
            cursor = page.items()[0].text();
            if cursor == "0" {
                break;
            }
        }
    }
}
