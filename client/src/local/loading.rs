//! One load per missing key, however many callers ask for it at once.

use std::{convert::Infallible, fmt, future::Future, sync::Arc};

use super::{
    LocalCache,
    inner::Inner,
    load::{End, Load},
    sync::{ThreadId, thread},
    tags::{TagSet, are_unchanged_since},
};
use crate::Entry;

impl<V> LocalCache<V> {
    /// Returns the value of `key`. If there is no fresh one, calls `load`, and stores and returns its value.
    ///
    /// Of several threads that ask for the same missing key at once, one calls `load` and the others wait for its
    /// value. If `load` panics, the panic goes on and one of the others loads instead. Loads of different keys do not
    /// wait for each other.
    ///
    /// A loaded value is returned only to callers that asked before its key was removed or overwritten, or one of its
    /// tags (or of the tags that they name themselves) was invalidated; in that case it is not stored. So a value that
    /// `load` read before an invalidation is never returned to a caller that asks after it.
    ///
    /// `load` may use the cache. If it asks for the very key that it is loading, that inner call runs its own `load`
    /// instead of waiting for the outer one. Two loads that wait for each other's keys wait forever.
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
    pub fn get_or_insert_with(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        load: impl FnOnce() -> V,
    ) -> Arc<V> {
        match self.try_get_or_insert_with(key, entry, || Ok::<_, Infallible>(load())) {
            Ok(value) => value,
            Err(never) => match *never {},
        }
    }

    /// As [`get_or_insert_with`](Self::get_or_insert_with), with a `load` that may fail. Then nothing is stored, and
    /// callers that waited with the same error type get the error; others, and later callers, load themselves.
    ///
    /// # Errors
    ///
    /// The error of `load`.
    pub fn try_get_or_insert_with<E>(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let me = thread::current().id();
        let entry = self.inner.intern(entry);
        loop {
            match self.join_or_lead(key, &entry.tags, Some(me)) {
                Err(other) if other.thread == Some(me) => {
                    return load().map(Arc::new).map_err(Arc::new);
                }
                Err(other) => {
                    if let Some(outcome) = other.outcome(other.wait()) {
                        return outcome;
                    }
                }
                Ok(lead) => {
                    return match lead.loaded_meanwhile() {
                        Some(value) => Ok(value),
                        None => lead.end_with(load(), entry),
                    };
                }
            }
        }
    }

    /// [`get_or_insert_with`](Self::get_or_insert_with) for async code: waiting does not block the thread.
    ///
    /// Works with every executor. If the future is dropped while it loads, one of the waiting callers loads instead. It
    /// can be mixed with the blocking calls, as long as no thread blocks on a load that needs this very thread to go
    /// on. A load that asks for its own key waits forever.
    pub async fn get_or_insert_async<F>(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        load: impl FnOnce() -> F,
    ) -> Arc<V>
    where
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
    pub async fn try_get_or_insert_async<F, E>(
        &self,
        key: &str,
        entry: Entry<impl IntoIterator<Item: AsRef<str>>>,
        load: impl FnOnce() -> F,
    ) -> Result<Arc<V>, Arc<E>>
    where
        F: Future<Output = Result<V, E>>,
        E: Send + Sync + 'static,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let entry = self.inner.intern(entry);
        loop {
            match self.join_or_lead(key, &entry.tags, None) {
                Err(other) => {
                    if let Some(outcome) = other.outcome(other.ended().await) {
                        return outcome;
                    }
                }
                Ok(lead) => {
                    return match lead.loaded_meanwhile() {
                        Some(value) => Ok(value),
                        None => lead.end_with(load().await, entry),
                    };
                }
            }
        }
    }
}

impl<V: ?Sized> LocalCache<V> {
    /// Begins a load of `key`; `Err`: joins one that is under way. A load is joined only if neither its tags, nor the
    /// caller's, nor everything was invalidated since it began.
    pub(crate) fn join_or_lead(
        &self,
        key: &str,
        tags: &TagSet,
        thread: Option<ThreadId>,
    ) -> Result<Reservation<V>, Arc<Load<V>>> {
        let inner = &*self.inner;
        let is_current = |load: &Load<V>| {
            inner.all.is_unchanged_since(load.stamp)
                && are_unchanged_since(&load.tags, load.stamp)
                && are_unchanged_since(tags, load.stamp)
        };
        let loads = &inner.loads;
        let load = loads.join_or_begin(key, &inner.tags, tags, thread, is_current)?;
        Ok(self.reservation(load))
    }

    fn reservation(&self, load: Arc<Load<V>>) -> Reservation<V> {
        Reservation {
            inner: Arc::clone(&self.inner),
            load,
        }
    }

    /// Announces that a value for `key` is about to be loaded. Call it before the load begins.
    ///
    /// For loads that [`get_or_insert_with`](Self::get_or_insert_with) and its like do not fit, because tags or TTL are
    /// known only afterwards, or several keys are loaded at once. No caller waits for a reservation: it only decides
    /// whether the value may be stored later. O(1), and a little memory until it is filled or dropped.
    pub fn reserve(&self, key: &str) -> Reservation<V> {
        self.reservation(self.inner.loads.reserve(key, &self.inner.tags))
    }
}

/// The right to store a value that is still being loaded, for as long as nothing overtakes it: see
/// [`LocalCache::reserve`].
///
/// It borrows nothing and may be kept across an `await`. Dropping it gives it up.
#[must_use = "it is given up when it is dropped"]
pub struct Reservation<V: ?Sized> {
    inner: Arc<Inner<V>>,
    pub(crate) load: Arc<Load<V>>,
}

