//! One load: who else loads, who waits, what is served meanwhile, what is stored. `DESIGN.md`, section "A load".

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::remote::command::{self, Fetched, State, Write};
use crate::remote::{Answer, Error, LoaderError};

use super::codec::Codec;
use super::core::{Core, Found};
use super::flight::{Landing, Pilot};
use super::options::Plan;
use super::tier::Stored;

/// A failed refresh keeps its lease for so long, so that the fleet does not hammer a loader that is down.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// All that a load needs to own.
pub(crate) struct Load<C> {
    pub(crate) core: Arc<Core>,
    pub(crate) codec: C,
    pub(crate) key: String,
    pub(crate) plan: Plan,
    pub(crate) pilot: Pilot,
}

/// What the servers say to a load.
enum Look {
    /// Somebody has stored it.
    Found(Landing),
    /// A stale value; with a lease, this caller refreshes it.
    Stale(Landing, Option<u64>),
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
            Err(error) => return self.pilot.land(Err(error)),
        };
        match look {
            Look::Found(landing) => self.pilot.land(Ok(landing)),
            Look::Stale(landing, None) => self.serve_stale(landing),
            Look::Stale(landing, Some(token)) => self.refresh(landing, token, loader).await,
            Look::Lease(token) => match self.call(loader).await {
                Ok((value, took)) => self.store(value, took, token).await,
                Err(error) => {
                    self.release(token).await;
                    self.pilot.land(Err(error));
                }
            },
            Look::NoLease => {
                self.core.counters.loads_unstored.up();
                let answer = self.call(loader).await;
                self.pilot
                    .land(answer.map(|(value, _)| Landing::loaded(Stored::new(value, 0))));
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
        let cmd = command::fetch_lease(&name, self.plan.lease());
        // Through the main connection: what it answers may enter the local tier.
        let (found, token) = self.core.read(&self.codec, &self.key, &cmd).await?;
        match (found, token) {
            (Found::Fresh(landing), _) => Ok(Look::Found(landing)),
            (Found::Stale(landing), token) => Ok(Look::Stale(landing, token)),
            (Found::Nothing, Some(token)) => Ok(Look::Lease(token)),
            (Found::Nothing, None) => self.wait::<T>(&name).await,
        }
    }

    /// Somebody else loads: wait for the value, or for the lease.
    async fn wait<T>(&self, name: &str) -> Result<Look, Error>
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        self.core.counters.lease_waits.up();
        let patience = self.plan.patience;
        let cmd = command::fetch_wait(name, self.plan.lease(), patience);
        let value = self.core.remote.send_blocking(name, &cmd, patience).await?;
        let odd = Error::unexpected("server", "CACHE.FETCH", &value);
        let Fetched { state, token, tags } = command::fetched(value).ok_or(odd)?;
        let token = (token != 0).then_some(token);
        let decode = |value: &[u8]| {
            let stored = self.core.decode(&self.codec, &self.key, value)?;
            Ok::<_, Error>(Landing::found(stored, tags.unwrap_or_default()))
        };
        Ok(match state {
            // Whether it is still right is not known on this connection: it goes to the callers and no further.
            State::Hit { value, .. } => Look::Found(decode(&value)?),
            State::Stale { value } => Look::Stale(decode(&value)?, token),
            State::Miss => token.map_or(Look::NoLease, Look::Lease),
        })
    }

    fn serve_stale(&self, stale: Landing) {
        self.core.counters.stale_served.up();
        self.pilot.land(Ok(stale));
    }

    /// Loads behind a stale value, which is served when the soft time-out is over or the load fails.
    async fn refresh<T, F, L>(&self, stale: Landing, token: u64, loader: L)
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
        let loading = self.call(loader);
        tokio::pin!(loading);
        let loaded = tokio::select! {
            loaded = &mut loading => loaded,
            () = tokio::time::sleep(self.plan.load.soft_timeout) => {
                if !self.pilot.has_landed() {
                    self.serve_stale(stale.clone());
                }
                loading.await
            }
        };
        if let Ok((value, took)) = loaded {
            return self.store(value, took, token).await;
        }
        self.core.counters.fail_safe.up();
        self.pilot.land(Ok(stale));
        tokio::time::sleep(PAUSE_AFTER_FAILURE.min(self.plan.lease())).await;
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
        if let Some(stored) = self.core.coherence.tier().stale(&self.key) {
            self.core.counters.fail_safe.up();
            return self.pilot.land(Ok(Landing::loaded(stored)));
        }
        self.core.counters.loads_unstored.up();
        match self.call(loader).await {
            Ok((value, took)) => {
                let stored = match self.core.encode(&self.codec, &self.key, value.as_ref()) {
                    Ok(encoded) => Stored::new(value, encoded.len()),
                    Err(error) => return self.pilot.land(Err(error)),
                };
                self.keep_alone(&stored, took);
                self.pilot.land(Ok(Landing::loaded(stored)));
            }
            Err(error) => self.pilot.land(Err(error)),
        }
    }

    /// Keeps a value that was loaded without a server, for as long as stale values may be served. It counts as stale
    /// from the start: no server tracks it, so it must not be served once one can be asked.
    fn keep_alone(&self, stored: &Stored, took: Duration) {
        let Plan { tags, .. } = &self.plan;
        let times = self.plan.times(stored.is_negative(), took, fastrand::f64);
        let bound = self.core.options.stale_bound;
        let bound = times.ttl.unwrap_or(bound).min(bound);
        if !bound.is_zero() {
            self.pilot.enter(tags, |local| {
                local.put_stale(&self.key, stored.clone(), bound, tags);
            });
        }
    }

    /// Runs the loader, in a task of its own: it may panic, and it may take too long.
    async fn call<T, F, L>(&self, loader: L) -> Result<(Option<T>, Duration), Error>
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
        let loaded = match tokio::time::timeout(timeout, &mut task).await {
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

    /// Stores what was loaded under the lease, and answers. That it cannot be stored is nobody's error but the
    /// figures'.
    async fn store<T>(&self, value: Option<T>, took: Duration, token: u64)
    where
        C: Codec<T>,
        T: Any + Clone + Send + Sync,
    {
        let encoded = match self.core.encode(&self.codec, &self.key, value.as_ref()) {
            Ok(encoded) => encoded,
            Err(error) => {
                self.release(token).await;
                return self.pilot.land(Err(error));
            }
        };
        if !self.plan.is_stored(value.is_none()) {
            // A stale value that may be there goes, and with it the lease: the next in line loads.
            let removed = self.core.remove(&self.key).await;
            if let Err(error) = removed {
                self.note_failed_write(&error);
            }
            let stored = Stored::new(value, encoded.len());
            return self.pilot.land(Ok(Landing::loaded(stored)));
        }
        let times = self.plan.times(value.is_none(), took, fastrand::f64);
        let name = self.core.name(&self.key);
        let write = Write {
            key: &name,
            value: &encoded,
            ttl: times.ttl,
            grace: times.grace,
            tags: &self.plan.tags,
            token,
        };
        // What the server refuses for good (a tag that is too long, say) is not stored either, but that is the
        // caller's to know.
        let written = self.core.write(&self.key, &write).await;
        let stored = Stored::new(value, encoded.len());
        match written {
            Ok(true) => {}
            // The refusal has ended the lease.
            Ok(false) => self.core.counters.sets_refused.up(),
            Err(error) => {
                self.note_failed_write(&error);
                if !error.is_server_trouble() {
                    return self.pilot.land(Err(error));
                }
                if !error.outcome_is_unknown() {
                    self.release(token).await;
                }
            }
        }
        self.pilot.land(Ok(Landing::loaded(stored)));
    }

    fn note_failed_write(&self, error: &Error) {
        self.core.counters.set_failures.up();
        if error.is_server_trouble() {
            self.core.counters.server_errors.up();
        }
    }

    /// Gives the lease back, so that the next in line can try.
    async fn release(&self, token: u64) {
        let name = self.core.name(&self.key);
        let released = self
            .core
            .remote
            .send(&name, &command::release(&name, token))
            .await;
        // If it does not arrive, the lease runs out by itself.
        let _: Result<Answer, Error> = released;
    }
}
