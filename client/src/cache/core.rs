//! What all clones of a cache and all its tasks share; knows no codec.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use crate::local::{Reservation, TagSet};
use crate::remote::command::{self, Fetched, Invalidation, State};
use crate::remote::{Answer, Error, Remote};

use super::codec::Codec;
use super::frame::{self, Compression};
use super::portions::ReplySize;
use super::stats::Counters;
use super::tier::{self, Held, Local, Stored};

/// Between attempts to give a lease back that may have been granted.
const RELEASE_AGAIN: Duration = Duration::from_millis(100);

/// A value, and those of its tags that were not known when it was asked for.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) stored: Stored,
    pub(crate) tags: TagSet,
}

/// What servers have for a key, with the token of a lease that was granted for it.
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

/// What the builder decided.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) prefix: String,
    pub(crate) entry: crate::Entry,
    pub(crate) compression: Compression,
    pub(crate) local_ttl_max: Duration,
    pub(crate) stale_bound: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) command_timeout: Duration,
    /// Zero: hits of the local tier are not reported.
    pub(crate) hits_interval: Duration,
    /// The label `cache` of its metrics.
    #[cfg_attr(not(feature = "metrics"), allow(dead_code))]
    pub(crate) name: String,
}

pub(crate) struct Core {
    pub(crate) local: Arc<Local>,
    pub(crate) remote: Remote,
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
    /// Held by each load: loads go on behind their answers.
    pub(crate) loading: Arc<()>,
    pub(crate) reply_size: ReplySize,
}

