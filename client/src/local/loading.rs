//! One load for each missing key, however many ask for it at once.

use std::{convert::Infallible, fmt, future::Future, sync::Arc};

use super::{
    LocalCache,
    flights::{Role, Ticket, are_unchanged_since},
    inner::{Inner, Terms},
    load::Load,
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
            Err(never) => match never {},
        }
    }

    /// The same with a `load` that may fail. Its error goes to its caller and nothing is stored; of those who wait,
    /// one after the other tries with its own `load`.
    ///
    /// # Errors
    ///
    /// The error of `load`.
    pub fn try_get_or_insert_with<T, E>(
        &self,
        key: &str,
        entry: Entry<T>,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, E>
    where
        T: IntoIterator<Item: AsRef<str>>,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let me = thread::current().id();
        let terms = self.inner.terms(entry);
        loop {
            match self.join_or_lead(key, &terms, Some(me)) {
                Role::Join(other) if other.thread == Some(me) => return load().map(Arc::new),
                Role::Join(other) => {
                    if let Some(value) = other.wait() {
                        return Ok(value);
                    }
                }
                Role::Lead(ticket, waited_for) => {
                    let mut lead = self.lead(ticket, Some(waited_for));
                    if let Some(value) = lead.loaded_meanwhile() {
                        return Ok(value);
                    }
                    let value = Arc::new(load()?);
                    lead.finish(Arc::clone(&value), terms);
                    return Ok(value);
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
            Err(never) => match never {},
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
    ) -> Result<Arc<V>, E>
    where
        T: IntoIterator<Item: AsRef<str>>,
        F: Future<Output = Result<V, E>>,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let terms = self.inner.terms(entry);
        loop {
            match self.join_or_lead(key, &terms, None) {
                Role::Join(other) => {
                    if let Some(value) = other.ended().await {
                        return Ok(value);
                    }
                }
                Role::Lead(ticket, waited_for) => {
                    let mut lead = self.lead(ticket, Some(waited_for));
                    if let Some(value) = lead.loaded_meanwhile() {
                        return Ok(value);
                    }
                    let value = Arc::new(load().await?);
                    lead.finish(Arc::clone(&value), terms);
                    return Ok(value);
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
            result: None,
        }
    }
}

/// A load under way; ends, with or without a result, when it is dropped.
struct Lead<V> {
    inner: Arc<Inner<V>>,
    ticket: Ticket,
    load: Option<Arc<Load<V>>>,
    result: Option<Arc<V>>,
}

impl<V> Lead<V> {
    /// Another load may have ended between the caller's look into the cache and the beginning of this one.
    fn loaded_meanwhile(&mut self) -> Option<Arc<V>> {
        self.result = self.inner.peek(&self.ticket.key);
        self.result.clone()
    }

    /// Whether the value was stored.
    fn finish(mut self, value: Arc<V>, terms: Terms) -> bool {
        self.result = Some(Arc::clone(&value));
        self.inner.fill(&self.ticket, value, terms)
    }
}

impl<V> Drop for Lead<V> {
    fn drop(&mut self) {
        self.inner.flights.release(&self.ticket, self.load.as_ref());
        if let Some(load) = &self.load {
            load.end(self.result.take());
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
