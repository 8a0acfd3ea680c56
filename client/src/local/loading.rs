//! One load for each missing key, however many ask for it at once.

use std::{convert::Infallible, fmt, future::Future, sync::Arc};

use super::{
    LocalCache,
    flights::{Role, Ticket, are_unchanged_since},
    inner::{Inner, Terms},
    load::{End, Load},
    sync::{ThreadId, thread},
};
use crate::Entry;

impl<V> LocalCache<V> {
    /// The value of `key`; if there is no fresh one, the value that `load` returns, which is stored.
    ///
    /// Of several threads that ask for the same missing key at once, one calls `load` and the others wait for its
    /// value. If it panics, its panic goes on and one of the others loads instead. Loads of different keys do not
    /// wait for each other.
    ///
    /// A value is given only to those who asked before its key was removed or overwritten, or one of its tags
    /// (or of those that they name themselves) invalidated; and in that case it is not stored. So a value that `load` read before an invalidation is never
    /// served to anybody who asks after it.
    ///
    /// `load` may use the cache. If it asks for the very key that it is loading, it gets a value from its own
    /// `load` call instead of waiting for itself. Two loads that wait for each other's keys wait forever.
    ///
    /// This blocks the thread. In async code use [`get_or_insert_async`](Self::get_or_insert_async).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tagcache::{Entry, LocalCache};
    ///
    /// let cache: LocalCache<String> = LocalCache::new(1000);
    /// let minute = Entry::ttl(Duration::from_secs(60)).tags(["users"]);
    /// let name = cache.get_or_insert_with("user:1", minute, || "Ada".to_owned());
    /// let again = cache.get_or_insert_with("user:1", minute, || unreachable!("it is there"));
    /// assert_eq!((name.as_str(), again.as_str()), ("Ada", "Ada"));
    /// ```
    pub fn get_or_insert_with<T>(
        &self,
        key: &str,
        entry: Entry<T>,
        load: impl FnOnce() -> V,
    ) -> Arc<V>
    where
        T: IntoIterator<Item: AsRef<str>>,
    {
        match self.try_get_or_insert_with(key, entry, || Ok::<_, Infallible>(load())) {
            Ok(value) => value,
            Err(never) => match *never {},
        }
    }

    /// The same with a `load` that may fail. Nothing is stored then, and its error goes to all who waited for it with the
    /// same type of error; callers with another type, and those that come later, load themselves.
    ///
    /// # Errors
    ///
    /// The error of `load`.
    pub fn try_get_or_insert_with<T, E>(
        &self,
        key: &str,
        entry: Entry<T>,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, Arc<E>>
    where
        T: IntoIterator<Item: AsRef<str>>,
        E: Send + Sync + 'static,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let me = thread::current().id();
        let terms = self.inner.terms(entry);
        loop {
            match self.join_or_lead(key, &terms, Some(me)) {
                Role::Join(other) if other.thread == Some(me) => {
                    return load().map(Arc::new).map_err(Arc::new);
                }
                Role::Join(other) => {
                    if let Some(outcome) = other.wait().outcome() {
                        return outcome;
                    }
                }
                Role::Lead(ticket, waited_for) => {
                    let mut lead = self.lead(ticket, Some(waited_for));
                    if let Some(value) = lead.loaded_meanwhile() {
                        return Ok(value);
                    }
                    return lead.end(load(), terms);
                }
            }
        }
    }