impl<V: ?Sized> Reservation<V> {
    /// Stores `value` with the settings of `entry`, unless it was overtaken. Returns whether it was stored.
    ///
    /// It was overtaken if, since the reservation was made, its key was removed or overwritten by
    /// [`set`](LocalCache::set) and its like, everything was invalidated, or one of the tags in `entry` was, hard or
    /// soft. A tag that no entry has carried for some time may count as invalidated.
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
    pub fn fill(self, value: Arc<V>, entry: Entry<impl IntoIterator<Item: AsRef<str>>>) -> bool {
        let entry = self.inner.intern(entry);
        self.inner.fill(&self.load, value, entry)
    }

    /// Whether neither the key nor everything was overtaken so far. Only [`fill`](Self::fill) checks the tags.
    pub fn is_current(&self) -> bool {
        self.inner.all.is_unchanged_since(self.load.stamp) && !self.load.is_overtaken()
    }

    /// Returns a value that another load stored between the caller's lookup and the beginning of this load.
    fn loaded_meanwhile(&self) -> Option<Arc<V>> {
        let value = self.inner.peek_fresh(&self.load.key)?;
        self.load
            .end(End::Loaded(Arc::clone(&value), TagSet::new()));
        Some(value)
    }
}

impl<V> Reservation<V> {
    /// Gives the loader's result to all waiting callers, and stores it if it is a value.
    fn end_with<E>(self, loaded: Result<V, E>, entry: Entry<TagSet>) -> Result<Arc<V>, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        match loaded {
            Ok(value) => {
                let value = Arc::new(value);
                self.inner.fill(&self.load, Arc::clone(&value), entry);
                self.load
                    .end(End::Loaded(Arc::clone(&value), TagSet::new()));
                Ok(value)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.load.end(End::Failed(Arc::<E>::clone(&error)));
                Err(error)
            }
        }
    }
}

/// Calls that only the two-tier cache needs.
#[cfg(feature = "remote")]
impl<V: ?Sized> Reservation<V> {
    /// As [`fill`](Self::fill), for tags that were looked up, and a value that may be stored in several places.
    pub(crate) fn store(&self, value: Arc<V>, entry: Entry<TagSet>) -> bool {
        self.inner.fill(&self.load, value, entry)
    }
}

impl<V: ?Sized> Drop for Reservation<V> {
    fn drop(&mut self) {
        self.inner.loads.release(&self.load);
        self.load.end(End::Abandoned);
    }
}

impl<V: ?Sized> fmt::Debug for Reservation<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({:?})", self.load.key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lead<V: ?Sized>(cache: &LocalCache<V>, tag: &str) -> Reservation<V> {
        let lead = cache.join_or_lead("key", &cache.inner.tags.intern([tag]), None);
        lead.ok().expect("nobody else loads")
    }

    fn join<V: ?Sized>(cache: &LocalCache<V>, tag: &str) -> Option<Arc<Load<V>>> {
        let join = cache.join_or_lead("key", &cache.inner.tags.intern([tag]), None);
        join.err()
    }

    #[test]
    fn waiter_does_not_get_a_value_whose_tag_was_invalidated() {
        let cache = LocalCache::<u32>::new(10);
        let first = lead(&cache, "mine");
        cache.invalidate_tag("theirs");
        let load = join(&cache, "mine").expect("nothing is known against this load");
        first.load.end(End::Loaded(
            Arc::new(7),
            cache.inner.tags.intern(["theirs"]),
        ));
        assert!(load.outcome::<()>(load.wait()).is_none());
        drop(first);

        let second = lead(&cache, "mine");
        let load = join(&cache, "mine").expect("nothing is known against this load");
        second
            .load
            .end(End::Loaded(Arc::new(8), cache.inner.tags.intern(["other"])));
        let loaded = load.outcome::<()>(load.wait());
        assert_eq!(loaded, Some(Ok(Arc::new(8))));
        // The load has ended: new callers load anew.
        assert!(join(&cache, "mine").is_none());
    }

    #[test]
    fn caller_whose_tag_was_invalidated_does_not_join_a_load() {
        let cache = LocalCache::<u32>::new(10);
        let _lead = lead(&cache, "mine");
        cache.invalidate_tag("yours");
        assert!(join(&cache, "mine").is_some());
        assert!(join(&cache, "yours").is_none());
        cache.invalidate_tag("mine");
        assert!(join(&cache, "mine").is_none());
    }

    #[test]
    fn values_are_dropped_without_holding_a_lock() {
        /// Its Drop waits for another thread that uses the key, and the load if there is one.
        struct Waits(LocalCache<Self>, Option<Arc<Load<Self>>>);
        impl Drop for Waits {
            fn drop(&mut self) {
                let (sender, receiver) = std::sync::mpsc::channel();
                let (cache, load) = (self.0.clone(), self.1.take());
                std::thread::spawn(move || {
                    let joined = join(&cache, "tag");
                    cache.remove("key");
                    for load in joined.into_iter().chain(load) {
                        load.wait();
                    }
                    let _ = sender.send(());
                });
                let freely = receiver.recv_timeout(Duration::from_secs(20));
                freely.expect("no lock is held");
            }
        }
        let cache = LocalCache::new(10);
        let value = |load| Waits(cache.clone(), load);
        let end = |load| End::Loaded(Arc::new(value(load)), TagSet::new());
        let first = lead(&cache, "tag");
        first.load.end(end(None));
        // Only the first end counts: this value is dropped here.
        first.load.end(end(Some(Arc::clone(&first.load))));
        cache.remove("key");
        assert!(!first.fill(Arc::new(value(None)), Entry::forever()));
        cache.set_with("key", value(None), Entry::forever());
        cache.set_with("key", value(None), Entry::forever());
        cache.set("key", value(None), Duration::ZERO, []);
    }
}
