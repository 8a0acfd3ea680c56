//! The state that all clones and tasks of a cache share. It is independent of the codec.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use crate::entry::Entry;
use crate::local::{LocalCache, Reservation, TagSet};
use crate::remote::command::{self, Fetched, State};
use crate::remote::{Answer, Error, Remote};

use super::codec::Codec;
use super::frame;
use super::options::Options;
use super::portions::ReplySize;
use super::stats::{CacheStats, Counters};
use super::tier::{self, Held, Stored};

/// Pause between attempts to release a lease that may have been granted.
const RELEASE_AGAIN: Duration = Duration::from_millis(100);

/// A value, and those of its tags that were not known when it was asked for.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) stored: Stored,
    pub(crate) tags: TagSet,
}

/// A server's result for a key, with the token of a lease that was granted for it.
pub(crate) enum Found {
    Fresh(Loaded),
    Stale(Loaded, Option<u64>),
    Nothing(Option<u64>),
}

/// A read that is under way: its key is reserved before it is sent.
pub(crate) struct Read<'a> {
    pub(crate) reservation: &'a Reservation<Held>,
    pub(crate) sent: Instant,
    /// Bytes in the local tier, if the caller states them.
    pub(crate) weight: Option<u64>,
}

pub(crate) struct Core {
    pub(crate) local: LocalCache<Held>,
    pub(crate) remote: Remote,
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
    /// Held by each load: loads continue after their callers have a value.
    pub(crate) loading: Arc<()>,
    pub(crate) reply_size: ReplySize,
}

