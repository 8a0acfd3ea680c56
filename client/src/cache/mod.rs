//! The two-tier cache.
#![allow(clippy::missing_errors_doc, reason = "they stand at `Cache`")]
#![allow(clippy::option_option, reason = "an absent key is not an unknown one")]

mod builder;
mod change;
mod codec;
mod core;
mod frame;
mod invalidation;
mod load;
mod look;
mod many;
mod options;
mod portions;
mod report;
mod stats;
mod tier;

use std::any::Any;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use redis::Value;

use crate::entry::Entry;
use crate::local::End;
use crate::remote::command;
use crate::remote::{Answer, Error, LoaderError, ServerStatus, Servers};

pub use builder::CacheBuilder;
#[cfg(feature = "msgpack")]
pub use codec::MessagePack;
pub use codec::{Bytes, Codec, Json};
pub use invalidation::Where;
pub use look::{Inspection, TagInfo};
pub(crate) use options::LoadOptions;
pub use stats::CacheStats;

use self::core::{Core, Found, Read};
use load::{Load, Loader};
use options::{LONGEST_TIMEOUT, Plan};
use tier::Stored;

/// A cache of two tiers: memory of this process, and a server (or cluster) with the tagcache module that all
/// processes share.
///
/// What is read often comes from memory; what any process changes, removes or invalidates leaves the memory of
/// all others as soon as the server's push arrives, and nothing enters it that an invalidation overtook. A missing
/// value is loaded once in the whole fleet. Without a server, loaders go on and every call is bounded by time-outs;
/// it heals by itself.
///
/// The [crate's page](crate#two-tiers) has examples of its calls.
///
/// A call fails, unless it says otherwise, when a server fails or refuses, when its module is older than the command that is
/// needed ([`Error::ModuleTooOld`]), when a value cannot be encoded or decoded, and when a tag is empty.
///
/// Cloning is cheap, and all clones are one cache. All calls must be made within a tokio runtime; the one in which
/// the cache was built must live as long as the cache.
#[derive(Clone)]
pub struct Cache<C = Json> {
    core: Arc<Core>,
    codec: C,
}

impl<C> std::fmt::Debug for Cache<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("options", &self.core.options)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Settings of a cache at these servers: a URL for a single one, or [`Servers`].
    pub fn builder(servers: impl Into<Servers>) -> CacheBuilder {
        CacheBuilder::new(servers.into())
    }
}

/// A [`Cache::get`]. No `async` block and no `poll_fn`: this one is always inlined, and a hit has no more than it needs.
struct Get<'a, T, C> {
    cache: &'a Cache<C>,
    key: &'a str,
    /// The read of the server, once memory was found not to hold the value.
    remote: Option<BoxFuture<'a, Result<Option<T>, Error>>>,
}

impl<T, C> Future for Get<'_, T, C>
where
    C: Codec<T>,
    T: Any + Clone + Send + Sync,
{
    type Output = Result<Option<T>, Error>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.remote.is_none()
            && let Some(value) = self.cache.get_local(self.key)
        {
            return Poll::Ready(Ok(value));
        }
        self.cache.poll_remote(self.key, &mut self.remote, context)
    }
}

