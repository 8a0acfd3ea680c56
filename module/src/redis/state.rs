//! What the module knows, and the one way to it.

use std::cell::{RefCell, RefMut};
use std::collections::HashMap;

use ahash::RandomState;

use super::waiting::Waiters;
use crate::config::Config;
use crate::engine::{Database, Index, Slot};
use crate::entry::{Carried, Entry, Handle};

/// All of the module's memory between callbacks.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// By number; boxed, because servers may be set up for very many of which few are used.
    databases: Vec<Option<Box<Database<Handle>>>>,
    pub(crate) config: Config,
    pub(crate) parked: Parked,
    /// A key is being removed by the module itself.
    pub(crate) removing: bool,
    /// The clocks were written to the append-only file that is being rewritten. Set in the child that does it.
    pub(crate) clocks_rewritten: bool,
    /// A timer of `reclaim` is under way.
    pub(crate) reclaim_armed: bool,
    /// The gone entry that was removed last inside MULTI, by whatever: database and key.
    pub(crate) removed_gone: Option<(u32, Vec<u8>)>,
    /// What the primary decided of the entry that comes next by RESTORE: database, key, and what becomes of it.
    pub(crate) decided: Option<(u32, Vec<u8>, Decision)>,
    /// Clients that wait in CACHE.FETCH.
    pub(crate) waiters: Waiters,
    /// Users that were looked at lately: when, and whether they have selectors.
    pub(crate) selectors: HashMap<Vec<u8>, (u64, bool), RandomState>,
    /// The epoch of the cluster when it was looked at last.
    pub(crate) cluster_epoch: Option<u64>,
}

/// What becomes of an entry that arrives although one of its tags was invalidated just before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Gone,
    /// It was a soft invalidation, then (unix ms).
    StaleSince(u64),
}

/// The entry that `unlink` saw last.
///
/// RENAME and MOVE take the value out under one name and bring the same object back under another; in between, its
/// tags are kept here. The name tells an "expired" or "evicted" event of an entry from that of another key.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    pub(crate) entry: Option<Handle>,
    pub(crate) was_gone: bool,
    tags: Vec<Vec<u8>>,
    tag_count: usize,
    soft_since_ms: Option<u64>,
    /// The two places that were vacated last, the last one first: RENAME vacates that of the new name, then that of
    /// the old.
    places: [Vacated; 2],
}

/// The slot that an entry of this name had.
#[derive(Debug, Default)]
struct Vacated {
    db: u32,
    slot: u32,
    key: Vec<u8>,
}

/// Puts bytes into a buffer that is used again and again, and does not keep a large one for small contents.
fn refill(buffer: &mut Vec<u8>, bytes: &[u8]) {
    const KEPT: usize = 1024;
    if buffer.capacity() > KEPT && bytes.len() <= KEPT {
        *buffer = Vec::new();
    }
    buffer.clear();
    buffer.extend_from_slice(bytes);
}

impl Parked {
    /// Remembers an entry that leaves the keyspace. This runs for every expiry and eviction, hence the buffers.
    pub(crate) fn set<'t>(
        &mut self,
        entry: Entry<'_>,
        db: u32,
        slot: Slot,
        tags: impl Iterator<Item = &'t [u8]>,
        soft_since_ms: Option<u64>,
    ) {
        const KEPT: usize = 16;
        self.entry = Some(entry.handle());
        self.soft_since_ms = soft_since_ms;
        self.places.swap(0, 1);
        self.places[0].db = db;
        self.places[0].slot = slot.0;
        refill(&mut self.places[0].key, entry.key());
        self.tag_count = 0;
        for tag in tags {
            if self.tags.len() == self.tag_count {
                self.tags.push(Vec::new());
            }
            refill(&mut self.tags[self.tag_count], tag);
            self.tag_count += 1;
        }
        self.tags.truncate(self.tag_count.max(KEPT));
    }

    /// Forgets the entry, though not its place. Called by what removes entries itself, so that no later event is taken
    /// for theirs.
    pub(crate) fn clear(&mut self) {
        self.entry = None;
    }

    /// What the entry that was seen last had with it.
    pub(crate) fn carried(&self) -> Carried<Vec<u8>> {
        Carried {
            tags: self.tags[..self.tag_count].to_vec(),
            soft_since_ms: self.soft_since_ms,
        }
    }

    /// The database of the entry that was seen last, if this was its name.
    pub(crate) fn db_of(&self, key: &[u8]) -> Option<u32> {
        let last = &self.places[0];
        (self.entry.is_some() && last.key == key).then_some(last.db)
    }

    /// The slot that an entry of this name had just before.
    pub(crate) fn vacated(&self, db: u32, key: &[u8]) -> Option<Slot> {
        let mut places = self.places.iter();
        places
            .find(|place| place.db == db && place.key == key)
            .map(|place| Slot(place.slot))
    }
}

