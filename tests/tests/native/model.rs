//! The expected contents of the databases, tracked by the test one operation after the other.
//!
//! Where the contract leaves a choice (some native commands may still see a gone entry until it is reclaimed), the
//! model adopts the server's reply, and expects it from then on.

use std::collections::{BTreeMap, BTreeSet};

use tagcache_tests::Reply;
use tagcache_tests::look::{Inspected, inspected};

use crate::operation::Where;

pub(crate) type Bytes = Vec<u8>;

/// An entry, as the model knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    pub(crate) tags: Vec<Bytes>,
    /// None where the documentation does not define it.
    pub(crate) expires: Option<bool>,
    /// Whether it may be stale instead of gone.
    pub(crate) grace: bool,
    pub(crate) state: State,
    /// None where the documentation does not define them, such as after COPY.
    pub(crate) hits: Option<i64>,
    /// The operation that wrote it, by the count of operations.
    pub(crate) written: u64,
}

/// Whether GET serves an entry, or only FETCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Fresh,
    Stale,
}

impl Entry {
    /// Its tag was invalidated softly, and it has a grace.
    pub(crate) fn soften(&mut self) {
        self.state = State::Stale;
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Key {
    Entry(Entry),
    /// Another type, by its name.
    Other(&'static str),
}

/// One database.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) keys: BTreeMap<Bytes, Key>,
    /// Keys that may still hold an entry that is gone.
    pub(crate) limbo: BTreeSet<Bytes>,
    /// Expired keys that the server may not have removed yet: no command sees them, but sums include them.
    pub(crate) expired: BTreeSet<Bytes>,
    /// None after native flushes, whose effect on it is not documented.
    pub(crate) clock: Option<i64>,
    /// The operation that invalidated a tag last.
    invalidated: BTreeMap<Bytes, u64>,
    /// The operation that softly invalidated a tag last.
    softened: BTreeMap<Bytes, u64>,
    /// The last CACHE.FLUSH.
    flushed: u64,
    /// The operation that runs.
    pub(crate) now: u64,
}

impl Database {
    pub(crate) fn new() -> Self {
        let (keys, invalidated) = (BTreeMap::new(), BTreeMap::new());
        let (limbo, expired) = (BTreeSet::new(), BTreeSet::new());
        Self {
            keys,
            limbo,
            expired,
            clock: Some(0),
            invalidated,
            softened: BTreeMap::new(),
            flushed: 0,
            now: 0,
        }
    }

    pub(crate) fn entry(&self, key: &[u8]) -> Option<&Entry> {
        if let Some(Key::Entry(entry)) = self.keys.get(key) {
            Some(entry)
        } else {
            None
        }
    }

    pub(crate) fn entry_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        if let Some(Key::Entry(entry)) = self.keys.get_mut(key) {
            Some(entry)
        } else {
            None
        }
    }

    pub(crate) fn other(&self, key: &[u8]) -> Option<&'static str> {
        if let Some(Key::Other(kind)) = self.keys.get(key) {
            Some(kind)
        } else {
            None
        }
    }

    /// Whether it is unknown if the key physically exists.
    pub(crate) fn unsure(&self, key: &[u8]) -> bool {
        !self.keys.contains_key(key) && self.limbo.contains(key)
    }

    pub(crate) fn put(&mut self, key: &[u8], value: Key) {
        self.limbo.remove(key);
        self.keys.insert(key.to_vec(), value);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Key> {
        self.limbo.remove(key);
        self.keys.remove(key)
    }

    /// The entry expires.
    pub(crate) fn expire(&mut self, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.expired.insert(key.to_vec());
        }
    }

    /// The key now holds a gone entry, or nothing.
    pub(crate) fn lose(&mut self, key: &[u8]) {
        self.keys.remove(key);
        self.limbo.insert(key.to_vec());
    }

    pub(crate) fn keys_of_tag(&self, tag: &[u8]) -> BTreeSet<Bytes> {
        let has =
            |value: &Key| matches!(value, Key::Entry(entry) if entry.tags.iter().any(|t| t == tag));
        self.keys
            .iter()
            .filter(|(_, value)| has(value))
            .map(|(key, _)| key.clone())
            .collect()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Bytes, &Entry)> {
        self.keys.iter().filter_map(|(key, value)| match value {
            Key::Entry(entry) => Some((key, entry)),
            Key::Other(_) => None,
        })
    }