impl<C> Cache<C> {
    /// Waits until every server that is known is connected, at most for `timeout`: all of it where one is down, so keep
    /// it short in a probe.
    ///
    /// # Errors
    /// What is wrong with the first that is not.
    pub async fn ready(&self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout.min(LONGEST_TIMEOUT);
        loop {
            let servers = self.core.remote.status();
            let down = servers.iter().find(|server| !server.is_connected());
            let hole = self.core.remote.hole();
            if down.is_none() && hole.is_none() && !servers.is_empty() {
                return Ok(());
            }
            let closed = down.is_some_and(|down| matches!(down.last_error, Some(Error::Closed)));
            if closed || Instant::now() >= deadline {
                let node = down.map_or("cluster", |server| &server.address);
                let unreached = || Error::unreachable(node, "not connected yet");
                let why = down.map_or(hole, |server| server.last_error.clone());
                return Err(why.unwrap_or_else(unreached));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends well what goes on in the background: waits until running loads have stored their values and servers that
    /// missed an invalidation have it, and reports the hits of the local tier that are still to be reported. At most
    /// for `timeout`; returns whether all that was done.
    ///
    /// To be called before the runtime ends: dropping the cache does none of it. The cache can be used on.
    pub async fn finish_pending(&self, timeout: Duration) -> bool {
        let core = &self.core;
        let pending = async {
            while Arc::strong_count(&core.loading) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            while !core.options.hits_interval.is_zero() && report::report_hits(core).await > 0 {}
            let is_missed = |server: &ServerStatus| server.missed_invalidations > 0;
            while core.remote.status().iter().any(is_missed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(timeout, pending).await.is_ok()
    }

    /// Ends the cache: as [`Self::finish_pending`], and then closes the connections and empties the local tier. Loaders
    /// go on being called after it, as where there is no server; every other call is [`Error::Closed`].
    pub async fn close(&self, timeout: Duration) -> bool {
        let finished = self.finish_pending(timeout).await;
        self.core.remote.close();
        self.core.local.forget_all();
        finished
    }

    /// The entry that the builder was given ([`CacheBuilder::default_entry`]), to be changed for a call:
    /// `cache.entry().tags(["users"])`.
    pub fn entry(&self) -> Entry {
        self.core.options.entry
    }

    /// Reads a fresh value: from memory in well under a microsecond, or in one round trip. Stale values (grace) and
    /// known absences are `None`.
    ///
    /// A value in memory of another type than `T` counts as not there and is read anew.
    ///
    /// A hit clones the value. One that is large is best read as an `Arc`, in all calls that name its key: then a hit
    /// only counts a reference.
    ///
    /// # Errors
    /// When the server fails and memory holds nothing that may be served instead
    /// ([`CacheBuilder::serve_stale_while_unreachable`]); [`Error::Codec`] when the value is no `T`.
    pub fn get<'a, T>(&'a self, key: &'a str) -> impl Future<Output = Result<Option<T>, Error>>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        Get {
            cache: self,
            key,
            remote: None,
        }
    }

    /// In a box, as is [`Self::load`], and not inlined, so that a hit has nothing of it.
    #[cold]
    #[inline(never)]
    fn poll_remote<'a, T: Any + Clone + Send + Sync>(
        &'a self,
        key: &'a str,
        remote: &mut Option<BoxFuture<'a, Result<Option<T>, Error>>>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<T>, Error>>
    where
        C: Codec<T>,
    {
        let read = async move {
            let cmd = command::fetch(&self.core.name(key));
            let reservation = self.core.local.reserve(key);
            let read = self.core.read(&self.codec, &reservation, &cmd, None).await;
            self.found(key, read)
        };
        let remote = remote.get_or_insert_with(|| Box::pin(read));
        remote.as_mut().poll(context)
    }

    /// Reads several values: those that memory does not hold in as few round trips to each server as their size allows
    /// (`CACHE.MFETCH` for the keys of each slot, else one `CACHE.FETCH` for each). The order is that of the keys. A value
    /// that cannot be decoded as a `T` is `None`, an event and a count
    /// ([`CacheStats::undecodable`]); [`Self::get_each`] says which.
    ///
    /// # Errors
    /// As [`Self::get`], for the first key that fails otherwise.
    pub async fn get_many<T: Any + Clone + Send + Sync>(
        &self,
        keys: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Vec<Option<T>>, Error>
    where
        C: Codec<T>,
    {
        let each = self.get_each(keys).await;
        let readable = |value| match value {
            Err(Error::Codec { .. }) => Ok(None),
            value => value,
        };
        each.into_iter().map(readable).collect()
    }

    /// As [`Self::get_many`], with each key's own error.
    pub async fn get_each<T: Any + Clone + Send + Sync>(
        &self,
        keys: impl IntoIterator<Item: AsRef<str>>,
    ) -> Vec<Result<Option<T>, Error>>
    where
        C: Codec<T>,
    {
        let keys: Vec<_> = keys.into_iter().collect();
        let core = &self.core;
        let mut values: Vec<Result<Option<T>, Error>> = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let held = self.get_local(key.as_ref());
            if held.is_none() {
                missing.push((at, core.name(key.as_ref())));
            }
            values.push(Ok(held.flatten()));
        }
        let mut missing = missing.as_slice();
        while !missing.is_empty() {
            let count = core.reply_size.portion().min(missing.len());
            let (portion, rest) = missing.split_at(count);
            missing = rest;
            let reserve = |(at, _): &(usize, String)| core.local.reserve(keys[*at].as_ref());
            let reservations: Vec<_> = portion.iter().map(reserve).collect();
            let sent = Instant::now();
            let names: Vec<&str> = portion.iter().map(|(_, name)| name.as_str()).collect();
            let several = |places: &[usize]| {
                command::mfetch(&places.iter().map(|&at| names[at]).collect::<Vec<_>>())
            };
            let apart = |answer, _| match answer {
                Value::Array(each) => each,
                _ => Vec::new(),
            };
            let one = |at: usize| command::fetch(names[at]);
            let answers = core.remote.send_together(&names, several, apart, one).await;
            let failed = answers.iter().find_map(|answer| answer.as_ref().err());
            crate::observe::command("CACHE.MFETCH", sent.elapsed(), failed);
            let found = |answer: &Answer| match command::items(&answer.value) {
                [_, Value::BulkString(value), ..] => Some(value.len()),
                _ => None,
            };
            let sizes: Vec<usize> = answers.iter().flatten().filter_map(found).collect();
            core.reply_size.learn(sizes.len(), sizes.iter().sum());
            for (((at, _), reservation), answer) in portion.iter().zip(&reservations).zip(answers) {
                let read = Read {
                    reservation,
                    sent,
                    weight: None,
                };
                let key = &reservation.load.key;
                let take = |answer| core.take(&self.codec, key, Some(&read), answer);
                values[*at] = self.found(key, answer.and_then(take));
            }
        }
        values
    }

    /// The value of what was found; where the server failed, of what may be served instead.
    fn found<T>(&self, key: &str, found: Result<Found, Error>) -> Result<Option<T>, Error>
    where
        T: Any + Clone + Send + Sync,
    {
        match found {
            Ok(Found::Fresh(loaded)) => value(key, &loaded.stored),
            Ok(Found::Stale(..) | Found::Nothing(_)) => Ok(None),
            Err(error) if error.is_server_trouble() => {
                self.core.counters.server_errors.up();
                let stored = self.core.local.peek_stale(key).ok_or(error)?;
                self.core.counters.fail_safe.up();
                value(key, &stored)
            }
            Err(error) => Err(error),
        }
    }

    /// Stores a value, whatever was there. It takes effect for all processes; in this one it is read from the server
    /// next time, as from then on the server will say when it changes.
    ///
    /// With a TTL of zero the key is removed instead.
    pub async fn set<T>(
        &self,
        key: &str,
        value: &T,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
    ) -> Result<(), Error>
    where
        C: Codec<T>,
    {
        if entry.ttl.is_zero() {
            return self.remove(key).await.map(drop);
        }
        self.set_if(key, value, entry, &[]).await.map(drop)
    }

    async fn set_if<T>(
        &self,
        key: &str,
        value: &T,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        words: &[&str],
    ) -> Result<bool, Error>
    where
        C: Codec<T>,
    {
        let (encoded, _) = self.core.encode(&self.codec, key, Some(value))?;
        let mut plan = self.plan(entry);
        if plan.has_empty_tag {
            return Err(Error::empty_tag());
        }
        if words.contains(&"KEEPTAGS") {
            plan.entry.tags.clear();
        }
        let times = plan.times(false, Duration::ZERO, fastrand::f64);
        let name = self.core.name(key);
        let mut cmd = command::set(&name, &encoded, times, &plan.entry.tags);
        cmd.arg(words);
        let written = self.core.change(key, &name, &cmd, "CACHE.SET").await;
        if written.is_err() {
            self.core.counters.set_failures.up();
        }
        written
    }

    /// The value of a key, from memory, from the server, or from `loader`: of all processes and tasks that miss it
    /// at the same time one runs its loader, and the others get the value.
    ///
    /// With grace ([`Entry::grace`]) an expired or softly invalidated value is served at once while one caller
    /// refreshes it, and instead of an error when the loader fails. What a loader read before one of the tags or the
    /// key was invalidated is never stored. Loader and value live in tasks of their own, so a caller may give up at
    /// any time without disturbing the others.
    ///
    /// A loader may load other keys. One that asks for its own key, or for one whose loader asks for this, waits for
    /// itself, until the hard time-out ends it.
    ///
    /// The loader returns a `Result` whose error is anything that can become a boxed error: an error type, a string,
    /// `anyhow::Error`.
    ///
    /// # Errors
    /// [`Error::Loader`], [`Error::LoaderPanicked`] and [`Error::LoadTimeout`] when there is no stale value either;
    /// [`Error::Absent`] when the key is cached as absent by [`Self::get_or_load_optional`]; [`Error::TypeConflict`]
    /// when it is being loaded as another type at this moment. A value that cannot be stored (a tag, the key or the
    /// value itself is refused) is returned all the same, counted ([`CacheStats::unstorable`]) and an event. A server
    /// that cannot be reached is no error: the loader is asked, and nothing stored.
    pub async fn get_or_load<T: Any + Clone + Send + Sync, F, E>(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        loader: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        C: Codec<T>,
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        if let Some(value) = self.get_local(key) {
            return present(key, value);
        }
        let loaded = self.load(key, self.plan(entry), some_loaded(loader));
        present(key, loaded.await?)
    }

    /// The same where there may be nothing: that the loader found `None` is cached too, for
    /// [`Entry::negative_ttl`].
    pub async fn get_or_load_optional<T: Any + Clone + Send + Sync, F, E>(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        loader: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Option<T>, Error>
    where
        C: Codec<T>,
        F: Future<Output = Result<Option<T>, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        if let Some(value) = self.get_local(key) {
            return Ok(value);
        }
        let loader = async move { loader().await.map_err(|e| LoaderError::from(e.into())) };
        self.load(key, self.plan(entry), loader).await
    }

    /// [`Self::get_or_load`] where TTL, grace, tags and weight depend on the value: the loader returns it with its entry.
    /// What concerns the load (time-outs) and the time before the value is known is that of `entry`, whose tags are
    /// checked as well, but not stored.
    pub async fn get_or_load_with_entry<T: Any + Clone + Send + Sync, J, F, E>(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        loader: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        C: Codec<T>,
        J: IntoIterator<Item: AsRef<str>> + Send,
        F: Future<Output = Result<(T, Entry<J>), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        if let Some(value) = self.get_local(key) {
            return present(key, value);
        }
        let plan = self.plan(entry);
        let (cache, chosen) = (self.clone(), Arc::clone(&plan.chosen));
        let loader = async move {
            let loaded = loader().await.map_err(|e| LoaderError::from(e.into()));
            let (value, entry) = loaded?;
            // Nobody else sets it: a load calls its loader once.
            let _ = chosen.set(cache.plan(entry));
            Ok(Some(value))
        };
        present(key, self.load(key, plan, loader).await?)
    }

    /// What the local tier knows of a key: its value, or that there is none.
    #[inline(always)]
    fn get_local<T: Any + Clone>(&self, key: &str) -> Option<Option<T>> {
        tier::value(&self.core.local.get(key)?)
    }

    #[inline(never)]
    fn load<'a, T: Any + Clone + Send + Sync>(
        &'a self,
        key: &'a str,
        plan: Plan,
        loader: impl Loader<T>,
    ) -> BoxFuture<'a, Result<Option<T>, Error>>
    where
        C: Codec<T>,
    {
        Box::pin(async move {
            let core = &self.core;
            let local = &core.local;
            let tags = local.intern(&plan.entry.tags);
            let reservation = loop {
                match local.join_or_lead(key, &tags, None) {
                    Ok(reservation) => break reservation,
                    Err(load) => {
                        core.counters.joined.up();
                        let end = load.ended().await;
                        // None: it found what this caller may not have, or ended without an answer.
                        if !plan.anew
                            && let Some(outcome) = load.outcome::<Error>(end)
                        {
                            return value(key, &outcome.map_err(|error| (*error).clone())?);
                        }
                    }
                }
            };
            let mine = Arc::clone(&reservation.load);
            let load = Load {
                core: Arc::clone(core),
                codec: self.codec.clone(),
                plan,
                reservation,
                _running: Arc::clone(&core.loading),
                _value: PhantomData,
            };
            tokio::spawn(crate::observe::in_caller(load.run(loader)));
            match mine.ended().await {
                End::Loaded(stored, _) => value(key, &stored),
                End::Failed(error) => Err(error
                    .downcast_ref::<Error>()
                    .expect("loads fail so")
                    .clone()),
                End::Abandoned => Err(Error::LoaderPanicked {
                    key: key.to_owned(),
                }),
            }
        })
    }

    /// Removes an entry; returns whether there was one.
    pub async fn remove(&self, key: &str) -> Result<bool, Error> {
        self.core.remove(key).await
    }

    /// What the monitor looks at and the admin endpoint empties.
    #[cfg(feature = "monitor")]
    pub(crate) fn local(&self) -> &crate::local::LocalCache<tier::Held> {
        &self.core.local
    }

    fn plan<I: IntoIterator<Item: AsRef<str>>>(&self, entry: Entry<I>) -> Plan {
        let options = &self.core.options;
        let hard_timeout = entry.load.hard_timeout.unwrap_or(options.load_timeout);
        let hard_timeout = hard_timeout.min(LONGEST_TIMEOUT);
        let entry = entry.map_tags(|tags| self.core.tags(tags));
        Plan {
            has_empty_tag: entry.tags.iter().any(String::is_empty),
            entry,
            hard_timeout,
            // Before the loader runs its lease is answered, and afterwards its value is stored.
            longest_wait: hard_timeout + 2 * options.timeouts.command,
            chosen: Arc::default(),
            anew: false,
        }
    }
}

fn value<T: Any + Clone>(key: &str, stored: &Stored) -> Result<Option<T>, Error> {
    tier::value(stored).ok_or_else(|| Error::TypeConflict {
        key: key.to_owned(),
    })
}

/// The result of a loader that always finds a value.
async fn some_loaded<T, F, E>(loader: impl FnOnce() -> F) -> Result<Option<T>, LoaderError>
where
    F: Future<Output = Result<T, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let loaded = loader().await.map(Some);
    loaded.map_err(|error| LoaderError::from(error.into()))
}

/// A value that is not known to be absent.
fn present<T>(key: &str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::Absent {
        key: key.to_owned(),
    })
}
