//! One load: who else loads, who waits, what is served meanwhile, what is stored. `DESIGN.md`, section "A load".

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::entry::Entry;
use crate::remote::command::{self, Fetched, State, Write};
use crate::remote::{Error, LoaderError};

use super::codec::Codec;
use super::core::{Core, Found};
use super::loads::{Leader, Loaded};
use super::options::Plan;
use super::tier::Stored;

/// A lease that can be renewed, and how often it is.
const SHORT_LEASE: Duration = Duration::from_millis(1800);
const RENEW: Duration = Duration::from_millis(500);

/// A caller that has waited so long for other processes and gets the lease passes it on, and loads all the same:
/// where loaders fail one after the other, nobody waits for its turn.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// All that a load needs to own.
pub(crate) struct Load<C> {
    pub(crate) core: Arc<Core>,
    pub(crate) codec: C,
    pub(crate) key: String,
    pub(crate) plan: Plan,
    pub(crate) leader: Leader,
}

/// What the servers say to a load.
enum Look {
    /// A fresh value.
    Found(Loaded),
    /// A stale value; with a lease, this caller refreshes it.
    Stale(Loaded, Option<u64>),
    /// Nothing, and this caller loads it.
    Lease(u64),
    /// Nothing, and no lease to be had: load, do not store.
    NoLease,
    /// No server to ask: load, do not store, and fall back on what is still held.
    NoServer,
}

impl<C> Load<C> {
    /// Runs to the end: the callers have their answer by then, and what was loaded is stored.
    pub(crate) async fn run<T, F, L>(self, loader: L)
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<T>, LoaderError>> + Send + 'static,
    {
        let look = match self.look::<T>().await {
            Ok(look) => look,
            Err(error) if error.is_server_trouble() => {
                self.core.counters.server_errors.up();
                Look::NoServer
            }
            Err(error) => return self.leader.answer(Err(error)),
        };
        match look {
            Look::Found(loaded) => self.leader.answer(Ok(loaded)),
            Look::Stale(loaded, None) => self.serve_stale(loaded),
            Look::Stale(loaded, Some(token)) => self.refresh(loaded, token, loader).await,
            Look::Lease(token) => match self.call(loader, Some(token)).await {
                Ok((value, took)) => self.store(value, took, token).await,
                Err(error) => {
                    self.release(token).await;
                    self.leader.answer(Err(error));
                }
            },
            Look::NoLease => {
                self.core.counters.loads_unstored.up();
                let answer = self.call(loader, None).await;
                self.leader
                    .answer(answer.map(|(value, _)| self.loaded(Stored::new(value, 0))));
            }
            Look::NoServer => self.load_alone(loader).await,
        }
    }