    /// [`get_or_insert_with`](Self::get_or_insert_with) for async code: waiting does not block the thread.
    ///
    /// Works with every executor. If the future is dropped while it loads, one of those who wait loads instead. It
    /// may be mixed with the blocking calls, as long as no thread blocks on a load that needs this very thread to
    /// go on. A load that asks for its own key waits forever.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tagcache::{Entry, LocalCache};
    /// # async fn handler(cache: LocalCache<String>) {
    /// let minute = Entry::ttl(Duration::from_secs(60)).tags(["users"]);
    /// let name = cache.get_or_insert_async("user:1", minute, || async { "Ada".to_owned() }).await;
    /// # assert_eq!(*name, "Ada");
    /// # }
    /// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    /// # assert!(Box::pin(handler(LocalCache::new(10))).as_mut().poll(context).is_ready());
    /// ```
    pub async fn get_or_insert_async<T, F>(
        &self,
        key: &str,
        entry: Entry<T>,
        load: impl FnOnce() -> F,
    ) -> Arc<V>
    where
        T: IntoIterator<Item: AsRef<str>>,
        F: Future<Output = V>,
    {
        let load = || async { Ok::<_, Infallible>(load().await) };
        match self.try_get_or_insert_async(key, entry, load).await {
            Ok(value) => value,
            Err(never) => match *never {},
        }
    }

    /// [`try_get_or_insert_with`](Self::try_get_or_insert_with) for async code.
    ///
    /// # Errors
    ///
    /// The error of `load`.
    pub async fn try_get_or_insert_async<T, F, E>(
        &self,
        key: &str,
        entry: Entry<T>,
        load: impl FnOnce() -> F,
    ) -> Result<Arc<V>, Arc<E>>
    where
        T: IntoIterator<Item: AsRef<str>>,
        F: Future<Output = Result<V, E>>,
        E: Send + Sync + 'static,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let terms = self.inner.terms(entry);
        loop {
            match self.join_or_lead(key, &terms, None) {
                Role::Join(other) => {
                    if let Some(outcome) = other.ended().await.outcome() {
                        return outcome;
                    }
                }
                Role::Lead(ticket, waited_for) => {
                    let mut lead = self.lead(ticket, Some(waited_for));
                    if let Some(value) = lead.loaded_meanwhile() {
                        return Ok(value);
                    }
                    return lead.end(load().await, terms);
                }
            }
        }
    }

    fn join_or_lead(&self, key: &str, terms: &Terms, thread: Option<ThreadId>) -> Role<V> {
        let inner = &*self.inner;
        inner.flights.join_or_lead(
            key,
            &inner.tags,
            |load| {
                inner.all.is_unchanged_since(load.stamp)
                    && are_unchanged_since(&load.tags, load.stamp)
                    && are_unchanged_since(&terms.tags, load.stamp)
            },
            |stamp| Load::new(stamp, terms.tags.clone(), thread),
        )
    }

    fn lead(&self, ticket: Ticket, load: Option<Arc<Load<V>>>) -> Lead<V> {
        Lead {
            inner: Arc::clone(&self.inner),
            ticket,
            load,
            end: End::Abandoned,
        }
    }
}

/// A load under way; ends, with or without a result, when it is dropped.
struct Lead<V> {
    inner: Arc<Inner<V>>,
    ticket: Ticket,
    load: Option<Arc<Load<V>>>,
    end: End<V>,
}

impl<V> End<V> {
    /// What a caller gets who takes errors of type `E`; `None`: it has to load.
    fn outcome<E: Send + Sync + 'static>(self) -> Option<Result<Arc<V>, Arc<E>>> {
        match self {
            Self::Loaded(value) => Some(Ok(value)),
            Self::Failed(error) => error.downcast().ok().map(Err),
            Self::Abandoned => None,
        }
    }
}

impl<V> Lead<V> {
    /// Another load may have ended between the caller's look into the cache and the beginning of this one.
    fn loaded_meanwhile(&mut self) -> Option<Arc<V>> {
        let value = self.inner.peek(&self.ticket.key)?;
        self.end = End::Loaded(Arc::clone(&value));
        Some(value)
    }

    /// Hands what the loader returned to all who wait, and stores it if it is a value.
    fn end<E>(mut self, loaded: Result<V, E>, terms: Terms) -> Result<Arc<V>, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        match loaded {
            Ok(value) => {
                let value = Arc::new(value);
                self.finish(Arc::clone(&value), terms);
                Ok(value)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.end = End::Failed(Arc::<E>::clone(&error));
                Err(error)
            }
        }
    }

    /// Whether the value was stored.
    fn finish(mut self, value: Arc<V>, terms: Terms) -> bool {
        self.end = End::Loaded(Arc::clone(&value));
        self.inner.fill(&self.ticket, value, terms)
    }
}