impl Core {
    /// The name of a key on the server.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.options.prefix)
    }

    /// The names of tags on the server. An empty tag is invalid and stays empty: with the prefix it would be the tag of
    /// the whole namespace.
    pub(crate) fn names(&self, tags: impl IntoIterator<Item: AsRef<str>>) -> Vec<String> {
        let named = tags.into_iter().map(|tag| match tag.as_ref() {
            "" => String::new(),
            tag => self.name(tag),
        });
        named.collect()
    }

    /// The tags of an entry to be written, each once, including the namespace's own.
    pub(crate) fn tags(&self, tags: impl IntoIterator<Item: AsRef<str>>) -> Vec<String> {
        let mut names = self.names(tags);
        names.sort_unstable();
        names.dedup();
        if !self.options.prefix.is_empty() {
            names.push(self.options.prefix.clone());
        }
        names
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.counters.read(self.local.stats(), self.remote.status())
    }

    /// Reads through the main connection; the value enters the local tier if nothing overtook it.
    pub(crate) async fn read<T: Any + Send + Sync>(
        &self,
        codec: &impl Codec<T>,
        reservation: &Reservation<Held>,
        cmd: &Cmd,
        weight: Option<u64>,
    ) -> Result<Found, Error> {
        let read = Read {
            reservation,
            sent: Instant::now(),
            weight,
        };
        let name = self.name(&reservation.load.key);
        let answer = self.remote.send(&name, cmd).await;
        crate::observe::command("CACHE.FETCH", read.sent.elapsed(), answer.as_ref().err());
        self.take(codec, &reservation.load.key, Some(&read), answer?)
    }

    /// Reads a reply to CACHE.FETCH. With a `read`, the result is counted and may enter the local tier. Without one it
    /// is neither counted nor entered, because it may be out of date.
    pub(crate) fn take<T: Any + Send + Sync>(
        &self,
        codec: &impl Codec<T>,
        key: &str,
        read: Option<&Read<'_>>,
        answer: Answer,
    ) -> Result<Found, Error> {
        let Fetched { state, token, tags } = command::fetched(answer.value)?;
        let token = (token != 0).then_some(token);
        let tags = tags.map(|tags| self.local.intern(tags));
        let found = match state {
            State::Hit { value, ttl } => {
                let (stored, len) = self.decode(codec, key, &value)?;
                // Tags that are not text cannot be tracked here.
                if let (Some(read), Some(tags), true) = (read, &tags, answer.tracked) {
                    self.enter(read, &stored, ttl, len, tags);
                }
                let tags = tags.unwrap_or_default();
                let loaded = Loaded { stored, tags };
                // A value with a lease is treated as stale: it is served while this caller loads.
                match token {
                    None => Found::Fresh(loaded),
                    token => Found::Stale(loaded, token),
                }
            }
            State::Stale { value } => {
                let (stored, _) = self.decode(codec, key, &value)?;
                let tags = tags.unwrap_or_default();
                Found::Stale(Loaded { stored, tags }, token)
            }
            State::Miss => Found::Nothing(token),
        };
        if read.is_some() {
            let counter = match &found {
                Found::Fresh(loaded) if tier::is_absent(&loaded.stored) => {
                    &self.counters.negative_hits
                }
                Found::Fresh(_) => &self.counters.server_hits,
                Found::Stale(..) | Found::Nothing(_) => &self.counters.misses,
            };
            counter.up();
        }
        Ok(found)
    }

    fn enter(
        &self,
        read: &Read<'_>,
        stored: &Stored,
        ttl: Option<Duration>,
        len: usize,
        tags: &TagSet,
    ) {
        let longest = self.options.local_ttl_max;
        // The TTL counts from the command's execution, which was after it was sent.
        let ttl = ttl.unwrap_or(longest).min(longest);
        let ttl = ttl.saturating_sub(read.sent.elapsed());
        if ttl.is_zero() {
            return;
        }
        let entry = Entry::ttl(ttl)
            .grace(self.options.stale_bound)
            .weight(read.weight.unwrap_or(weight(len)))
            .map_tags(|_| tags.clone());
        if read.reservation.store(Arc::clone(stored), entry) {
            self.counters.entered.up();
        } else {
            self.counters.overtaken.up();
        }
    }

    pub(crate) async fn remove(&self, key: &str) -> Result<bool, Error> {
        let name = self.name(key);
        let del = command::of_key("CACHE.DEL", &name);
        self.change(key, &name, &del, "CACHE.DEL").await
    }

    /// Sends a command that changes one key, through the main connection; returns whether it changed the key.
    pub(crate) async fn change(
        &self,
        key: &str,
        name: &str,
        cmd: &Cmd,
        command: &'static str,
    ) -> Result<bool, Error> {
        let sent = Instant::now();
        let answer = self.remote.send(name, cmd).await;
        crate::observe::command(command, sent.elapsed(), answer.as_ref().err());
        self.changed(key, name, answer, command)
    }

    /// Handles the reply to a command that changes one key. Call it before the caller goes on, whatever the reply: the
    /// caller must not read the value that it has replaced. A refused write is sure to have replaced nothing, and must
    /// not outdate the load that has taken over.
    pub(crate) fn changed(
        &self,
        key: &str,
        name: &str,
        answer: Result<Answer, Error>,
        command: &'static str,
    ) -> Result<bool, Error> {
        if !matches!(&answer, Ok(answer) if answer.value == Value::Nil) {
            self.local.remove(key);
        }
        let is_changed = match answer?.value {
            Value::Nil => return Ok(false),
            Value::Okay => {
                self.counters.sets.up();
                true
            }
            Value::Int(count) => count > 0,
            odd => return Err(Error::unexpected("server", command, &odd)),
        };
        self.remote.wrote(name);
        Ok(is_changed)
    }

    /// Releases a lease that is held or may have been granted, so that the next caller can load. If the server cannot
    /// be reached, tries again in the background for at most `lasts`: by then the lease has run out.
    pub(crate) async fn release(self: &Arc<Self>, key: &str, token: u64, lasts: Duration) {
        let name = self.name(key);
        let mut cmd = command::of_key("CACHE.RELEASE", &name);
        cmd.arg(token);
        let Err(error) = self.remote.send(&name, &cmd).await else {
            return;
        };
        if !error.is_server_trouble() {
            return;
        }
        let (core, end) = (Arc::downgrade(self), Instant::now() + lasts);
        tokio::spawn(async move {
            while Instant::now() < end {
                tokio::time::sleep(RELEASE_AGAIN).await;
                let Some(core) = core.upgrade() else { return };
                if core.remote.send(&name, &cmd).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// The bytes to store for a value, and the length of the encoded value before compression.
    pub(crate) fn encode<T>(
        &self,
        codec: &impl Codec<T>,
        key: &str,
        value: Option<&T>,
    ) -> Result<(Vec<u8>, usize), Error> {
        let encoded = value.map(|value| codec.encode(value)).transpose();
        let encoded = encoded.map_err(|error| codec_error(key, error))?;
        let len = encoded.as_ref().map_or(0, Vec::len);
        Ok((frame::wrap(encoded, self.options.compress_from), len))
    }

    /// The value, and the length of its encoding before compression.
    pub(crate) fn decode<T: Any + Send + Sync>(
        &self,
        codec: &impl Codec<T>,
        key: &str,
        bytes: &[u8],
    ) -> Result<(Stored, usize), Error> {
        let decoded = frame::unwrap(bytes).and_then(|encoded| {
            let len = encoded.as_ref().map_or(0, |encoded| encoded.len());
            let value = encoded.map(|encoded| codec.decode(&encoded)).transpose()?;
            Ok((tier::stored(value), len))
        });
        decoded.map_err(|error| {
            self.counters.undecodable.up();
            let error = codec_error(key, error);
            crate::observe::event!(warn, "value cannot be decoded", key = key, error = error);
            error
        })
    }
}

/// The bytes that a value counts as in the local tier: twice the length of its encoding.
pub(crate) fn weight(len: usize) -> u64 {
    (size_of::<Stored>() + 2 * len) as u64
}

fn codec_error(key: &str, error: super::codec::CodecError) -> Error {
    Error::Codec {
        key: key.to_owned(),
        source: Arc::from(error),
    }
}
