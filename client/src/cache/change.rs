//! What else can be done with one entry, and with tags.

use std::any::Any;
use std::time::Duration;

use redis::Value;

use crate::entry::Entry;
use crate::remote::{Error, command};

use super::codec::Codec;
use super::{Cache, value};

impl<C> Cache<C> {
    /// Gives an entry the TTL and grace of `entry`, from now on; answers whether there was one. Its tags stay.
    ///
    /// # Errors
    /// When the server fails or refuses.
    pub async fn touch<I>(&self, key: &str, entry: Entry<I>) -> Result<bool, Error>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        if entry.ttl.is_zero() {
            return self.remove(key).await;
        }
        let times = self.plan(entry).times(false, Duration::ZERO, fastrand::f64);
        let name = self.core.name(key);
        let cmd = command::touch(&name, times.ttl, times.grace);
        self.core.change(key, &name, &cmd, "CACHE.TOUCH").await
    }

    /// Whether the server has something fresh under this key: a value, or that there is none. It counts as no hit, and
    /// no value is sent.
    ///
    /// # Errors
    /// When the server fails or refuses, or its module is older than this command.
    pub async fn exists(&self, key: &str) -> Result<bool, Error> {
        let name = self.core.name(key);
        let cmd = command::of_key("CACHE.EXISTS", &name);
        match self.core.remote.send(&name, &cmd).await?.value {
            Value::Int(count) => Ok(count > 0),
            odd => Err(Error::unexpected("server", "CACHE.EXISTS", &odd)),
        }
    }

    /// Takes a fresh value out: of all who ask at the same time one gets it.
    ///
    /// ```no_run
    /// # async fn run(cache: tagcache::Cache) -> Result<(), tagcache::Error> {
    /// if let Some(user) = cache.take::<u64>("reset:4f8a").await? {
    ///     // This link has not been used before.
    /// #   let _ = user;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the server fails or refuses, or its module is older than this command; [`Error::Codec`] when the value is no
    /// `T`, which is gone then.
    pub async fn take<T>(&self, key: &str) -> Result<Option<T>, Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let core = &self.core;
        let name = core.name(key);
        let cmd = command::of_key("CACHE.GETDEL", &name);
        let answer = core.remote.send(&name, &cmd).await;
        // Whatever came of it: it may be gone.
        core.local.remove(key);
        match answer?.value {
            Value::Nil => Ok(None),
            Value::BulkString(taken) => {
                core.remote.wrote(&name);
                value(key, &core.decode(&self.codec, key, &taken)?.0)
            }
            odd => Err(Error::unexpected("server", "CACHE.GETDEL", &odd)),
        }
    }

    /// Gives an entry other tags; answers whether there was one. Value, TTL and grace stay.
    ///
    /// # Errors
    /// When the server fails or refuses, or its module is older than this command.
    pub async fn retag(
        &self,
        key: &str,
        tags: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<bool, Error> {
        let (name, tags) = (self.core.name(key), self.core.tags(tags));
        if tags.iter().any(String::is_empty) {
            return Err(Error::empty_tag());
        }
        let cmd = command::retag(&name, &tags);
        self.core.change(key, &name, &cmd, "CACHE.RETAG").await
    }

    /// For `time` from now on, what is stored with one of these tags lives no longer than until then. For values that
    /// are loaded from a replica of the database that lags behind: invalidate, hold for the lag, and what was read too
    /// early is gone when the hold ends. O(number of tags).
    ///
    /// # Errors
    /// When a server cannot be reached or refuses, or its module is older than this command; the others hold.
    pub async fn hold(
        &self,
        time: Duration,
        tags: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<(), Error> {
        let tags = self.core.names(tags);
        if tags.iter().any(String::is_empty) {
            return Err(Error::empty_tag());
        }
        let answers = self.core.remote.ask_all(&command::hold(time, &tags)).await;
        answers
            .into_iter()
            .try_for_each(|(_, answer)| answer.map(drop))
    }
}
