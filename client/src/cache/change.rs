//! Further operations on one entry, and on tags.

use std::any::Any;
use std::time::Duration;

use redis::Value;

use crate::entry::Entry;
use crate::remote::{Error, command};

use super::codec::Codec;
use super::core::Found;
use super::{Cache, present, some_loaded, value};

impl<C> Cache<C> {
    /// Stores a value only if there is no fresh one; returns whether it did. With a TTL of zero it stores nothing.
    pub async fn add<T>(
        &self,
        key: &str,
        value: &T,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
    ) -> Result<bool, Error>
    where
        C: Codec<T>,
    {
        Ok(!entry.ttl.is_zero() && self.set_if(key, value, entry, &["NX"]).await?)
    }

    /// Replaces the value of a fresh entry and gives it the times of `entry`; its tags stay. Returns whether there was
    /// one. With a TTL of zero the key is removed instead.
    pub async fn replace<T>(&self, key: &str, value: &T, entry: Entry) -> Result<bool, Error>
    where
        C: Codec<T>,
    {
        if entry.ttl.is_zero() {
            return self.remove(key).await;
        }
        // XX: without an entry there would be no tags to keep, not even the namespace's.
        self.set_if(key, value, entry, &["XX", "KEEPTAGS"]).await
    }

    /// Gives an entry the TTL and grace of `entry`, from now on; returns whether there was one. Its tags stay.
    pub async fn touch(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
    ) -> Result<bool, Error> {
        if entry.ttl.is_zero() {
            return self.remove(key).await;
        }
        let times = self.plan(entry).times(false, Duration::ZERO, fastrand::f64);
        let name = self.core.name(key);
        let cmd = command::touch(&name, times.ttl, times.grace);
        self.core.change(key, &name, &cmd, "CACHE.TOUCH").await
    }

    /// Returns whether the server has a fresh entry under this key: a value or a known absence. This does not count as
    /// a hit, and no value is sent.
    pub async fn exists(&self, key: &str) -> Result<bool, Error> {
        let name = self.core.name(key);
        let cmd = command::of_key("CACHE.EXISTS", &name);
        match self.core.remote.send(&name, &cmd).await?.value {
            Value::Int(count) => Ok(count > 0),
            odd => Err(Error::unexpected("server", "CACHE.EXISTS", &odd)),
        }
    }

    /// Reads a fresh value as if it carried these tags too: `None` also if one of them was invalidated, hard or soft,
    /// after it was written. For tags that only the reader knows. Always asks the server, in one round trip.
    ///
    /// The entry itself does not change. To replace it, use [`Self::refresh`] with these tags too.
    pub async fn get_with_tags<T: Any + Clone + Send + Sync>(
        &self,
        key: &str,
        tags: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Option<T>, Error>
    where
        C: Codec<T>,
    {
        let core = &self.core;
        let tags = none_empty(core.names(tags))?;
        let mut cmd = command::fetch(&core.name(key));
        cmd.arg("WITHTAGS").arg(tags.len()).arg(&tags);
        let reservation = core.local.reserve(key);
        match core.read(&self.codec, &reservation, &cmd, None).await? {
            Found::Fresh(loaded) => value(key, &loaded.stored),
            Found::Stale(..) | Found::Nothing(_) => Ok(None),
        }
    }

    /// Loads a value now, even if there is a fresh one, and returns it. Others get the old value until the new one is
    /// stored. The new value is not stored if the key or one of the tags is invalidated during the load.
    ///
    /// Of all processes that load the key at the same time, one does: the others get the existing value or, if there is
    /// none, wait as in [`Self::get_or_load`]. A caller whose loader fails gets the existing value, too.
    pub async fn refresh<T: Any + Clone + Send + Sync, F, E>(
        &self,
        key: &str,
        mut entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        loader: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        C: Codec<T>,
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        entry.load.soft_timeout = Duration::MAX;
        let mut plan = self.plan(entry);
        plan.anew = true;
        present(key, self.load(key, plan, some_loaded(loader)).await?)
    }

    /// Takes a fresh value out: of all callers that ask at the same time, one gets it.
    ///
    /// # Errors
    /// [`Error::Codec`] when the value does not decode as a `T`; it is removed all the same.
    pub async fn take<T: Any + Clone + Send + Sync>(&self, key: &str) -> Result<Option<T>, Error>
    where
        C: Codec<T>,
    {
        let core = &self.core;
        let name = core.name(key);
        let cmd = command::of_key("CACHE.GETDEL", &name);
        let answer = core.remote.send(&name, &cmd).await;
        // Whatever the reply, the value may be gone.
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

    /// Replaces the tags of an entry; returns whether there was one. Value, TTL and grace stay.
    pub async fn retag(
        &self,
        key: &str,
        tags: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<bool, Error> {
        let (name, tags) = (self.core.name(key), none_empty(self.core.tags(tags))?);
        let mut cmd = command::of_key("CACHE.RETAG", &name);
        cmd.arg("TAGS").arg(tags.len()).arg(&tags);
        self.core.change(key, &name, &cmd, "CACHE.RETAG").await
    }

    /// For `time` from now on, entries that are stored with one of these tags live only until that time ends. For
    /// values that are loaded from a lagging replica of the database: invalidate the tags and hold them for the lag; a
    /// value that was read too early is then gone when the hold ends. O(number of tags).
    ///
    /// # Errors
    /// When a server cannot be reached or refuses, or its module lacks this command; the other servers hold the tags.
    pub async fn hold(
        &self,
        time: Duration,
        tags: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<(), Error> {
        let tags = none_empty(self.core.names(tags))?;
        let time = command::millis(time.min(command::LONGEST_GRACE));
        let mut cmd = redis::cmd("CACHE.HOLD");
        cmd.arg(time).arg(&tags);
        let answers = self.core.remote.ask_all(&cmd).await;
        answers
            .into_iter()
            .try_for_each(|(_, answer)| answer.map(drop))
    }
}

fn none_empty(tags: Vec<String>) -> Result<Vec<String>, Error> {
    let is_empty = tags.iter().any(String::is_empty);
    (!is_empty).then_some(tags).ok_or_else(Error::empty_tag)
}
