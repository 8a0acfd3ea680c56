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

/// A cache of two tiers: memory of this process, and a server (or cluster) with the tagcache module that all processes
/// share.
///
/// Frequently read values come from memory. When a process changes, removes or invalidates an entry, all other
/// processes drop it from memory as soon as the server's push arrives. A value that an invalidation overtook never
/// enters memory. A missing value is loaded once in the whole fleet. Without a server, loaders still run and time-outs
/// bound every call; the cache recovers by itself.
///
/// The [crate's page](crate#two-tiers) has examples of the calls.
///
/// Unless its documentation states otherwise, a call fails when a server fails or refuses it, when the server's module
/// lacks the command ([`Error::ModuleTooOld`]), when a value cannot be encoded or decoded, and when a tag is empty.
///
/// Cloning is cheap: all clones are one cache. Make all calls within a tokio runtime. The runtime in which the cache
/// was built must live as long as the cache.
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

/// The future of [`Cache::get`]: always inlined, unlike an `async` block or `poll_fn`, so that a hit runs little code.
struct Get<'a, T, C> {
    cache: &'a Cache<C>,
    key: &'a str,
    /// The read from the server, once memory turned out not to hold the value.
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
    /// Waits until every known server is connected, for at most `timeout`. If one is down, this takes the whole
    /// `timeout`, so keep it short in a probe.
    ///
    /// # Errors
    /// The error of the first server that is not connected.
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

    /// Completes background work: waits until running loads have stored their values and until servers that missed an
    /// invalidation have received it, and reports the pending hits of the local tier. Takes at most `timeout`; returns
    /// whether all of that was done.
    ///
    /// Call it before the runtime ends: dropping the cache does none of this. The cache remains usable afterwards.
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

    /// Closes the cache: as [`Self::finish_pending`], then closes the connections and empties the local tier. Loaders
    /// still run afterwards, as without a server; every other call returns [`Error::Closed`].
    pub async fn close(&self, timeout: Duration) -> bool {
        let finished = self.finish_pending(timeout).await;
        self.core.remote.close();
        self.core.local.forget_all();
        finished
    }

    /// Returns the builder's default entry ([`CacheBuilder::default_entry`]), which a call can change:
    /// `cache.entry().tags(["users"])`.
    pub fn entry(&self) -> Entry {
        self.core.options.entry
    }

    /// Reads a fresh value: from memory in well under a microsecond, or in one round trip. Returns `None` for a stale
    /// value (grace) and for a known absence.
    ///
    /// A value in memory of another type than `T` counts as missing and is read from the server.
    ///
    /// A hit clones the value. Read a large value as an `Arc`, in all calls that name its key: then a hit only counts a
    /// reference.
    ///
    /// # Errors
    /// When the server fails and memory holds no value that may be served instead
    /// ([`CacheBuilder::serve_stale_while_unreachable`]); [`Error::Codec`] when the value does not decode as a `T`.
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

    /// Boxed, like [`Self::load`], and not inlined, so that a hit pays nothing for it.
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

    /// Reads several values, in the order of the keys. Values that memory does not hold are read in as few round trips
    /// per server as their size allows (`CACHE.MFETCH` for the keys of each slot, else one `CACHE.FETCH` per key). A
    /// value that does not decode as a `T` is returned as `None`, logged as an event and counted
    /// ([`CacheStats::undecodable`]); [`Self::get_each`] returns the error of each key.
    ///
    /// # Errors
    /// As [`Self::get`], for the first key that fails for another reason.
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

    /// Returns the value that was found or, if the server failed, a value that may be served instead.
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

    /// Stores a value in place of any older one, for all processes. This process reads it from the server next time:
    /// from that read on, the server reports changes of the key.
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

    /// Returns the value of a key from memory, from the server, or from `loader`. Of all processes and tasks that miss
    /// the key at the same time, one runs its loader and the others get its value.
    ///
    /// With grace ([`Entry::grace`]) an expired or softly invalidated value is served at once while one caller
    /// refreshes it, and also instead of an error when the loader fails. If the key or one of the tags is invalidated
    /// during a load, the loaded value is not stored. The load runs in tasks of its own, so a caller may give up at any
    /// time without affecting the others.
    ///
    /// A loader may load other keys. A loader that asks for its own key, or for a key whose loader asks for this one,
    /// waits for itself until the hard time-out ends it.
    ///
    /// The loader returns a `Result` whose error can be anything that converts into a boxed error: an error type, a
    /// string, `anyhow::Error`.
    ///
    /// # Errors
    /// [`Error::Loader`], [`Error::LoaderPanicked`] and [`Error::LoadTimeout`] when there is no stale value either;
    /// [`Error::Absent`] when the key is cached as absent by [`Self::get_or_load_optional`]; [`Error::TypeConflict`]
    /// when the key is being loaded as another type. A value that cannot be stored (a tag, the key or the value itself
    /// is refused) is still returned; it is logged as an event and counted ([`CacheStats::unstorable`]). A server that
    /// cannot be reached is no error: the loader runs, and its value is not stored.
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

    /// [`Self::get_or_load`] for a key that may have no value: the result `None` of a loader is cached too, for
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

    /// [`Self::get_or_load`] for a TTL, grace, tags and weight that depend on the value: the loader returns the value
    /// with its entry. The settings of the load (time-outs), and those for the time before the value is known, come
    /// from `entry`. The tags of `entry` are checked as well, but not stored.
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
            // Only set here: a load calls its loader once.
            let _ = chosen.set(cache.plan(entry));
            Ok(Some(value))
        };
        present(key, self.load(key, plan, loader).await?)
    }

    /// Looks a key up in the local tier: its value, or that it is known to be absent.
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
                        // None: the load found a value that this caller must not get, or it ended without a result.
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
                _value: PhantomData,
            };
            let run = crate::observe::in_caller(load.run(loader));
            let running = Arc::clone(&core.loading);
            tokio::spawn(async move {
                run.await;
                drop(running); // The load's spans are closed before `finish_pending` returns.
            });
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

    /// The local tier: the monitor reads it, the admin endpoint empties it.
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
            // One command gets the lease before the loader runs, and one stores the value afterwards.
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

/// The value, or [`Error::Absent`] if it is known to be absent.
fn present<T>(key: &str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::Absent {
        key: key.to_owned(),
    })
}