impl<V> Drop for Lead<V> {
    fn drop(&mut self) {
        self.inner.flights.release(&self.ticket, self.load.as_ref());
        if let Some(load) = &self.load {
            load.end(std::mem::replace(&mut self.end, End::Abandoned));
        }
    }
}

/// The right to store a value that is still being loaded, for as long as nothing overtakes it: see
/// [`LocalCache::reserve`].
///
/// It borrows nothing and may be kept across an `await`. Dropping it gives it up.
#[must_use = "it is given up when it is dropped"]
pub struct Reservation<V>(Lead<V>);

impl<V> Reservation<V> {
    /// Stores `value` as `entry` says, unless it was overtaken: whether it was stored.
    ///
    /// It was overtaken if, since the reservation was made, its key was removed or overwritten by
    /// [`set`](LocalCache::set) and its like, everything was invalidated, or one of the tags that `entry` names was,
    /// hard or soft. A tag that no entry has carried for some time may count as invalidated.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// # use tagcache::{Entry, LocalCache};
    /// let cache: LocalCache<u32> = LocalCache::new(100);
    /// let minute = Entry::ttl(Duration::from_secs(60)).tags(["prices"]);
    ///
    /// let reservation = cache.reserve("price:1");
    /// // Here the database is asked: 99. Meanwhile somebody changes the price and says so:
    /// cache.invalidate_tag("prices");
    /// assert!(!reservation.fill(Arc::new(99), minute), "99 is out of date");
    /// ```
    pub fn fill<T>(self, value: Arc<V>, entry: Entry<T>) -> bool
    where
        T: IntoIterator<Item: AsRef<str>>,
    {
        let terms = self.0.inner.terms(entry);
        self.0.finish(value, terms)
    }

    /// The same for a value that several places may store.
    #[cfg(feature = "remote")]
    pub(crate) fn store<T>(&self, value: Arc<V>, entry: Entry<T>) -> bool
    where
        T: IntoIterator<Item: AsRef<str>>,
    {
        let terms = self.0.inner.terms(entry);
        self.0.inner.fill(&self.0.ticket, value, terms)
    }

    /// Whether neither the key, nor everything, nor one of these tags was overtaken so far.
    #[cfg(feature = "remote")]
    pub(crate) fn is_current_with(&self, tags: &[String]) -> bool {
        let Lead { inner, ticket, .. } = &self.0;
        self.is_current()
            && tags
                .iter()
                .all(|tag| inner.tags.is_unchanged_since(tag, ticket.stamp))
    }

    /// Whether neither the key nor everything was overtaken so far. Of the tags only [`fill`](Self::fill) knows.
    pub fn is_current(&self) -> bool {
        let Lead { inner, ticket, .. } = &self.0;
        inner.all.is_unchanged_since(ticket.stamp)
            && inner.flights.shard(&ticket.key).is_current(ticket)
    }
}

impl<V> fmt::Debug for Reservation<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("key", &self.0.ticket.key)
            .finish_non_exhaustive()
    }
}

impl<V> LocalCache<V> {
    /// Announces that a value for `key` is about to be loaded: to be called before the load begins.
    ///
    /// For loads that [`get_or_insert_with`](Self::get_or_insert_with) and its like do not fit, because tags or TTL
    /// are known only afterwards, or several keys are loaded at once. Nobody waits for it: this says only whether
    /// the value may be stored once it is there. O(1), and a little memory until it is filled or dropped.
    pub fn reserve(&self, key: &str) -> Reservation<V> {
        let ticket = self.inner.flights.reserve(key, &self.inner.tags);
        Reservation(self.lead(ticket, None))
    }
}
