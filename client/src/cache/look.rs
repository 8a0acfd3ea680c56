//! The counts of the cache, and the servers' data about entries and tags.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use redis::Value;

use crate::local::TopKey;
use crate::remote::{Error, command};

use super::{Cache, CacheStats};

/// A server's data about an entry: [`Cache::inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// Whether it is fresh; otherwise it is stale.
    pub is_fresh: bool,
    /// Its tags, without the namespace.
    pub tags: Vec<String>,
    /// Reads that it served, including the reported ones of local tiers.
    pub hits: u64,
    /// Bytes of the value as it is stored.
    pub bytes: u64,
    /// Bytes of memory that it costs in total.
    pub memory: u64,
    /// How long it stays fresh: [`Duration::MAX`] if it never expires, zero if it is stale.
    pub ttl: Duration,
    /// How long it may be served as stale after that.
    pub grace: Duration,
    /// How long ago it was written.
    pub age: Duration,
}

/// The servers' data about a tag: [`Cache::tag_info`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TagInfo {
    /// Entries that carry it.
    pub entries: u64,
    /// Bytes of memory that these cost.
    pub bytes: u64,
    /// How often it was invalidated.
    pub invalidations: u64,
    /// When it was invalidated last, by the server's clock.
    pub last_invalidated: Option<SystemTime>,
}

