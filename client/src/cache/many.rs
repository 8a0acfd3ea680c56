//! Several keys in one call, and loaders that the caller's own task runs.

use std::any::Any;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;
use tokio::sync::{mpsc, oneshot};

use crate::entry::Entry;
use crate::remote::command;
use crate::remote::{Error, LoaderError};

use super::codec::Codec;
use super::portions::portions;
use super::{Cache, present};

/// Commands that are sent together.
const MOST_COMMANDS: usize = 1000;
/// Keys that are loaded together.
const MOST_LOADS: usize = 500;
/// Missing keys that are found within this time of one another are loaded together.
const TOGETHER: Duration = Duration::from_millis(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A load that waits for the caller's task to run the loader.
struct Request<T> {
    key: String,
    value: oneshot::Sender<Result<Option<T>, LoaderError>>,
}

/// The caller gave up before its loader returned: other callers that wait for the value load it themselves.
#[derive(Debug, thiserror::Error)]
#[error("the caller gave up before its loader had answered")]
pub(super) struct Abandoned;

impl<C> Cache<C> {
    /// Stores several values under one entry, as [`Self::set`] does for each, in as few round trips per server as their
    /// size allows: one `CACHE.MSET` per slot and megabyte. With jitter, which is drawn per value, and if the user or
    /// the module lacks that command, it is one `CACHE.SET` per value.
    ///
    /// # Errors
    /// The first error; the other values are still stored.
    pub async fn set_many<'v, K, T>(
        &self,
        values: impl IntoIterator<Item = (K, &'v T)>,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
    ) -> Result<(), Error>
    where
        C: Codec<T>,
        T: 'v,
        K: AsRef<str>,
    {
        if entry.ttl.is_zero() {
            let keys = values.into_iter().map(|(key, _)| key);
            return self.remove_many(keys).await.map(drop);
        }
        let core = &self.core;
        let plan = self.plan(entry);
        if plan.has_empty_tag {
            return Err(Error::empty_tag());
        }
        let mut failed = None;
        let mut encoded = Vec::new();
        for (key, value) in values {
            match core.encode(&self.codec, key.as_ref(), Some(value)) {
                Ok((bytes, _)) => encoded.push((core.name(key.as_ref()), key, bytes)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let beside: usize = plan.entry.tags.iter().map(String::len).sum();
        let weight = |(name, _, bytes): &(String, K, Vec<u8>)| name.len() + bytes.len() + beside;
        for portion in portions(&encoded, MOST_COMMANDS, weight) {
            let names: Vec<&str> = portion.iter().map(|(name, ..)| name.as_str()).collect();
            let times = || plan.times(false, Duration::ZERO, fastrand::f64);
            let set =
                |at: usize| command::set(names[at], &portion[at].2, times(), &plan.entry.tags);
            let answers = if plan.entry.load.jitter > 0.0 {
                let commands = (0..names.len()).map(|at| (names[at], set(at)));
                core.remote.send_each(commands.collect()).await
            } else {
                let several = |places: &[usize]| {
                    let values = places
                        .iter()
                        .map(|&at| (names[at], portion[at].2.as_slice()));
                    command::mset(&values.collect::<Vec<_>>(), times(), &plan.entry.tags)
                };
                let apart = |answer, count| match answer {
                    Value::Int(_) => vec![Value::Okay; count],
                    _ => Vec::new(),
                };
                core.remote.send_together(&names, several, apart, set).await
            };
            for ((name, key, _), answer) in portion.iter().zip(answers) {
                if let Err(error) = core.changed(key.as_ref(), name, answer, "CACHE.SET") {
                    core.counters.set_failures.up();
                    failed = failed.or(Some(error));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Removes several entries, in as few round trips as [`Self::set_many`]; returns how many there were.
    ///
    /// # Errors
    /// The first error; the other entries are still removed.
    pub async fn remove_many(
        &self,
        keys: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<u64, Error> {
        let core = &self.core;
        let named = keys.into_iter().map(|key| (core.name(key.as_ref()), key));
        let named: Vec<_> = named.collect();
        let (mut removed, mut failed) = (0, None);
        for portion in portions(&named, MOST_COMMANDS, |(name, _)| name.len()) {
            let commands = portion
                .iter()
                .map(|(name, _)| (name.as_str(), command::of_key("CACHE.DEL", name)));
            let answers = core.remote.send_each(commands.collect()).await;
            for ((name, key), answer) in portion.iter().zip(answers) {
                match core.changed(key.as_ref(), name, answer, "CACHE.DEL") {
                    Ok(was_there) => removed += u64::from(was_there),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// [`Self::get_or_load`] for a loader that borrows: it runs in the caller's own task. If the caller gives up, the
    /// loader is dropped, and other callers that wait for the value load it themselves. The caller waits for its loader
    /// even if there is a stale value, which is returned if the loader fails.
    pub async fn get_or_load_scoped<T: Any + Clone + Send + Sync, F, E>(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>> + Clone>,
        loader: impl FnOnce() -> F,
    ) -> Result<T, Error>
    where
        C: Codec<T>,
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
    {
        let value = if let Some(value) = self.get_local(key) {
            value
        } else {
            let mut loader = Some(loader);
            let load = |keys: Vec<String>| {
                let loader = loader.take();
                async move {
                    let loader = loader.ok_or(Abandoned)?;
                    let value = loader().await.map_err(Into::into)?;
                    Ok(keys.into_iter().zip([value]).collect())
                }
            };
            let mut values = Box::pin(self.load_here(&[key], entry, load)).await;
            values.pop().unwrap_or(Ok(None))?
        };
        present(key, value)
    }

    /// Returns the values of several keys, in the order of the keys. Keys without a fresh value are loaded: `loader`
    /// gets them, most of them in one call, and returns the values that it found. A key that it does not return is
    /// cached as absent, as by [`Self::get_or_load_optional`]. Of all processes that miss a key at the same time, one
    /// loads it.
    ///
    /// The loader may borrow: it runs in the caller's own task, as in [`Self::get_or_load_scoped`].
    ///
    /// # Errors
    /// As [`Self::get_or_load`], for the first key that fails.
    pub async fn get_or_load_many<T: Any + Clone + Send + Sync, F, E, S>(
        &self,
        keys: impl IntoIterator<Item: AsRef<str>>,
        entry: Entry<impl IntoIterator<Item: AsRef<str>> + Clone>,
        mut loader: impl FnMut(Vec<String>) -> F,
    ) -> Result<Vec<Option<T>>, Error>
    where
        C: Codec<T>,
        F: Future<Output = Result<HashMap<String, T, S>, E>>,
        E: Into<BoxError>,
        S: BuildHasher,
    {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut values = Vec::with_capacity(keys.len());
        for read in self.get_each(&keys).await {
            // A value that cannot be read now is loaded, or fails again.
            values.push(read.ok().flatten());
        }
        let missing = keys
            .iter()
            .enumerate()
            .filter(|(at, _)| values[*at].is_none());
        let missing: Vec<_> = missing.map(|(at, key)| (at, key.as_ref())).collect();
        for portion in missing.chunks(MOST_LOADS) {
            let names: Vec<&str> = portion.iter().map(|(_, key)| *key).collect();
            let load = |keys| {
                let loading = loader(keys);
                async { Ok(loading.await.map_err(Into::into)?.into_iter().collect()) }
            };
            let loaded = self.load_here(&names, entry.clone(), load).await;
            for ((at, _), value) in portion.iter().zip(loaded) {
                values[*at] = value?;
            }
        }
        Ok(values)
    }

    /// Loads these keys. As always, each key is loaded in a task of its own; its loader asks the caller's task, which
    /// runs `load` for the keys that are asked for at about the same time.
    async fn load_here<T: Any + Clone + Send + Sync, F>(
        &self,
        keys: &[&str],
        mut entry: Entry<impl IntoIterator<Item: AsRef<str>> + Clone>,
        mut load: impl FnMut(Vec<String>) -> F,
    ) -> Vec<Result<Option<T>, Error>>
    where
        C: Codec<T>,
        F: Future<Output = Result<HashMap<String, T>, BoxError>>,
    {
        // A stale value must not end the wait for the loader.
        entry.load.soft_timeout = Duration::MAX;
        let (asking, mut asked) = mpsc::unbounded_channel::<Request<T>>();
        let loads = keys.iter().map(|key| {
            let (asking, own) = (asking.clone(), (*key).to_owned());
            let loader = async move {
                let (value, answer) = oneshot::channel();
                // If the caller has given up, neither message arrives.
                let _ = asking.send(Request { key: own, value });
                let answer = answer.await;
                answer.unwrap_or_else(|_| Err(Arc::new(Abandoned) as LoaderError))
            };
            self.load(key, self.plan(entry.clone()), loader)
        });
        let loads = join_all(loads);
        tokio::pin!(loads);
        loop {
            let first = tokio::select! {
                values = &mut loads => return values,
                Some(first) = asked.recv() => first,
            };
            let mut requests = vec![first];
            while requests.len() < keys.len()
                && let Ok(Some(next)) = tokio::time::timeout(TOGETHER, asked.recv()).await
            {
                requests.push(next);
            }
            let missing = requests.iter().map(|request| request.key.clone());
            let loaded = tokio::select! {
                // The time-out of the loads has passed.
                values = &mut loads => return values,
                loaded = load(missing.collect()) => loaded,
            };
            match loaded {
                Ok(mut found) => {
                    for Request { key, value } in requests {
                        let _ = value.send(Ok(found.remove(&key)));
                    }
                }
                Err(error) => {
                    let error = LoaderError::from(error);
                    for request in requests {
                        let _ = request.value.send(Err(Arc::clone(&error)));
                    }
                }
            }
        }
    }
}
