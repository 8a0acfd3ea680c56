//! What the module knows, and the one way to it.

use std::cell::{RefCell, RefMut};

use crate::config::Config;
use crate::engine::{Database, Index, Slot};
use crate::entry::{Entry, Handle};

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
    /// Entries that arrived too late, to be removed here and on the replicas: database and key.
    pub(crate) condemned: Vec<(u32, Vec<u8>)>,
}

/// The entry that `unlink` saw last.
///
/// RENAME and MOVE take the value out under one name and bring the same object back under another; in between, its
/// tags are kept here. The name tells an "expired" or "evicted" event of an entry from that of another key.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    pub(crate) entry: Option<Handle>,
    pub(crate) db: u32,
    pub(crate) key: Vec<u8>,
    /// Number and bytes of the tags, one after the other.
    pub(crate) tags: Vec<Vec<u8>>,
    pub(crate) tag_count: usize,
    pub(crate) was_gone: bool,
}

impl Parked {
    /// Remembers an entry that leaves the keyspace. The buffers are reused: this runs for every expiry and eviction.
    pub(crate) fn set<'t>(
        &mut self,
        entry: Handle,
        db: u32,
        key: &[u8],
        tags: impl Iterator<Item = &'t [u8]>,
    ) {
        self.entry = Some(entry);
        self.db = db;
        self.key.clear();
        self.key.extend_from_slice(key);
        self.tag_count = 0;
        for tag in tags {
            if self.tags.len() == self.tag_count {
                self.tags.push(Vec::new());
            }
            let buffer = &mut self.tags[self.tag_count];
            buffer.clear();
            buffer.extend_from_slice(tag);
            self.tag_count += 1;
        }
    }

    /// Forgets it. Called by what removes entries itself, so that no later event is taken for theirs.
    pub(crate) fn clear(&mut self) {
        self.entry = None;
    }

    pub(crate) fn is(&self, key: &[u8]) -> bool {
        self.entry.is_some() && self.key == key
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

    /// Numbers of the databases that have something to reclaim.
    pub(crate) fn backlogged(&self) -> Vec<u32> {
        self.databases()
            .filter(|(_, database)| database.index.has_backlog())
            .map(|(number, _)| number)
            .collect()
    }

    pub(crate) fn swap_databases(&mut self, first: u32, second: u32) {
        self.database(first.max(second));
        self.databases.swap(first as usize, second as usize);
        for (number, _) in &mut self.condemned {
            *number = match *number {
                n if n == first => second,
                n if n == second => first,
                n => n,
            };
        }
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
        !self.condemned.is_empty() || self.databases().any(|(_, db)| db.index.has_backlog())
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

/// The key of the entry in a slot that is in use.
pub(crate) fn entry_key(index: &Index<Handle>, slot: Slot) -> &[u8] {
    // SAFETY: invariant 1: an entry in the index is in the keyspace, and it can leave only through `&mut Index`.
    unsafe { Entry::from_handle(index.entry(slot)) }.key()
}
