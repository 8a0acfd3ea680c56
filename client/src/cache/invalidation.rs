//! Invalidation by tags, by which tags entries carry or lack, and of everything.

use std::time::{Duration, Instant};

use crate::remote::command::{self, Invalidation};
use crate::remote::{Error, Missed};

use super::Cache;
use super::portions::portions;

/// Tags in one command.
const MOST_TAGS: usize = 1000;

/// Which entries [`Cache::invalidate_where`] drops: those that meet all clauses.
///
/// ```
/// use tagcache::Where;
///
/// // Everything of tenant 7 that is a page or a list, unless it is pinned.
/// let matching = Where::new().all(["tenant:7"]).any(["page", "list"]).none(["pinned"]);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it says what `invalidate_where` is to drop"]
pub struct Where {
    all: Vec<String>,
    any: Option<Vec<String>>,
    none: Vec<String>,
    soft: bool,
    stale_for: Option<Duration>,
}

impl Where {
    /// Every entry of the namespace.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only entries that carry all of these tags.
    pub fn all(mut self, tags: impl IntoIterator<Item: Into<String>>) -> Self {
        self.all.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Only entries that carry at least one of these tags; no entry if the list is empty.
    pub fn any(mut self, tags: impl IntoIterator<Item: Into<String>>) -> Self {
        let any = self.any.get_or_insert_default();
        any.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Only entries that carry none of these tags.
    pub fn none(mut self, tags: impl IntoIterator<Item: Into<String>>) -> Self {
        self.none.extend(tags.into_iter().map(Into::into));
        self
    }

    /// The entries become stale instead of being dropped, as by [`Cache::revalidate_tags`].
    pub fn soft(mut self) -> Self {
        self.soft = true;
        self
    }

    /// The entries become stale for at most this long, to the millisecond, or for their own grace if that is shorter;
    /// this includes entries that are stale already. Needs a module with `SOFT GRACE`.
    pub fn stale_for(mut self, limit: Duration) -> Self {
        self.stale_for = Some(limit);
        self.soft()
    }
}

impl<C> Cache<C> {
    /// Drops all entries with one of these tags, in all processes. Returns how many there were; an entry with two of
    /// the tags counts twice. O(number of tags).
    ///
    /// Many tags are sent in several commands. If a server refuses a tag, the other tags are still invalidated.
    ///
    /// # Errors
    /// The error of a tag that is refused, after the others were invalidated; [`Error::Partial`] when a server could
    /// not be reached: it is sent the tags as soon as it can be reached. Until then, other processes may still get
    /// entries of that server; this process no longer holds any.
    pub async fn invalidate_tags(
        &self,
        tags: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<u64, Error> {
        let names = self.core.names(tags);
        self.invalidate_names(Invalidation::Hard, &names).await
    }

    /// Makes all entries with one of these tags stale: `get_or_load` serves them for their grace while one caller loads
    /// a fresh value. Entries without grace are dropped. Otherwise as [`Self::invalidate_tags`].
    pub async fn revalidate_tags(
        &self,
        tags: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<u64, Error> {
        let names = self.core.names(tags);
        self.invalidate_names(Invalidation::Soft, &names).await
    }

    /// As [`Self::invalidate_tags`], with the tags' names on the servers. These include the namespace, so tags of other
    /// namespaces can be named too.
    pub async fn invalidate_server_tags(&self, names: &[String]) -> Result<u64, Error> {
        self.invalidate_names(Invalidation::Hard, names).await
    }

    /// As [`Self::revalidate_tags`], with the tags' names on the servers.
    pub async fn revalidate_server_tags(&self, names: &[String]) -> Result<u64, Error> {
        self.invalidate_names(Invalidation::Soft, names).await
    }

    async fn invalidate_names(&self, kind: Invalidation, names: &[String]) -> Result<u64, Error> {
        let named = names.iter().filter(|name| !name.is_empty());
        let (count, names) = (names.len(), named.cloned().collect::<Vec<String>>());
        let forget = || self.core.local.invalidate_tags(&names);
        // The caller may give up before the servers have replied.
        forget();
        let (mut dropped, mut failed) = (0, None);
        let mut portions: Vec<_> = portions(&names, MOST_TAGS, String::len).collect();
        while let Some(portion) = portions.pop() {
            let sent = Instant::now();
            let reply = self.core.remote.invalidate(kind, portion).await;
            crate::observe::command("CACHE.INVALIDATE", sent.elapsed(), reply.as_ref().err());
            match reply {
                Ok(count) => dropped += count,
                // Halves a refused portion, down to single tags: a refused tag keeps no other from being sent.
                Err(error) if portion.len() > 1 && error.is_refusal() => {
                    let (one, other) = portion.split_at(portion.len() / 2);
                    portions.extend([other, one]);
                }
                Err(error) => {
                    if let Error::Partial { dropped: some, .. } = &error {
                        dropped += some;
                    }
                    failed = failed.or(Some(error));
                }
            }
        }
        // The server's push may not have arrived yet; the caller must not read an entry that it has just invalidated.
        forget();
        if let Some(Error::Partial { dropped: all, .. }) = &mut failed {
            // The sum over all commands.
            *all = dropped;
        }
        let failed = failed.or_else(|| (names.len() < count).then(Error::empty_tag));
        failed.map_or(Ok(dropped), Err)
    }

    /// Drops all entries of the namespace; without a namespace all entries of the database, which needs administrator
    /// rights on the server. Returns how many there were.
    pub async fn clear(&self) -> Result<u64, Error> {
        let prefix = &self.core.options.prefix;
        let (remote, hard) = (&self.core.remote, Invalidation::Hard);
        let dropped = if prefix.is_empty() {
            let everything = Missed::of(hard, &[]);
            let cmd = redis::cmd("CACHE.FLUSH");
            remote.send_to_all(&cmd, &everything).await
        } else {
            let tag = std::slice::from_ref(prefix);
            remote.invalidate(hard, tag).await
        };
        self.core.local.forget_all();
        dropped
    }

    /// Drops the entries that meet all clauses, in all processes; returns how many there were. Local tiers drop by one
    /// clause only, and therefore drop more. O(tags named + entries / 64) on the server.
    ///
    /// # Errors
    /// As [`Self::invalidate_tags`]; a server that could not be reached is later sent only one clause.
    /// [`Error::Config`] for a clause with an empty tag, and when there is neither a namespace nor a clause (use
    /// [`Self::clear`]).
    pub async fn invalidate_where(&self, matching: Where) -> Result<u64, Error> {
        let core = &self.core;
        let mut all = core.names(matching.all);
        let any = matching.any.map(|any| core.names(any));
        let none = core.names(matching.none);
        let named = all.iter().chain(any.iter().flatten()).chain(&none);
        if named.clone().any(String::is_empty) {
            return Err(Error::empty_tag());
        }
        if any.as_ref().is_some_and(Vec::is_empty) {
            return Ok(0);
        }
        // Each entry of the namespace carries its tag; entries of other namespaces must not be dropped.
        if !core.options.prefix.is_empty() {
            all.push(core.options.prefix.clone());
        } else if named.count() == 0 {
            return Err(Error::config(
                "no clause says which entries: `clear` drops all",
            ));
        }
        let kind = if matching.soft {
            Invalidation::Soft
        } else {
            Invalidation::Hard
        };
        // Each matching entry carries one of these tags; if there are none, any entry may match.
        let wide = match (all.first(), &any) {
            (Some(first), None) => std::slice::from_ref(first),
            (_, Some(any)) => any.as_slice(),
            (None, None) => &[],
        };
        let forget = || {
            if wide.is_empty() {
                core.local.forget_all();
            } else {
                core.local.invalidate_tags(wide);
            }
        };
        forget();
        let any = any.as_deref().unwrap_or_default();
        let cmd = command::invalidate_where(kind, matching.stale_for, &all, any, &none);
        let dropped = core.remote.send_to_all(&cmd, &Missed::of(kind, wide)).await;
        // The server's push may not have arrived yet.
        forget();
        dropped
    }
}
