use std::time::Duration;

/// How a value is kept: for how long, under which tags, and with which weight.
///
/// Building an `Entry` costs nothing: its tags are read only when a value is stored. So a call such as
/// [`LocalCache::get_or_insert_with`](crate::LocalCache::get_or_insert_with) that finds its key allocates nothing.
///
/// ```
/// use std::time::Duration;
/// use tagcache::Entry;
///
/// let minute = Entry::ttl(Duration::from_secs(60));
/// let tagged = minute.grace(Duration::from_secs(30)).tags(["users", "tenant:7"]);
/// let owned: Vec<String> = vec!["users".into()];
/// let from_owned = minute.tags(&owned);
/// # let _ = (tagged, from_owned);
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Entry<T = [&'static str; 0]> {
    pub(crate) ttl: Duration,
    pub(crate) grace: Duration,
    pub(crate) weight: Option<u64>,
    /// Settings that matter only for values that are loaded through a server.
    #[cfg(feature = "remote")]
    pub(crate) load: crate::cache::LoadOptions,
    pub(crate) tags: T,
}

impl Entry {
    /// An entry that is fresh for `ttl` from the moment at which it is stored.
    ///
    /// With [`Duration::ZERO`] nothing is stored. A TTL that reaches further than about 584 years, such as
    /// [`Duration::MAX`], never expires.
    pub const fn ttl(ttl: Duration) -> Self {
        Self {
            ttl,
            grace: Duration::ZERO,
            weight: None,
            #[cfg(feature = "remote")]
            load: crate::cache::LoadOptions::DEFAULT,
            tags: [],
        }
    }

    /// An entry that never expires. It still leaves by eviction, by removal and through its tags.
    pub const fn forever() -> Self {
        Self::ttl(Duration::MAX)
    }
}

impl<T> Entry<T> {
    /// Keeps the value for `grace` after it stops being fresh: calls that accept stale values may return it then.
    ///
    /// Plain reads never return a stale value. Default: zero.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// States the weight of the value in bytes instead of asking the cache's weigher.
    ///
    /// The cache adds the bytes that it needs itself for key, tags and bookkeeping.
    pub fn weight(mut self, bytes: u64) -> Self {
        self.weight = Some(bytes);
        self
    }

    /// Sets the tags, in place of those set before. A tag that is named twice counts once.
    pub fn tags<U: IntoIterator<Item: AsRef<str>>>(self, tags: U) -> Entry<U> {
        self.map_tags(|_| tags)
    }

    pub(crate) fn map_tags<U>(self, map: impl FnOnce(T) -> U) -> Entry<U> {
        Entry {
            ttl: self.ttl,
            grace: self.grace,
            weight: self.weight,
            #[cfg(feature = "remote")]
            load: self.load,
            tags: map(self.tags),
        }
    }
}
