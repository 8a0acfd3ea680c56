//! What all clones of a cache and all its tasks share; knows no codec.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use crate::remote::command::{self, Fetched, State, Write};
use crate::remote::{Answer, Error, Remote};

use super::codec::Codec;
use super::coherence::{Coherence, Outcome, Read};
use super::flight::{Flights, Landing};
use super::frame::{self, Compression};
use super::stats::Counters;
use super::tier::{Local, Stored};

/// What a read of a server found.
pub(crate) enum Found {
    Fresh(Landing),
    Stale(Landing),
    Nothing,
}

/// What the builder decided.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) prefix: String,
    pub(crate) compression: Compression,
    pub(crate) local_ttl_max: Duration,
    pub(crate) stale_bound: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) command_timeout: Duration,
    /// Zero: hits of the local tier are not reported.
    pub(crate) hits_interval: Duration,
    /// Between an answer and its entering the local tier; only tests want one.
    pub(crate) entering_delay: Duration,
}

pub(crate) struct Core {
    pub(crate) coherence: Arc<Coherence<Local>>,
    pub(crate) remote: Remote,
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
    pub(crate) flights: Arc<Flights>,
}

impl Core {
    /// How a key is called on the server.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.options.prefix)
    }

    /// How tags are called on the server. An empty one, which is none, stays so and is refused there: with the
    /// prefix it would be the tag of the whole namespace.
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

    /// The tags of an entry to be written, the namespace's own among them.
    pub(crate) fn tags(&self, tags: impl IntoIterator<Item: AsRef<str>>) -> Vec<String> {
        let mut names = self.names(tags);
        if !self.options.prefix.is_empty() {
            names.push(self.options.prefix.clone());
        }
        names
    }

    /// Reads through the main connection; what is found enters the local tier if nothing overtook it.
    pub(crate) async fn read<T, C>(
        &self,
        codec: &C,
        key: &str,
        cmd: &Cmd,
    ) -> Result<(Found, Option<u64>), Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let read = self.coherence.begin(key);
        let sent = Instant::now();
        let answer = self.remote.send(&self.name(key), cmd).await;
        crate::observe::command("CACHE.FETCH", sent.elapsed(), answer.as_ref().err());
        self.hesitate().await;
        self.take(codec, key, &read, sent, answer?)
    }

    /// Waits between an answer and its entering the local tier, in tests that want rare moments to be long.
    pub(crate) async fn hesitate(&self) {
        if !self.options.entering_delay.is_zero() {
            tokio::time::sleep(self.options.entering_delay).await;
        }
    }

    /// What an answer to CACHE.FETCH holds; lets it enter the local tier.
    pub(crate) fn take<T, C>(
        &self,
        codec: &C,
        key: &str,
        read: &Read<Local>,
        sent: Instant,
        answer: Answer,
    ) -> Result<(Found, Option<u64>), Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let odd = Error::unexpected("server", "CACHE.FETCH", &answer.value);
        let Fetched { state, token, tags } = command::fetched(answer.value).ok_or(odd)?;
        let token = (token != 0).then_some(token);
        let found = match state {
            State::Hit { value, ttl } => {
                let stored = self.decode(codec, key, &value)?;
                if stored.is_negative() {
                    self.counters.negative_hits.up();
                } else {
                    self.counters.server_hits.up();
                }
                if let (true, Some(tags)) = (answer.tracked, &tags) {
                    self.enter(key, read, &stored, ttl, sent, tags);
                }
                Found::Fresh(Landing::found(stored, tags.unwrap_or_default()))
            }
            State::Stale { value } => {
                self.counters.misses.up();
                let stored = self.decode(codec, key, &value)?;
                Found::Stale(Landing::found(stored, tags.unwrap_or_default()))
            }
            State::Miss => {
                self.counters.misses.up();
                Found::Nothing
            }
        };
        Ok((found, token))
    }

    fn enter(
        &self,
        key: &str,
        read: &Read<Local>,
        stored: &Stored,
        ttl: Option<Duration>,
        sent: Instant,
        tags: &[String],
    ) {
        let longest = self.options.local_ttl_max;
        // The server's time ran from when it executed the command, which was after it was sent.
        let ttl = ttl
            .unwrap_or(longest)
            .min(longest)
            .saturating_sub(sent.elapsed());
        if ttl.is_zero() {
            return;
        }
        let stored = stored.clone();
        match read.enter(tags, |local| local.put(key, stored, ttl, tags)) {
            Outcome::Entered => self.counters.entered.up(),
            Outcome::Overtaken => self.counters.overtaken.up(),
        }
    }

    /// Writes through the main connection; whether the server took it.
    pub(crate) async fn write(&self, key: &str, write: &Write<'_>) -> Result<bool, Error> {
        let sent = Instant::now();
        let answer = self.remote.send(write.key, &command::set(write)).await;
        // Before the caller goes on, whatever came of it: it shall not read what it has replaced. A refusal is sure to
        // have replaced nothing, and must not outdate the load that has taken over.
        if !matches!(&answer, Ok(answer) if answer.value == Value::Nil) {
            self.coherence.key_changed(key);
        }
        crate::observe::command("CACHE.SET", sent.elapsed(), answer.as_ref().err());
        match answer?.value {
            Value::Okay => {
                self.counters.sets.up();
                self.remote.wrote(write.key);
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
        self.coherence.key_changed(key);
        crate::observe::command(command, sent.elapsed(), answer.as_ref().err());
        match answer?.value {
            Value::Int(count) => {
                self.remote.wrote(name);
                Ok(count > 0)
            }
            odd => Err(Error::unexpected("server", command, &odd)),
        }
    }

    pub(crate) fn encode<T, C: Codec<T>>(
        &self,
        codec: &C,
        key: &str,
        value: Option<&T>,
    ) -> Result<Vec<u8>, Error> {
        let encoded = value.map(|value| codec.encode(value)).transpose();
        let encoded = encoded.map_err(|error| self.codec_error(key, error))?;
        Ok(frame::wrap(encoded, self.options.compression))
    }

    pub(crate) fn decode<T, C>(&self, codec: &C, key: &str, stored: &[u8]) -> Result<Stored, Error>
    where
        C: Codec<T>,
        T: Any + Send + Sync,
    {
        let unwrapped = frame::unwrap(stored);
        let value = unwrapped.and_then(|value| value.map(|bytes| codec.decode(&bytes)).transpose());
        match value {
            Ok(value) => Ok(Stored::new(value, stored.len())),
            Err(error) => {
                self.counters.undecodable.up();
                Err(self.codec_error(key, error))
            }
        }
    }

    #[allow(
        clippy::unused_self,
        reason = "reads as the other methods where it is called"
    )]
    fn codec_error(&self, key: &str, error: super::codec::CodecError) -> Error {
        Error::Codec {
            key: key.to_owned(),
            source: Arc::from(error),
        }
    }
}