    /// What the servers have, and whether this caller may load.
    async fn look<T>(&self) -> Result<Look, Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let look = self.look_once::<T>().await;
        let Err(Error::Codec { .. }) = look else {
            return look;
        };
        // One value that nobody can read any more is taken away, so that a lease can be had.
        self.core.remove(&self.key).await?;
        self.look_once::<T>().await
    }

    async fn look_once<T>(&self) -> Result<Look, Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let name = self.core.name(&self.key);
        if self.plan.has_empty_tag {
            // The loaded value cannot be stored, so this caller takes no lease: others may load meanwhile.
            let cmd = command::fetch(&name);
            return Ok(match self.read::<T>(&cmd).await? {
                (Found::Fresh(loaded), _) => Look::Found(loaded),
                (Found::Stale(loaded), _) => Look::Stale(loaded, None),
                (Found::Nothing, _) => {
                    self.unstorable(&Error::empty_tag());
                    Look::NoLease
                }
            });
        }
        let chosen = self.core.remote.new_token();
        let asked = self.ask::<T>(&name, chosen).await;
        let (found, token) = match asked {
            Err(Error::Rejected { .. }) if chosen.is_some() => {
                // An older module knows no tokens of the caller's choice.
                let asked = self.ask::<T>(&name, None).await?;
                self.core.remote.without_tokens();
                asked
            }
            asked => asked?,
        };
        match (found, token) {
            (Found::Fresh(loaded), _) => Ok(Look::Found(loaded)),
            (Found::Stale(loaded), token) => Ok(Look::Stale(loaded, token)),
            (Found::Nothing, Some(token)) => Ok(Look::Lease(token)),
            (Found::Nothing, None) => self.wait::<T>(&name).await,
        }
    }

    /// Through the main connection: what it answers may enter the local tier.
    async fn read<T>(&self, cmd: &redis::Cmd) -> Result<(Found, Option<u64>), Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let weight = self.plan.weight;
        self.core.read(&self.codec, &self.key, cmd, weight).await
    }

    /// Asks for the value or the lease. Where the answer is lost, what may have been granted is given back.
    async fn ask<T>(&self, name: &str, token: Option<u64>) -> Result<(Found, Option<u64>), Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let cmd = command::fetch_lease(name, self.lease(), token);
        let asked = self.read::<T>(&cmd).await;
        if let (Err(error), Some(token)) = (&asked, token)
            && (error.outcome_is_unknown() || matches!(error, Error::Codec { .. }))
        {
            self.release_later(token);
        }
        asked
    }

    /// Another process loads: wait for the value, or for the lease.
    async fn wait<T>(&self, name: &str) -> Result<Look, Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        self.core.counters.lease_waits.up();
        let (begun, longest) = (Instant::now(), self.plan.longest_wait);
        let chosen = self.core.remote.new_token();
        let cmd = command::fetch_wait(name, self.lease(), chosen, longest);
        let value = self.core.remote.send_blocking(name, &cmd, longest).await;
        if let (Err(error), Some(token)) = (&value, chosen)
            && error.outcome_is_unknown()
        {
            self.release_later(token);
        }
        let Fetched { state, token, tags } = command::fetched(value?)?;
        let token = (token != 0).then_some(token);
        let decode = |value: &[u8]| {
            let stored = self.core.decode(&self.codec, &self.key, value)?;
            Ok::<_, Error>(Loaded::found(stored, tags.unwrap_or_default()))
        };
        Ok(match (state, token) {
            // Whether it is still right is not known on this connection: it goes to the callers and no further.
            (State::Hit { value, .. }, _) => Look::Found(decode(&value)?),
            (State::Stale { value }, token) => Look::Stale(decode(&value)?, token),
            (State::Miss, Some(token)) if begun.elapsed() >= LONGEST_TURN => {
                self.release(token).await;
                // Nobody else may have waited: then it can be had again.
                match self.ask::<T>(name, self.core.remote.new_token()).await? {
                    (Found::Nothing, Some(token)) => Look::Lease(token),
                    (Found::Nothing, None) => Look::NoLease,
                    (Found::Stale(loaded), token) => Look::Stale(loaded, token),
                    (Found::Fresh(loaded), _) => Look::Found(loaded),
                }
            }
            (State::Miss, token) => token.map_or(Look::NoLease, Look::Lease),
        })
    }

    fn serve_stale(&self, stale: Loaded) {
        self.core.counters.stale_served.up();
        self.leader.answer(Ok(stale));
    }

    /// Loads behind a stale value, which is served when the soft time-out is over or the load fails.
    async fn refresh<T, F, L>(&self, stale: Loaded, token: u64, loader: L)
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<T>, LoaderError>> + Send + 'static,
    {
        self.core.counters.refreshes.up();
        if self.plan.load.soft_timeout.is_zero() {
            self.serve_stale(stale.clone());
        }
        let loading = self.call(loader, Some(token));
        tokio::pin!(loading);
        let loaded = tokio::select! {
            loaded = &mut loading => loaded,
            () = tokio::time::sleep(self.plan.load.soft_timeout) => {
                if !self.leader.has_answered() {
                    self.serve_stale(stale.clone());
                }
                loading.await
            }
        };
        if let Ok((value, took)) = loaded {
            return self.store(value, took, token).await;
        }
        self.core.counters.fail_safe.up();
        self.leader.answer(Ok(stale));
        // Shorter than the grace, after which nothing is left to be served meanwhile.
        let pause = self.plan.load.retry_after.min(self.plan.grace / 4);
        let pause = pause.min(self.plan.hard_timeout);
        // The lease is kept meanwhile: nobody else tries.
        let _ = tokio::time::timeout(pause, self.renew(Some(token))).await;
        self.release(token).await;
    }

    /// Without a server: the loader, and if it fails what is still held.
    async fn load_alone<T, F, L>(&self, loader: L)
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<T>, LoaderError>> + Send + 'static,
    {
        // Serving what is held is what keeps the loader's source from being flooded while the server is away.
        if let Some(stored) = self.core.local.stale(&self.key) {
            self.core.counters.fail_safe.up();
            return self.leader.answer(Ok(self.loaded(stored)));
        }
        self.core.counters.loads_unstored.up();
        let answer = self.call(loader, None).await.map(|(value, took)| {
            let encoded = self.core.encode(&self.codec, &self.key, value.as_ref());
            let len = encoded.map(|(_, len)| len);
            let stored = Stored::new(value, *len.as_ref().unwrap_or(&0));
            match len {
                Ok(_) => self.keep_alone(&stored, took),
                Err(error) => self.unstorable(&error),
            }
            self.loaded(stored)
        });
        self.leader.answer(answer);
    }

    /// Keeps a value that was loaded without a server, for as long as stale values may be served. It counts as stale
    /// from the start: no server tracks it, so it must not be served once one can be asked.
    fn keep_alone(&self, stored: &Stored, took: Duration) {
        let plan = self.plan.of_loaded();
        let times = plan.times(stored.is_negative(), took, fastrand::f64);
        let bound = self.core.options.stale_bound;
        let bound = times.ttl.unwrap_or(bound).min(bound);
        if !bound.is_zero() {
            let at_once = Duration::from_nanos(1);
            let entry = Entry::ttl(at_once).grace(bound).tags(&plan.tags);
            let entry = match plan.weight {
                Some(bytes) => entry.weight(bytes),
                None => entry,
            };
            let reservation = self.leader.reservation();
            reservation.store(Arc::new(stored.clone()), entry);
        }
    }

    /// Runs the loader, in a task of its own: it may panic, and it may take too long.
    /// Meanwhile the lease, if it has one, is renewed.
    async fn call<T, F, L>(
        &self,
        loader: L,
        lease: Option<u64>,
    ) -> Result<(Option<T>, Duration), Error>
    where
        T: Any + Send,
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<T>, LoaderError>> + Send + 'static,
    {
        self.core.counters.loads.up();
        let start = Instant::now();
        let mut task = tokio::spawn(crate::observe::in_load(
            &self.key,
            async move { loader().await },
        ));
        let timeout = self.plan.hard_timeout;
        let key = || self.key.clone();
        let loaded = tokio::time::timeout(timeout, &mut task);
        let loaded = tokio::select! {
            loaded = loaded => loaded,
            never = self.renew(lease) => match never {},
        };
        let loaded = match loaded {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(source))) => Err(Error::Loader { key: key(), source }),
            Ok(Err(_)) => Err(Error::LoaderPanicked { key: key() }),
            Err(_) => {
                task.abort();
                Err(Error::LoadTimeout {
                    key: key(),
                    timeout,
                })
            }
        };
        let took = start.elapsed();
        if loaded.is_err() {
            self.core.counters.load_failures.up();
        }
        crate::observe::loaded(&self.key, took, loaded.as_ref().err());
        loaded.map(|value| (value, took))
    }

    /// Keeps a lease, which is short, for as long as the loader runs: if this process dies, others need not wait long.
    /// Renewing does not change which invalidations the lease has seen: a write after one is still refused.
    async fn renew(&self, lease: Option<u64>) -> Infallible {
        let Some(token) = lease.filter(|_| self.core.remote.takes_tokens()) else {
            return std::future::pending().await;
        };
        let name = self.core.name(&self.key);
        let cmd = command::fetch_lease(&name, self.lease(), Some(token));
        loop {
            tokio::time::sleep(RENEW).await;
            // Where it fails the lease may run out; then another caller loads as well.
            let _ = self.core.remote.send(&name, &cmd).await;
        }
    }

    /// How long a lease is taken: where it can be renewed, not longer than others may wait for a dead process.
    fn lease(&self) -> Duration {
        let whole = self.plan.lease();
        if self.core.remote.takes_tokens() {
            whole.min(SHORT_LEASE)
        } else {
            whole
        }
    }

    /// Stores what was loaded under the lease, and answers. That it cannot be stored is nobody's error but the
    /// figures': the loader has succeeded.
    async fn store<T>(&self, value: Option<T>, took: Duration, token: u64)
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let negative = value.is_none();
        let encoded = match self.core.encode(&self.codec, &self.key, value.as_ref()) {
            Ok((encoded, len)) => Ok((encoded, Stored::new(value, len))),
            Err(error) => Err((error, Stored::new(value, 0))),
        };
        let (encoded, stored) = match encoded {
            Ok(encoded) => encoded,
            Err((error, stored)) => {
                self.unstorable(&error);
                // In this order: a caller that asks next, here or elsewhere, need not wait.
                self.release(token).await;
                return self.leader.answer(Ok(self.loaded(stored)));
            }
        };
        let plan = self.plan.of_loaded();
        if !plan.is_stored(negative) {
            // A stale value that may be there goes, and with it the lease: the next in line loads.
            let removed = self.core.remove(&self.key).await;
            self.leader.answer(Ok(self.loaded(stored)));
            if let Err(error) = removed {
                self.not_written(&error, token).await;
            }
            return;
        }
        let times = plan.times(negative, took, fastrand::f64);
        let name = self.core.name(&self.key);
        let write = Write {
            key: &name,
            value: &encoded,
            ttl: times.ttl,
            grace: times.grace,
            tags: &plan.tags,
            token,
        };
        let written = self.core.write(&self.key, &write).await;
        match written {
            Ok(true) => {}
            // The refusal has ended the lease.
            Ok(false) => self.core.counters.sets_refused.up(),
            Err(error) => {
                if error.is_server_trouble() {
                    // The callers need not wait for a server that does not answer.
                    self.leader.answer(Ok(self.loaded(stored.clone())));
                }
                self.not_written(&error, token).await;
            }
        }
        self.leader.answer(Ok(self.loaded(stored)));
    }

    /// What was loaded, with the tags that the loader chose: nobody knew them when others joined this load.
    fn loaded(&self, stored: Stored) -> Loaded {
        let chosen = self.plan.chosen.get();
        Loaded::found(
            stored,
            chosen.map_or_else(Vec::new, |plan| plan.tags.clone()),
        )
    }

    /// A write under the lease failed, or may have: whatever became of it, the lease is not kept.
    async fn not_written(&self, error: &Error, token: u64) {
        self.core.counters.set_failures.up();
        if error.is_server_trouble() {
            self.core.counters.server_errors.up();
        } else {
            self.unstorable(error);
        }
        self.release(token).await;
    }

    /// Counts and logs a loaded value that is given to the callers but cannot be stored.
    fn unstorable(&self, error: &Error) {
        self.core.counters.unstorable.up();
        crate::observe::not_stored(&self.key, error);
    }

    /// Gives the lease back, so that the next in line can try.
    async fn release(&self, token: u64) {
        self.core.release(&self.key, token, self.plan.lease()).await;
    }

    /// The same behind the caller's back, for a lease that may have been granted.
    fn release_later(&self, token: u64) {
        let (core, key, lasts) = (Arc::clone(&self.core), self.key.clone(), self.plan.lease());
        tokio::spawn(async move { core.release(&key, token, lasts).await });
    }
}
