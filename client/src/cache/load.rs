//! One load: which caller loads, which wait, what is served meanwhile and what is stored. `DESIGN.md`, "A load".

use std::any::Any;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::entry::Entry;
use crate::local::{End, Reservation};
use crate::observe::event;
use crate::remote::command;
use crate::remote::{Answer, Error, LoaderError};

use super::codec::Codec;
use super::core::{self, Core, Found, Loaded};
use super::many::Abandoned;
use super::options::Plan;
use super::tier::{self, Held, Stored};

/// The duration of a lease, which is renewed, and the interval between renewals.
const SHORT_LEASE: Duration = Duration::from_millis(1800);
const RENEW: Duration = Duration::from_millis(500);

/// A caller that waited this long for other processes before it got the lease passes the lease on and loads all the
/// same: when loaders fail one after the other, no caller waits for its turn.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// A loader that has not begun.
pub(crate) trait Loader<T>:
    Future<Output = Result<Option<T>, LoaderError>> + Send + 'static
{
}

impl<T, F: Future<Output = Result<Option<T>, LoaderError>> + Send + 'static> Loader<T> for F {}

pub(crate) struct Load<T, C> {
    pub(crate) core: Arc<Core>,
    pub(crate) codec: C,
    pub(crate) plan: Plan,
    /// The key's reservation since the load began; the callers wait for its end.
    pub(crate) reservation: Reservation<Held>,
    pub(crate) _value: PhantomData<fn() -> T>,
}

/// The token of the next lease. Like the module's own tokens, it is exact as a JavaScript number.
fn new_token() -> u64 {
    fastrand::u64(1..1 << 53)
}

impl<T: Any + Send + Sync, C: Codec<T>> Load<T, C> {
    /// Runs to the end: by then the callers have their result, and the loaded value is stored.
    pub(crate) async fn run(self, loader: impl Loader<T>) {
        match self.look().await {
            Ok(Found::Fresh(loaded)) => self.answer(Ok(loaded)),
            Ok(Found::Stale(loaded, None)) => {
                self.core.counters.stale_served.up();
                self.answer(Ok(loaded));
            }
            Ok(Found::Stale(loaded, Some(token))) => self.refresh(loaded, token, loader).await,
            Ok(Found::Nothing(Some(token))) => match self.call(loader, Some(token)).await {
                Ok((value, took)) => self.store(value, took, token).await,
                Err(error) => {
                    self.release(token).await;
                    self.answer(Err(error));
                }
            },
            // No lease is available: load, but do not store.
            Ok(Found::Nothing(None)) => {
                self.core.counters.loads_unstored.up();
                let loaded = self.call(loader, None).await;
                self.answer(loaded.map(|(value, _)| self.of_loader(tier::stored(value))));
            }
            Err(error) if error.is_server_trouble() => {
                self.core.counters.server_errors.up();
                self.load_alone(loader).await;
            }
            Err(error) => self.answer(Err(error)),
        }
    }

    /// Gives all waiting callers this result; later callers start a new load. Only the first result counts.
    fn answer(&self, outcome: Result<Loaded, Error>) {
        self.reservation.load.end(match outcome {
            Ok(Loaded { stored, tags }) => End::Loaded(stored, tags),
            // Other callers that wait load the value themselves.
            Err(Error::Loader { source, .. }) if source.is::<Abandoned>() => End::Abandoned,
            Err(error) => End::Failed(Arc::new(error)),
        });
    }

    /// Asks the servers for the value, and whether this caller may load.
    async fn look(&self) -> Result<Found, Error> {
        let name = self.core.name(self.key());
        let mut is_first = true;
        loop {
            let found = match self.ask(&name).await {
                Ok(Found::Nothing(None)) => self.wait(&name).await,
                found => found,
            };
            if !is_first || !matches!(found, Err(Error::Codec { .. })) {
                return found;
            }
            // A value that no process can read is removed, once, so that a lease can be granted.
            self.core.remove(self.key()).await?;
            is_first = false;
        }
    }

    fn key(&self) -> &str {
        &self.reservation.load.key
    }

    /// Requests the value or the lease, through the main connection; the value may enter the local tier. If the reply
    /// is lost, the lease that may have been granted is released.
    async fn ask(&self, name: &str) -> Result<Found, Error> {
        let (plan, token) = (&self.plan, new_token());
        let mut cmd = command::fetch_lease(name, self.lease(), token);
        if plan.anew {
            cmd.arg("EARLY");
        }
        if plan.has_empty_tag {
            // The loaded value cannot be stored, so this caller takes no lease: others may load meanwhile.
            cmd = command::fetch(name);
        }
        let (codec, weight) = (&self.codec, plan.entry.weight);
        let asked = self.core.read(codec, &self.reservation, &cmd, weight).await;
        if let Err(error) = &asked
            && (error.outcome_is_unknown() || matches!(error, Error::Codec { .. }))
        {
            self.release_later(token);
        }
        asked
    }