impl<C> Cache<C> {
    /// The most-read keys of the namespace, most read first, at most `count`, as far as the servers track them
    /// (`tagcache.top-keys`). Needs administrator rights on the server.
    pub async fn top(&self, count: usize) -> Result<Vec<TopKey>, Error> {
        let prefix = &self.core.options.prefix;
        // The server's list also has keys of other namespaces.
        let asked = match prefix.as_str() {
            "" => count.max(1),
            _ => usize::MAX >> 1,
        };
        let mut cmd = redis::cmd("CACHE.TOP");
        cmd.arg(asked);
        let mut top = Vec::new();
        for (node, answer) in self.core.remote.ask_all(&cmd).await {
            let answer = answer?;
            let pairs: Vec<(Vec<u8>, u64)> = redis::from_redis_value_ref(&answer)
                .map_err(|_| Error::unexpected(&node, "CACHE.TOP", &answer))?;
            top.extend(pairs.into_iter().filter_map(|(key, hits)| {
                let key = String::from_utf8(key).ok()?;
                let key = key.strip_prefix(prefix.as_str())?.to_owned();
                Some(TopKey { key, hits })
            }));
        }
        top.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.key.cmp(&b.key)));
        top.truncate(count);
        Ok(top)
    }

    /// The counts of this cache, its local tier's figures, and its servers' state. Sends nothing to a server.
    pub fn stats(&self) -> CacheStats {
        self.core.stats()
    }

    /// Each server's figures of `CACHE.STATS` by their names, such as `entries` or `hit_rate`, or its error.
    pub async fn server_stats(&self) -> Vec<(String, Result<BTreeMap<String, f64>, Error>)> {
        let answers = self.core.remote.ask_all(&redis::cmd("CACHE.STATS")).await;
        let read = |(node, answer): (String, Result<Value, Error>)| {
            let figures = answer.and_then(|answer| {
                redis::from_redis_value_ref(&answer)
                    .map_err(|_| Error::unexpected(&node, "CACHE.STATS", &answer))
            });
            (node, figures)
        };
        answers.into_iter().map(read).collect()
    }

    /// The memory optimization guide's statistics: the monitor's figures, this local tier's entries, and whether all
    /// servers are connected and how many keys they hold.
    #[cfg(feature = "monitor")]
    pub async fn memory_stats(
        &self,
        monitor: &crate::memory::MemoryMonitor,
    ) -> crate::memory::MemoryStats
    where
        C: Send + Sync + 'static,
    {
        let answers = self.core.remote.ask_all(&redis::cmd("DBSIZE")).await;
        let counts = answers.into_iter().map(|(_, answer)| match answer {
            Ok(Value::Int(count)) => u64::try_from(count).ok(),
            _ => None,
        });
        let keys = counts.sum::<Option<u64>>();
        let servers = self.core.remote.status();
        let connected =
            !servers.is_empty() && servers.iter().all(crate::ServerStatus::is_connected);
        crate::memory::MemoryStats::new(&monitor.snapshot(), Some(self))
            .servers(connected, keys.filter(|_| connected))
    }

    /// The server's data about an entry; `None` if there is none, fresh or stale. This does not count as a hit.
    ///
    /// The user needs the right to `CACHE.INSPECT`.
    pub async fn inspect(&self, key: &str) -> Result<Option<Inspection>, Error> {
        let name = self.core.name(key);
        let cmd = command::of_key("CACHE.INSPECT", &name);
        let answer = self.core.remote.send(&name, &cmd).await?.value;
        if answer == Value::Nil {
            return Ok(None);
        }
        let read = || {
            let number = |name: &str| command::number(&answer, name);
            let millis = |name: &str| number(name).map(Duration::from_millis);
            let tags = command::items(command::field(&answer, "tags")?).iter();
            let tags = tags.filter_map(command::text_of);
            let tags = tags.filter_map(|tag| tag.strip_prefix(&self.core.options.prefix));
            Some(Inspection {
                is_fresh: command::text_of(command::field(&answer, "state")?)? == "fresh",
                // The namespace's own tag is not one of the caller's.
                tags: tags
                    .filter(|tag| !tag.is_empty())
                    .map(str::to_owned)
                    .collect(),
                hits: number("hits")?,
                bytes: number("bytes")?,
                memory: number("memory")?,
                // -1: it never expires.
                ttl: millis("pttl").unwrap_or(Duration::MAX),
                grace: millis("grace")?,
                age: millis("age")?,
            })
        };
        let odd = || Error::unexpected("server", "CACHE.INSPECT", &answer);
        read().map(Some).ok_or_else(odd)
    }

    /// The servers' data about a tag, combined over all primaries of a cluster; `None` if they do not know it.
    ///
    /// The user needs the right to `CACHE.TAGINFO`.
    pub async fn tag_info(&self, tag: &str) -> Result<Option<TagInfo>, Error> {
        let cmd = command::of_key("CACHE.TAGINFO", &self.core.name(tag));
        let mut info: Option<TagInfo> = None;
        for (node, answer) in self.core.remote.ask_all(&cmd).await {
            let answer = answer?;
            if answer == Value::Nil {
                continue;
            }
            let read = |name: &str| {
                let odd = || Error::unexpected(&node, "CACHE.TAGINFO", &answer);
                command::number(&answer, name).ok_or_else(odd)
            };
            let last = Duration::from_millis(read("last_invalidated")?);
            let last = (!last.is_zero()).then(|| SystemTime::UNIX_EPOCH + last);
            // Each primary executes every invalidation, but has entries of its own.
            let info = info.get_or_insert_default();
            info.entries += read("entries")?;
            info.bytes += read("bytes")?;
            info.invalidations = info.invalidations.max(read("invalidations")?);
            info.last_invalidated = info.last_invalidated.max(last);
        }
        Ok(info)
    }

    /// When a tag was last invalidated, hard and soft, by the servers' clocks; `None` if never, or longer ago than they
    /// remember. In a cluster, the latest times of all primaries.
    ///
    /// The user needs the right to `CACHE.TAGTIMES`.
    pub async fn tag_times(
        &self,
        tag: &str,
    ) -> Result<(Option<SystemTime>, Option<SystemTime>), Error> {
        let cmd = command::of_key("CACHE.TAGTIMES", &self.core.name(tag));
        let (mut hard, mut soft) = (0, 0);
        for (node, answer) in self.core.remote.ask_all(&cmd).await {
            let answer = answer?;
            let [(at_hard, at_soft)] = redis::from_redis_value_ref::<[(u64, u64); 1]>(&answer)
                .map_err(|_| Error::unexpected(&node, "CACHE.TAGTIMES", &answer))?;
            (hard, soft) = (at_hard.max(hard), at_soft.max(soft));
        }
        let time = |ms| (ms > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        Ok((time(hard), time(soft)))
    }
}