impl Core {
    /// How a key is called on the server.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.options.prefix)
    }

    /// How tags are called on the server. An empty one, which is none, stays so: with the prefix it would be the tag
    /// of the whole namespace.
    pub(crate) fn names(&self, tags: impl IntoIterator<Item: AsRef<str>>) -> Vec<String> {
        let name = |tag: &str| {
            if tag.is_empty() {
                String::new()
            } else {
                self.name(tag)
            }
        };
        tags.into_iter().map(|tag| name(tag.as_ref())).collect()
    }

    /// The tags of an entry to be written, each once, the namespace's own among them.
    pub(crate) fn tags(&self, tags: impl IntoIterator<Item: AsRef<str>>) -> Vec<String> {
        let mut names = self.names(tags);
        names.sort_unstable();
        names.dedup();
        if !self.options.prefix.is_empty() {
            names.push(self.options.prefix.clone());
        }
        names
    }

    /// Reads through the main connection; what is found enters the local tier if nothing overtook it.
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
        let answer = self.remote.send(&self.name(reservation.key()), cmd).await;
        crate::observe::command("CACHE.FETCH", read.sent.elapsed(), answer.as_ref().err());
        self.take(codec, &read, answer?)
    }

    /// What an answer to CACHE.FETCH holds; counts it and lets it enter the local tier.
    pub(crate) fn take<T: Any + Send + Sync>(
        &self,
        codec: &impl Codec<T>,
        read: &Read<'_>,
        answer: Answer,
    ) -> Result<Found, Error> {
        let enter = |stored: &Stored, ttl: Option<Duration>, len: usize, tags: Option<&TagSet>| {
            let longest = self.options.local_ttl_max;
            // The server's time ran from when it executed the command, which was after it was sent.
            let ttl = ttl.unwrap_or(longest).min(longest);
            let ttl = ttl.saturating_sub(read.sent.elapsed());
            let Some(tags) = tags.filter(|_| answer.tracked && !ttl.is_zero()) else {
                return;
            };
            let weight = read.weight.unwrap_or(weight(len));
            let (stored, tags) = (Arc::clone(stored), tags.clone());
            let entered = self
                .local
                .enter(read.reservation, stored, ttl, tags, weight);
            if entered {
                self.counters.entered.up();
            } else {
                self.counters.overtaken.up();
            }
        };
        let found = self.found(codec, read.reservation.key(), answer.value, enter)?;
        match &found {
            Found::Fresh(loaded) if tier::is_absent(&loaded.stored) => {
                self.counters.negative_hits.up();
            }
            Found::Fresh(_) => self.counters.server_hits.up(),
            Found::Stale(..) | Found::Nothing(_) => self.counters.misses.up(),
        }
        Ok(found)
    }

    /// What an answer to CACHE.FETCH holds; `enter` gets what may be held here: value, TTL, length of the encoding, and
    /// tags unless they cannot be kept track of.
    pub(crate) fn found<T: Any + Send + Sync>(
        &self,
        codec: &impl Codec<T>,
        key: &str,
        answer: Value,
        enter: impl FnOnce(&Stored, Option<Duration>, usize, Option<&TagSet>),
    ) -> Result<Found, Error> {
        let Fetched { state, token, tags } = command::fetched(answer)?;
        let token = (token != 0).then_some(token);
        let tags = tags.map(|tags| self.local.cache().intern(tags));
        Ok(match state {
            State::Hit { value, ttl } => {
                let (stored, len) = self.decode(codec, key, &value)?;
                enter(&stored, ttl, len, tags.as_ref());
                let tags = tags.unwrap_or_default();
                let loaded = Loaded { stored, tags };
                // With a lease it is treated as a stale one: served while this caller loads.
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
        })
    }

    /// Writes through the main connection; whether the server took it.
    pub(crate) async fn write(&self, key: &str, name: &str, cmd: &Cmd) -> Result<bool, Error> {
        let sent = Instant::now();
        let answer = self.remote.send(name, cmd).await;
        crate::observe::command("CACHE.SET", sent.elapsed(), answer.as_ref().err());
        self.written(key, name, answer)
    }

    /// What came of a write. To be called before the caller goes on, whatever came of it: it shall not read what it has
    /// replaced. A refusal is sure to have replaced nothing, and must not outdate the load that has taken over.
    pub(crate) fn written(
        &self,
        key: &str,
        name: &str,
        answer: Result<Answer, Error>,
    ) -> Result<bool, Error> {
        if !matches!(&answer, Ok(answer) if answer.value == Value::Nil) {
            self.local.remove(key);
        }
        match answer?.value {
            Value::Okay => {
                self.counters.sets.up();
                self.remote.wrote(name);
                Ok(true)
            }
            Value::Nil => Ok(false),
            odd => Err(Error::unexpected("server", "CACHE.SET", &odd)),
        }
    }

    /// Removes an entry; whether there was one.
    pub(crate) async fn remove(&self, key: &str) -> Result<bool, Error> {
        let name = self.name(key);
        self.change(key, &name, &command::del(&name), "CACHE.DEL")
            .await
    }

    /// Sends a command that changes one key and answers how many it changed.
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

    /// What came of a command that changes one key: as [`Self::written`].
    pub(crate) fn changed(
        &self,
        key: &str,
        name: &str,
        answer: Result<Answer, Error>,
        command: &'static str,
    ) -> Result<bool, Error> {
        self.local.remove(key);
        match answer?.value {
            Value::Int(count) => {
                self.remote.wrote(name);
                Ok(count > 0)
            }
            odd => Err(Error::unexpected("server", command, &odd)),
        }
    }

    /// One command's worth of tags. Those that a server refuses keep no others from being invalidated: what is refused
    /// is sent in halves, down to single tags.
    pub(crate) fn invalidate_portion<'a>(
        &'a self,
        kind: Invalidation,
        names: &'a [String],
    ) -> Pin<Box<dyn Future<Output = (u64, Option<Error>)> + Send + 'a>> {
        Box::pin(async move {
            let sent = Instant::now();
            let dropped = self.remote.invalidate(kind, names).await;
            crate::observe::command("CACHE.INVALIDATE", sent.elapsed(), dropped.as_ref().err());
            match dropped {
                Ok(dropped) => (dropped, None),
                Err(error) if names.len() > 1 && error.is_refusal() => {
                    let (one, other) = names.split_at(names.len() / 2);
                    let (a, failed) = self.invalidate_portion(kind, one).await;
                    let (b, also) = self.invalidate_portion(kind, other).await;
                    (a + b, failed.or(also))
                }
                Err(error) => (error.dropped(), Some(error)),
            }
        })
    }

    /// Gives a lease back that is held or may have been granted, so that the next caller can load. Where the server
    /// cannot be reached it is tried again in the background, for `lasts` at most: then it has run out.
    pub(crate) async fn release(self: &Arc<Self>, key: &str, token: u64, lasts: Duration) {
        let name = self.name(key);
        let cmd = command::release(&name, token);
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
        Ok((frame::wrap(encoded, self.options.compression), len))
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
            crate::observe::undecodable(key, &error);
            error
        })
    }
}

/// Bytes that a value is taken to need in the local tier: twice the length of its encoding.
pub(crate) fn weight(len: usize) -> u64 {
    (size_of::<Stored>() + 2 * len) as u64
}

fn codec_error(key: &str, error: super::codec::CodecError) -> Error {
    Error::Codec {
        key: key.to_owned(),
        source: Arc::from(error),
    }
}