    /// Another process loads: waits for the value, or for the lease.
    async fn wait(&self, name: &str) -> Result<Found, Error> {
        if self.plan.has_empty_tag {
            self.unstorable(&Error::empty_tag());
            return Ok(Found::Nothing(None));
        }
        self.core.counters.lease_waits.up();
        let (begun, longest) = (Instant::now(), self.plan.longest_wait);
        let token = new_token();
        let mut cmd = command::fetch_lease(name, self.lease(), token);
        cmd.arg("WAIT").arg(command::millis(longest));
        let value = self.core.remote.send_blocking(name, &cmd, longest).await;
        if let Err(error) = &value
            && error.outcome_is_unknown()
        {
            self.release_later(token);
        }
        let tracked = false;
        let answer = value.map(|value| Answer { value, tracked })?;
        match self.core.take(&self.codec, self.key(), None, answer)? {
            Found::Nothing(Some(token)) if begun.elapsed() >= LONGEST_TURN => {
                self.release(token).await;
                // If no other caller waited, the lease can be taken again.
                self.ask(name).await
            }
            found => Ok(found),
        }
    }

    /// Loads behind a stale value, which is served when the soft time-out is over or the load fails.
    async fn refresh(&self, stale: Loaded, token: u64, loader: impl Loader<T>) {
        self.core.counters.refreshes.up();
        let loading = self.call(loader, Some(token));
        tokio::pin!(loading);
        let soft_timeout = self.plan.entry.load.soft_timeout;
        let in_time = if soft_timeout.is_zero() {
            None
        } else {
            tokio::time::timeout(soft_timeout, &mut loading).await.ok()
        };
        let loaded = if let Some(loaded) = in_time {
            loaded
        } else {
            self.core.counters.stale_served.up();
            self.answer(Ok(stale.clone()));
            loading.await
        };
        if let Ok((value, took)) = loaded {
            return self.store(value, took, token).await;
        }
        self.core.counters.fail_safe.up();
        self.answer(Ok(stale));
        // Shorter than the grace, after which there is no stale value to serve.
        let Entry { grace, load, .. } = &self.plan.entry;
        let pause = load.retry_after.min(*grace / 4);
        let pause = pause.min(self.plan.hard_timeout);
        // The lease is kept meanwhile, so that no other caller tries.
        let _ = tokio::time::timeout(pause, self.renew(Some(token))).await;
        self.release(token).await;
    }

    /// Without a server: serves a value that is still held, or else runs the loader.
    async fn load_alone(&self, loader: impl Loader<T>) {
        // Serving the held value keeps the loader's source from being flooded while the server is unreachable.
        if let Some(stored) = self.core.local.peek_stale(self.key()) {
            self.core.counters.fail_safe.up();
            return self.answer(Ok(self.of_loader(stored)));
        }
        self.core.counters.loads_unstored.up();
        let loaded = self.call(loader, None).await.map(|(value, took)| {
            let encoded = self.core.encode(&self.codec, self.key(), value.as_ref());
            let stored = tier::stored(value);
            match encoded {
                Ok((_, len)) => self.keep_alone(&stored, len, took),
                Err(error) => self.unstorable(&error),
            }
            self.of_loader(stored)
        });
        self.answer(loaded);
    }

    /// Keeps a value that was loaded without a server, for as long as stale values may be served. It counts as stale
    /// from the start: no server tracks it, so it must not be served once a server can be asked.
    fn keep_alone(&self, stored: &Stored, len: usize, took: Duration) {
        let plan = self.plan.of_loaded();
        let times = plan.times(tier::is_absent(stored), took, fastrand::f64);
        let bound = self.core.options.stale_bound;
        let bound = times.ttl.unwrap_or(bound).min(bound);
        if !bound.is_zero() {
            let at_once = Duration::from_nanos(1);
            let weight = plan.entry.weight.unwrap_or(core::weight(len));
            let entry = Entry::ttl(at_once).grace(bound).weight(weight);
            let tags = self.core.local.intern(&plan.entry.tags);
            self.reservation
                .store(Arc::clone(stored), entry.map_tags(|_| tags));
        }
    }

