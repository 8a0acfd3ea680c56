//! Ways without an index: each entry carries a version or a time, and reads compare it with that of its tags.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use tagcache_tests::{Rng, args};

use super::sets::now;
use super::way::{Command, Entry, Link, Way, found};

/// `TagAwareAdapter` of Symfony 7: a random version per tag, stored with the value and compared when it is read.
/// Invalidating deletes the tag's version; the next set makes another. A process may reuse a version for 150 ms without
/// a request; here each read requests it, as the first of a request does.
pub(crate) struct SymfonyVersions {
    rng: Rng,
    /// The versions that the last set read.
    versions: HashMap<String, String>,
}

impl SymfonyVersions {
    pub(crate) fn new() -> Self {
        // Each client draws its own versions.
        static CLIENTS: AtomicU64 = AtomicU64::new(1);
        Self {
            rng: Rng::new(CLIENTS.fetch_add(1, Ordering::Relaxed)),
            versions: HashMap::new(),
        }
    }

    fn tag(tag: &str) -> String {
        format!("{tag}\x01tags\x01")
    }

    fn read(link: &mut Link, tags: &[String]) -> Vec<Option<String>> {
        if tags.is_empty() {
            return Vec::new();
        }
        let mut command = args!["MGET"];
        command.extend(tags.iter().map(|tag| Self::tag(tag).into_bytes()));
        link.call(command).items().iter().map(found).collect()
    }
}

impl Way for SymfonyVersions {
    fn name(&self) -> &'static str {
        "Symfony: tag versions"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        let versions = entry
            .tags
            .iter()
            .map(|tag| format!("{tag}={}", self.versions[tag]));
        let versions: Vec<_> = versions.collect();
        let value = format!("{}\n{}", versions.join(" "), entry.value);
        vec![vec![args!["SETEX", entry.key, entry.ttl_s, value]]]
    }

    fn set(&mut self, link: &mut Link, entry: &Entry) {
        let known = Self::read(link, &entry.tags);
        let mut new = Vec::new();
        for (tag, version) in entry.tags.iter().zip(known) {
            let version = version.unwrap_or_else(|| {
                let version = format!("{:06x}", self.rng.below(1 << 24));
                new.push(args!["SET", Self::tag(tag), version]);
                version
            });
            self.versions.insert(tag.clone(), version);
        }
        if !new.is_empty() {
            link.pipeline(&new);
        }
        link.pipeline(&self.write(entry)[0]);
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        let value = found(&link.call(args!["MGET", entry.key]).items()[0])?;
        let (versions, value) = value.split_once('\n')?;
        let (tags, versions): (Vec<String>, Vec<Option<String>>) = versions
            .split_whitespace()
            .filter_map(|both| both.rsplit_once('='))
            .map(|(tag, version)| (tag.to_owned(), Some(version.to_owned())))
            .unzip();
        (Self::read(link, &tags) == versions).then(|| value.to_owned())
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        link.call(args!["UNLINK", Self::tag(tag)]);
    }
}

/// `FusionCache` over an `IDistributedCache` on Redis, without its memory level: an entry carries the time at which its
/// loader began, a tag the time of its last invalidation, each a hash of three fields. The tags' times are read one
/// after the other, after the entry. With the memory level they are read from the process, which then needs the
/// backplane to receive other processes' invalidations.
pub(crate) struct FusionTimes;

impl FusionTimes {
    fn hash(key: &str, data: &str, ttl_s: u64) -> Vec<Command> {
        let until = ticks() + ttl_s * 10_000_000;
        vec![
            args!["HSET", key, "absexp", until, "sldexp", "-1", "data", data],
            args!["EXPIRE", key, ttl_s],
        ]
    }

    fn data(link: &mut Link, key: &str) -> Option<String> {
        let fields = link.call(args!["HMGET", key, "absexp", "sldexp", "data"]);
        found(&fields.items()[2])
    }

    fn key(entry: &Entry) -> String {
        format!("v2:{}", entry.key)
    }

    fn tag(tag: &str) -> String {
        format!("v2:__fc:t:{tag}")
    }

    fn write_at(entry: &Entry, stamp: u64) -> Vec<Command> {
        let data = format!("{stamp} {}\n{}", entry.tags.join(" "), entry.value);
        Self::hash(&Self::key(entry), &data, entry.ttl_s)
    }
}

/// The present, in units of 100 ns.
fn ticks() -> u64 {
    (now().as_nanos() / 100) as u64
}

impl Way for FusionTimes {
    fn name(&self) -> &'static str {
        "FusionCache: tag times"
    }

    fn write(&self, entry: &Entry) -> Vec<Vec<Command>> {
        vec![Self::write_at(entry, ticks())]
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String> {
        let key = Self::key(entry);
        let data = Self::data(link, &key)?;
        let (head, value) = data.split_once('\n')?;
        let mut head = head.split_whitespace();
        let stamp: u64 = head.next()?.parse().ok()?;
        for tag in head {
            let dropped = Self::data(link, &Self::tag(tag)).and_then(|time| time.parse().ok());
            if dropped.is_some_and(|dropped: u64| stamp <= dropped) {
                link.call(args!["UNLINK", key]);
                return None;
            }
        }
        Some(value.to_owned())
    }

    fn invalidate(&mut self, link: &mut Link, tag: &str) {
        link.pipeline(&Self::hash(&Self::tag(tag), &ticks().to_string(), 864_000));
    }

    fn fetch(&mut self, link: &mut Link, entry: &Entry, load: &mut dyn FnMut() -> String) {
        if self.get(link, entry).is_none() {
            let began = ticks();
            let value = load();
            link.pipeline(&Self::write_at(
                &Entry {
                    value,
                    ..entry.clone()
                },
                began,
            ));
        }
    }
}