    /// Returns the number of dropped (entry, tag) pairs.
    pub(crate) fn invalidate(&mut self, tags: &[Bytes]) -> i64 {
        let tags: BTreeSet<&Bytes> = tags.iter().collect();
        let mut pairs = 0;
        let mut lost = BTreeSet::new();
        for tag in tags {
            let keys = self.keys_of_tag(tag);
            pairs += keys.len() as i64;
            lost.extend(keys);
            self.invalidated.insert(tag.clone(), self.now);
        }
        for key in &lost {
            self.lose(key);
        }
        self.clock = self.clock.map(|clock| clock + 1);
        pairs
    }

    /// Makes the entries of these tags stale, or gone if they have no grace. Returns the number of pairs.
    pub(crate) fn revalidate(&mut self, tags: &[Bytes]) -> i64 {
        let tags: BTreeSet<&Bytes> = tags.iter().collect();
        let mut pairs = 0;
        let mut meant = BTreeSet::new();
        for tag in tags {
            let keys = self.keys_of_tag(tag);
            pairs += keys.len() as i64;
            meant.extend(keys);
            self.softened.insert(tag.clone(), self.now);
        }
        for key in &meant {
            self.soften(key);
        }
        self.clock = self.clock.map(|clock| clock + 1);
        pairs
    }

    fn soften(&mut self, key: &[u8]) {
        match self.entry_mut(key) {
            Some(entry) if entry.grace => entry.soften(),
            _ => self.lose(key),
        }
    }

    /// CACHE.INVALIDATEWHERE: returns the number of entries.
    pub(crate) fn invalidate_where(&mut self, what: &Where) -> i64 {
        let meant = self.entries().filter(|(_, entry)| what.meets(entry));
        let keys: Vec<Bytes> = meant.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            if what.soft {
                self.soften(key);
            } else {
                self.lose(key);
            }
        }
        // An entry that arrives with one of these tags counts as a selected one.
        let at = self.now;
        let times = if what.soft {
            &mut self.softened
        } else {
            &mut self.invalidated
        };
        times.extend(what.all.iter().map(|tag| (tag.clone(), at)));
        self.clock = self.clock.map(|clock| clock + 1);
        keys.len() as i64
    }

    /// CACHE.FLUSH: returns the number of entries.
    pub(crate) fn flush_entries(&mut self) -> i64 {
        let keys: Vec<Bytes> = self.entries().map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.lose(key);
        }
        self.clock = self.clock.map(|clock| clock + 1);
        self.flushed = self.now;
        keys.len() as i64
    }

    /// FLUSHDB.
    pub(crate) fn flush(&mut self) {
        self.keys.clear();
        self.limbo.clear();
        self.expired.clear();
        self.clock = None;
    }

    /// Puts an arriving entry under a key: it is gone if one of its tags was invalidated here after it was written.
    pub(crate) fn arrive(&mut self, key: &[u8], entry: Entry) {
        let is_since = |by_tag: &BTreeMap<Bytes, u64>| {
            let mut tags = entry.tags.iter();
            tags.any(|tag| by_tag.get(tag).is_some_and(|&at| at > entry.written))
        };
        let is_dropped = self.flushed > entry.written || is_since(&self.invalidated);
        if is_dropped || (is_since(&self.softened) && entry.state == State::Fresh) {
            self.lose(key);
        } else {
            self.put(key, Key::Entry(entry));
        }
    }

    /// Compares a reply of CACHE.INSPECT with the known state of the key, and takes the hits from it.
    pub(crate) fn check_inspected(&mut self, key: &[u8], reply: &Reply, at: &str) {
        let name = key.escape_ascii();
        if self.other(key).is_some() {
            assert!(
                reply.is_error(),
                "{at}: INSPECT of {name}, another type: {reply:?}"
            );
            return;
        }
        let seen: Option<Inspected> = inspected(reply);
        match (self.entry_mut(key), seen) {
            (None, None) => {}
            (Some(entry), Some(seen)) => {
                assert_eq!(seen.tags, entry.tags, "{at}: tags of {name}");
                assert_eq!(
                    seen.bytes,
                    entry.value.len() as i64,
                    "{at}: bytes of {name}"
                );
                let state = if entry.state == State::Stale {
                    "stale"
                } else {
                    "fresh"
                };
                assert_eq!(seen.state, state, "{at}: state of {name}");
                // For a stale entry, INSPECT returns no time; the native time stays the same.
                if entry.state == State::Fresh {
                    let expires = *entry.expires.get_or_insert(seen.expires);
                    assert_eq!(seen.expires, expires, "{at}: expiry of {name}");
                }
                let hits = *entry.hits.get_or_insert(seen.hits);
                assert_eq!(seen.hits, hits, "{at}: hits of {name}");
            }
            (entry, seen) => panic!("{at}: {name}: expected {entry:?}, INSPECT says {seen:?}"),
        }
    }
}