    /// Runs the loader in a task of its own, because it may panic or take too long. Meanwhile renews the lease, if any.
    async fn call(
        &self,
        loader: impl Loader<T>,
        lease: Option<u64>,
    ) -> Result<(Option<T>, Duration), Error> {
        self.core.counters.loads.up();
        let start = Instant::now();
        let mut task = tokio::spawn(crate::observe::in_load(self.key(), loader));
        let timeout = self.plan.hard_timeout;
        let key = || self.key().to_owned();
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
        crate::observe::loaded(self.key(), took, loaded.as_ref().err());
        loaded.map(|value| (value, took))
    }

    /// Renews a lease, which is short, for as long as the loader runs: if this process dies, others need not wait long.
    /// Renewing does not change which invalidations the lease has seen: a write after one is still refused.
    async fn renew(&self, lease: Option<u64>) -> Infallible {
        let Some(token) = lease else {
            return std::future::pending().await;
        };
        let name = self.core.name(self.key());
        let mut cmd = command::fetch_lease(&name, self.lease(), token);
        // A server that took over grants no new lease: it does not know that the loader began before an invalidation.
        cmd.arg("RENEW");
        loop {
            tokio::time::sleep(RENEW).await;
            // If this fails, the lease may run out; then another caller loads as well.
            let _ = self.core.remote.send(&name, &cmd).await;
        }
    }

    /// The time for which a lease is taken and renewed: no longer than others may wait for a dead process.
    fn lease(&self) -> Duration {
        self.plan.lease().min(SHORT_LEASE)
    }

    /// Stores the loaded value under the lease, and returns it to the callers. If it cannot be stored, only the counts
    /// show that: the loader has succeeded, so no caller gets an error.
    async fn store(&self, value: Option<T>, took: Duration, token: u64) {
        let encoded = self.core.encode(&self.codec, self.key(), value.as_ref());
        let (plan, negative) = (self.plan.of_loaded(), value.is_none());
        let loaded = self.of_loader(tier::stored(value));
        let written = match encoded {
            Err(error) => Err(error),
            Ok(_) if plan.ttl_of(negative).is_zero() => {
                // Removes a stale value, if there is one, and with it the lease: the next caller in line loads.
                self.core.remove(self.key()).await.map(|_| true)
            }
            Ok((encoded, _)) => {
                let times = plan.times(negative, took, fastrand::f64);
                let name = self.core.name(self.key());
                let mut cmd = command::set(&name, &encoded, times, &plan.entry.tags);
                cmd.arg("LEASE").arg(token);
                let (key, set) = (self.key(), "CACHE.SET");
                self.core.change(key, &name, &cmd, set).await
            }
        };
        match written {
            Ok(true) => {}
            // The refusal has ended the lease.
            Ok(false) => self.core.counters.sets_refused.up(),
            Err(error) => {
                if !matches!(error, Error::Codec { .. }) {
                    self.core.counters.set_failures.up();
                }
                if error.is_server_trouble() {
                    self.core.counters.server_errors.up();
                    // The callers need not wait for a server that does not reply.
                    self.answer(Ok(loaded.clone()));
                } else {
                    self.unstorable(&error);
                }
                // Whatever became of the write, the lease is released. This comes before the answer, so that the next
                // caller, here or elsewhere, need not wait.
                self.release(token).await;
            }
        }
        self.answer(Ok(loaded));
    }

    /// Counts and logs a loaded value that is given to the callers but cannot be stored.
    fn unstorable(&self, error: &Error) {
        self.core.counters.unstorable.up();
        event!(
            warn,
            "loaded value not stored",
            key = self.key(),
            error = error
        );
    }

    async fn release(&self, token: u64) {
        let (key, lasts) = (self.key(), self.plan.lease());
        self.core.release(key, token, lasts).await;
    }

    /// As [`Self::release`], in the background, for a lease that may have been granted.
    fn release_later(&self, token: u64) {
        let (core, key) = (Arc::clone(&self.core), self.key().to_owned());
        let lasts = self.plan.lease();
        tokio::spawn(async move { core.release(&key, token, lasts).await });
    }

    /// A loader's result, or a value that is served without a server. Callers that joined are checked against the tags
    /// that the loader chose, which were not known when they joined.
    fn of_loader(&self, stored: Stored) -> Loaded {
        let chosen = self.plan.chosen.get().map(|plan| &plan.entry.tags);
        let tags = chosen.map(|tags| self.core.local.intern(tags));
        Loaded {
            stored,
            tags: tags.unwrap_or_default(),
        }
    }
}