impl State {
    /// The database with this number, made on first use.
    pub(crate) fn database(&mut self, number: u32) -> &mut Database<Handle> {
        let at = number as usize;
        if at >= self.databases.len() {
            self.databases.resize_with(at + 1, || None);
        }
        self.databases[at].get_or_insert_default()
    }

    /// All databases that were ever used, with their numbers.
    pub(crate) fn databases(&self) -> impl Iterator<Item = (u32, &Database<Handle>)> {
        let numbered = (0..).zip(&self.databases);
        numbered.filter_map(|(number, database)| Some((number, database.as_deref()?)))
    }

    pub(crate) fn databases_mut(&mut self) -> impl Iterator<Item = &mut Database<Handle>> {
        self.databases.iter_mut().filter_map(Option::as_deref_mut)
    }

    /// Numbers of the databases that have something to do in the background.
    pub(crate) fn with_work(&self, now_ms: u64) -> Vec<u32> {
        self.databases()
            .filter(|(_, database)| database.index.has_work(now_ms))
            .map(|(number, _)| number)
            .collect()
    }

    pub(crate) fn swap_databases(&mut self, first: u32, second: u32) {
        self.database(first.max(second));
        self.databases.swap(first as usize, second as usize);
    }

    /// The database whose index holds this entry: `hint` if it is known, else a search.
    pub(crate) fn database_of(&self, entry: Entry<'_>, hint: Option<u32>) -> Option<(u32, Slot)> {
        let slot = Slot(entry.slot()?);
        let holds = |database: &Database<Handle>| database.index.holds(slot, entry.handle());
        let hinted = hint.filter(|&number| {
            let database = self
                .databases
                .get(number as usize)
                .and_then(Option::as_deref);
            database.is_some_and(holds)
        });
        hinted
            .or_else(|| {
                let mut all = self.databases();
                all.find(|(_, database)| holds(database))
                    .map(|(number, _)| number)
            })
            .map(|number| (number, slot))
    }

    /// Whether some database has something to reclaim.
    pub(crate) fn has_backlog(&self) -> bool {
        self.databases().any(|(_, db)| db.index.has_backlog())
    }

    /// Whether some database knows of a lease.
    pub(crate) fn has_leases(&self) -> bool {
        self.databases().any(|(_, db)| !db.leases.is_empty())
    }

    /// Whether some database has something to do in the background.
    pub(crate) fn has_work(&self, now_ms: u64) -> bool {
        self.databases().any(|(_, db)| db.index.has_work(now_ms))
    }
}

/// A value that only the server's main thread touches.
struct MainThread<T>(RefCell<T>);

// SAFETY: the server calls the module on its main thread only, except `free`, which does not come here; a forked child
// has this memory to itself.
unsafe impl<T> Sync for MainThread<T> {}

static STATE: MainThread<Option<State>> = MainThread(RefCell::new(None));

/// Makes the state. Called once, by `load`.
pub(crate) fn init(config: Config) {
    *STATE.0.borrow_mut() = Some(State {
        config,
        ..State::default()
    });
}

fn borrow() -> Option<RefMut<'static, State>> {
    RefMut::filter_map(STATE.0.try_borrow_mut().ok()?, Option::as_mut).ok()
}

/// Runs `body` with the state. Never call the server from within, where that can call back.
pub(crate) fn with<R>(body: impl FnOnce(&mut State) -> R) -> R {
    body(
        &mut borrow()
            .expect("the state is made by `load` and is not held across calls to the server"),
    )
}

/// As [`with`], for the report of a crash that may have happened inside it.
pub(crate) fn try_with<R>(body: impl FnOnce(&mut State) -> R) -> Option<R> {
    borrow().map(|mut state| body(&mut state))
}

/// The entry in a slot that is in use.
pub(crate) fn entry_in(index: &Index<Handle>, slot: Slot) -> Entry<'_> {
    // SAFETY: invariant 1: an entry in the index is in the keyspace, and it can leave only through `&mut Index`.
    unsafe { Entry::from_handle(index.entry(slot)) }
}

/// The key of the entry in a slot that is in use.
pub(crate) fn entry_key(index: &Index<Handle>, slot: Slot) -> &[u8] {
    entry_in(index, slot).key()
}
