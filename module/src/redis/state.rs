//! The module's state, and the only way to it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use super::cluster::Watched;
use super::copies::Seen;
use super::filter::Registered;
use super::transit::{Transfer, Transit};
use super::waiting::Waiters;
use super::{own, propagation};
use crate::config::Config;
use crate::engine::{
    Database, FURTHEST_MS, Index, Invalidation, MOST, Pace, Seeded, Slot, Stamps, Terms,
};
use crate::entry::{Entry, Handle};
use crate::leb128;

/// All of the module's memory between callbacks.
#[derive(Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each one is a fact of its own, not a state of one thing"
)]
pub(crate) struct State {
    /// By number. Boxed, because a server may be set up for a large number of databases and use few.
    databases: Databases,
    /// The databases that a replica loads beside those that it serves (`repl-diskless-load swapdb`).
    staged: Option<Staged>,
    pub(crate) config: Config,
    /// A random number that changes when this node begins to serve from data that may lack invalidations.
    pub(crate) lineage: u64,
    /// Use [`State::stamps_at`] to get it.
    pub(crate) stamps: Stamps,
    pub(crate) transit: Transit,
    /// The module itself is removing a key.
    pub(crate) removing: bool,
    /// In the child that rewrites the append-only file: [`State::histories`] was written to it.
    pub(crate) histories_rewritten: bool,
    /// A timer of `reclaim` is pending.
    pub(crate) reclaim_armed: bool,
    pub(crate) reclaim_pace: Pace,
    /// Installed while there is a backlog.
    pub(super) filter: Option<Registered>,
    /// Clients in front of whose commands the filter may look at keys.
    pub(super) touching: HashSet<u64, Seeded>,
    /// The filter reclaims, in front of a client's command.
    pub(crate) in_filter: bool,
    /// A key has expired since this was set to false.
    pub(crate) expired: bool,
    /// The last gone entry that something other than the module removed, until the next event, or until any entry comes
    /// or goes: database and key.
    pub(crate) removed_gone: Option<(u32, Vec<u8>)>,
    /// While a MOVE or COPY runs: the database that its client selected, from which the entry comes.
    pub(crate) selected: Option<u32>,
    /// The COPYs that are about to run, on servers that forget the client's database.
    pub(super) copies: Seen,
    /// Entries that were gone when they arrived, which replicas do not know yet: database and key.
    pub(crate) refused: Vec<(u32, Box<[u8]>)>,
    /// All entries that this node loaded at its start were dropped, which replicas do not know yet.
    pub(crate) has_dropped: bool,
    /// On a replica in a cluster: the entry to be reclaimed next. It has expired: only its primary's commands see it.
    pub(crate) hidden: Option<(u32, Vec<u8>)>,
    /// The position of the search for entries that an emptied index does not know: database and cursor.
    pub(super) orphans: Option<(u32, String)>,
    /// When this search goes on, on the monotonic clock, ms.
    pub(super) search_from_ms: u64,
    /// The file that is being loaded may lack invalidations: its entries are dropped (`tagcache.after-restart drop`).
    pub(crate) drops_loaded: bool,
    /// Loaded entries join a database that may know later invalidations (DEBUG RELOAD NOFLUSH).
    pub(crate) checks_loaded: bool,
    /// Something was loaded since the module started.
    pub(crate) has_loaded: bool,
    /// The time of day less the time since the machine's start, at the last look at the clock, ms.
    clocks_apart_ms: Option<i64>,
    /// How often the clock was set back.
    passes: u32,
    /// Clients that wait in CACHE.FETCH.
    pub(crate) waiters: Waiters,
    /// Set while there are leases, in a cluster.
    pub(crate) cluster: Option<Watched>,
}

/// A clock that goes back by less counts as slewed. If it was set back, stamps get ahead of it.
const SET_BACK_MS: u64 = 500;

/// No database has this number.
const PASSED_TWICE: u64 = 1 << 32;

/// Databases by number.
type Databases = Vec<Option<Box<Database<Handle>>>>;

/// The database with this number, made on first use.
#[inline]
fn database_in(databases: &mut Databases, number: u32) -> &mut Database<Handle> {
    let at = number as usize;
    if matches!(databases.get(at), Some(Some(_))) {
        databases[at].as_mut().expect("it was just seen")
    } else {
        add_database(databases, at)
    }
}

#[cold]
fn add_database(databases: &mut Databases, at: usize) -> &mut Database<Handle> {
    if at >= databases.len() {
        databases.resize_with(at + 1, || None);
    }
    databases[at].insert(Box::default())
}

/// Databases that are being loaded and are not served yet.
#[derive(Debug, Default)]
struct Staged {
    databases: Databases,
    /// The indexes may disagree with what is loaded.
    are_distrusted: bool,
}

impl State {
    /// The database with this number, made on first use.
    #[inline]
    pub(crate) fn database(&mut self, number: u32) -> &mut Database<Handle> {
        database_in(&mut self.databases, number)
    }

    /// The entries in transit and a database, to be changed together.
    pub(crate) fn transit_and(&mut self, number: u32) -> (&mut Transit, &mut Database<Handle>) {
        (&mut self.transit, database_in(&mut self.databases, number))
    }

    /// The database with this number that is being loaded: a staged one if any are staged, else the one that is served.
    pub(crate) fn loaded_database(&mut self, number: u32) -> &mut Database<Handle> {
        let staged = self.staged.as_mut().map(|staged| &mut staged.databases);
        database_in(staged.unwrap_or(&mut self.databases), number)
    }

    /// From now on, loaded entries go to staged databases.
    pub(crate) fn stage(&mut self) {
        self.staged = Some(Staged::default());
    }

    pub(crate) const fn is_staging(&self) -> bool {
        self.staged.is_some()
    }

    /// The staged indexes, of this database and others, may disagree with what is loaded.
    pub(crate) fn distrust_staged(&mut self, number: u32) {
        if let Some(staged) = &mut self.staged {
            staged.are_distrusted = true;
            database_in(&mut staged.databases, number);
        }
    }

    /// The place for an entry that is about to arrive. If a client's command came between the load of a staged entry
    /// and the event that announces it, that entry is searched for after the load.
    pub(crate) fn arriving(&mut self) -> &mut Transfer {
        let overtaken = self.transit.arriving.awaited();
        if let (Some(staged), Some(number)) = (&mut self.staged, overtaken) {
            database_in(&mut staged.databases, number).index.has_orphans = true;
        }
        &mut self.transit.arriving
    }

    /// Gives up the staged databases. Returns their indexes, to be dropped where this delays no client.
    pub(crate) fn unstage(&mut self) -> Vec<Index<Handle>> {
        let staged = self.staged.take().unwrap_or_default();
        let databases = staged.databases.into_iter().flatten();
        databases
            .map(|mut database| database.take_index())
            .collect()
    }

    /// Serves the staged databases: each index replaces the served one, with its clock and history. Counters and leases
    /// stay. Returns the old indexes, as [`State::unstage`] does.
    pub(crate) fn serve_staged(&mut self) -> Vec<Index<Handle>> {
        let mut staged = self.staged.take().unwrap_or_else(|| Staged {
            are_distrusted: true,
            ..Staged::default()
        });
        let count = staged.databases.len().max(self.databases.len());
        let mut old = Vec::new();
        for number in 0..count as u32 {
            let new = std::mem::take(database_in(&mut staged.databases, number));
            let database = self.database(number);
            old.push(std::mem::replace(&mut database.index, new.index));
            database.history = new.history;
            database.clock = new.clock;
            if staged.are_distrusted {
                old.push(database.take_index());
                database.index.has_orphans = true;
            }
        }
        self.transit.clear();
        self.orphans = None;
        self.removed_gone = None;
        old
    }

    /// All databases that were ever used, with their numbers.
    pub(crate) fn databases(&self) -> impl Iterator<Item = (u32, &Database<Handle>)> {
        let numbered = (0..).zip(&self.databases);
        numbered.filter_map(|(number, database)| Some((number, database.as_deref()?)))
    }

    pub(crate) fn databases_mut(&mut self) -> impl Iterator<Item = (u32, &mut Database<Handle>)> {
        let numbered = (0..).zip(&mut self.databases);
        numbered.filter_map(|(number, database)| Some((number, database.as_deref_mut()?)))
    }

    pub(crate) fn swap_databases(&mut self, first: u32, second: u32) {
        self.database(first.max(second));
        self.databases.swap(first as usize, second as usize);
        self.orphans = None;
        self.removed_gone = None;
        for (db, _) in &mut self.refused {
            if [first, second].contains(db) {
                *db ^= first ^ second; // The other one.
            }
        }
    }

    /// The database whose index holds this entry: `hint` if that is right, else by a search.
    pub(crate) fn database_of(&self, entry: Entry<'_>, hint: Option<u32>) -> Option<(u32, Slot)> {
        let slot = entry.slot()?;
        let holds = |database: &Database<Handle>| database.index.holds(slot, entry.handle());
        let hinted = hint.filter(|&number| {
            let database = self.databases.get(number as usize);
            database.is_some_and(|database| database.as_deref().is_some_and(holds))
        });
        let search = || self.databases().find(|(_, database)| holds(database));
        let number = hinted.or_else(|| search().map(|(number, _)| number))?;
        Some((number, slot))
    }

    /// If the time of day went backwards, bounds all times by it: stamps only where this node gives them.
    #[inline(never)]
    pub(crate) fn watch_clock(&mut self, now_ms: u64, monotonic_ms: u64) {
        let apart_ms = now_ms as i64 - monotonic_ms as i64;
        let last = self.clocks_apart_ms.replace(apart_ms);
        let step_ms = last.map_or(0, |last| last - apart_ms);
        let decides = propagation::decides();
        let back_ms = if step_ms > SET_BACK_MS as i64 {
            step_ms as u64
        } else if decides {
            self.stamps.lag_ms(now_ms)
        } else {
            0
        };
        if back_ms > 0 {
            let from_ms = now_ms + back_ms;
            for (_, database) in self.databases_mut() {
                database.bound_spans(from_ms, now_ms);
            }
            if decides {
                // Stamps may have been ahead of the clock, after those of another primary.
                let latest_ms = self.stamps.now_ms(from_ms);
                self.stamps_were_set_back(latest_ms, now_ms);
            }
        }
    }

    /// The clock that gives the stamps was set back, from one time to another.
    fn stamps_were_set_back(&mut self, from_ms: u64, back_to_ms: u64) {
        self.passes = self.passes.wrapping_add(1);
        self.stamps.clock_was_set_back(from_ms, back_to_ms);
        for (_, database) in self.databases_mut() {
            database.stamps_were_set_back(back_to_ms);
        }
    }

    /// The origin in entries that this node dumps: their stamps are by its clock, since that was last set back, in this
    /// lineage.
    pub(crate) const fn origin(&self) -> u32 {
        (self.lineage as u32).wrapping_add(self.passes)
    }

    /// The stamps, after a look at the clock if they are far ahead of it.
    #[inline(always)]
    pub(crate) fn stamps_at(
        &mut self,
        now_ms: u64,
        monotonic_ms: impl FnOnce() -> u64,
    ) -> &mut Stamps {
        if self.stamps.are_ahead(now_ms) {
            self.watch_clock(now_ms, monotonic_ms());
        }
        &mut self.stamps
    }

    /// The stamp of an invalidation that has `at_ms` in the stream of this node's primary or in its log. If `at_ms` is
    /// earlier than the stamps before it, the clock that gave it was set back.
    pub(crate) fn follow_invalidation(&mut self, at_ms: u64) -> u64 {
        let behind_ms = self.stamps.behind_ms(at_ms);
        if behind_ms > SET_BACK_MS {
            self.stamps_were_set_back(at_ms + behind_ms, at_ms);
            return at_ms;
        }
        self.stamps.follow(at_ms + behind_ms);
        at_ms + behind_ms
    }

    /// This node begins to serve as a primary, from the data that it has.
    pub(crate) fn begin_lineage(&mut self, lineage: u64) {
        self.lineage = lineage;
        for (_, database) in self.databases_mut() {
            database.start = database.clock;
        }
    }

    /// This node begins to give stamps by its own clock. If those of its earlier life or of its primary are too far
    /// ahead to continue after them, the clock was set back. O(tags remembered).
    pub(crate) fn begin_stamps(&mut self, now_ms: u64) {
        let latest_ms = self.stamps.now_ms(now_ms);
        if latest_ms > now_ms + FURTHEST_MS {
            for (_, database) in self.databases_mut() {
                database.bound_spans(latest_ms, now_ms);
            }
            self.stamps_were_set_back(latest_ms, now_ms);
        }
    }

    /// The clocks and histories of all databases, as they are saved: for each database its number and its clock, both
    /// LEB128, and its [`History`](crate::engine::History). If the clock passes a span twice, [`PASSED_TWICE`] and this
    /// span, from earliest to latest, come first.
    pub(crate) fn histories(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some((earliest, latest)) = self.stamps.passed_twice {
            for number in [PASSED_TWICE, earliest, latest] {
                leb128::push(&mut bytes, number);
            }
        }
        for (number, database) in self.databases().filter(|(_, db)| db.has_history()) {
            leb128::push(&mut bytes, number.into());
            leb128::push(&mut bytes, database.clock);
            database.history.encode(&mut bytes);
        }
        bytes
    }

    /// Adds what [`State::histories`] returned to these databases. Returns `None` if it is damaged; some of it is added
    /// then. It may come from a server with more databases: the histories of those are dropped.
    pub(crate) fn load_histories(
        &mut self,
        mut bytes: &[u8],
        database: fn(&mut Self, u32) -> &mut Database<Handle>,
    ) -> Option<()> {
        /// The clock is an integer of the protocol.
        const MAX_CLOCK: u64 = i64::MAX as u64;
        while !bytes.is_empty() {
            let number = leb128::take(&mut bytes)?;
            if number == PASSED_TWICE {
                let (earliest, latest) = (leb128::take(&mut bytes)?, leb128::take(&mut bytes)?);
                self.stamps.pass_twice(earliest, latest);
                continue;
            }
            let number = u32::try_from(number).ok()?;
            let reading = leb128::take(&mut bytes).filter(|&reading| reading <= MAX_CLOCK)?;
            let mut none = Database::default();
            let database = if own().select(number) {
                database(self, number)
            } else {
                &mut none
            };
            database.clock = database.clock.max(reading);
            database.history.load(&mut bytes)?;
        }
        Some(())
    }

    /// What a file remembers of invalidations is lost after a panic: everything counts as invalidated, and the entries
    /// that are loaded from the file will be dropped.
    pub(crate) fn lose_histories(&mut self, now_ms: u64) {
        self.drops_loaded = !self.is_staging();
        self.distrust_staged(0);
        let at_ms = self.stamps.now_ms(now_ms);
        for number in (0..).take_while(|&number| own().select(number)) {
            let database = self.loaded_database(number);
            database.invalidate(Invalidation::Everything, at_ms, now_ms);
        }
    }

    /// Numbers of the databases that have something to reclaim.
    pub(crate) fn backlogs(&self) -> impl Iterator<Item = u32> {
        let all = self.databases();
        all.filter_map(|(number, db)| db.index.has_backlog().then_some(number))
    }

    /// Numbers of all databases that were ever used.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.databases().map(|(number, _)| number).collect()
    }

    /// The terms for new leases of this database. The bound is for all databases together: while others take more than
    /// half of it, leases that are over are forgotten there. O(databases).
    pub(crate) fn lease_terms(&mut self, number: u32, now_ms: u64) -> Terms {
        let clock = self.database(number).clock;
        let max_ms = self.config.lease_max_ms;
        let mut room = MOST;
        for (_, database) in self.databases_mut().filter(|&(other, _)| other != number) {
            let leases = &mut database.leases;
            while room.is_below_half_without(leases.used()) && leases.forget_over(now_ms) {}
            room = room.without(leases.used());
        }
        Terms {
            clock,
            now_ms,
            max_ms,
            room,
        }
    }

    pub(crate) fn has_leases(&self) -> bool {
        self.databases().any(|(_, db)| !db.leases.is_empty())
    }

    /// Numbers of the databases that have something to do in the background.
    pub(crate) fn with_work(&self, now_ms: u64) -> impl Iterator<Item = u32> {
        let all = self.databases();
        all.filter_map(move |(number, db)| db.index.has_work(now_ms).then_some(number))
    }

    pub(crate) fn has_work(&self, now_ms: u64) -> bool {
        self.has_news() || self.with_work(now_ms).next().is_some()
    }

    /// Whether replicas are to be notified of entries that are gone here for a reason that they do not know. Until then
    /// nothing may be reclaimed: a key that is absent here and present there would make commands differ.
    pub(crate) fn has_news(&self) -> bool {
        self.has_dropped || !(self.refused.is_empty() || propagation::is_importing())
    }

    /// From now on this node decides. It refuses the entries that its primary or its log may have refused. It removes
    /// the entries whose grace ended since a soft invalidation, which was the task of others before.
    pub(crate) fn begin_to_decide(&mut self) {
        let mut refused = std::mem::take(&mut self.refused);
        for (db, Database { index, .. }) in self.databases_mut() {
            let dropped = index.begin_to_decide().into_iter();
            refused.extend(dropped.map(|slot| (db, entry_key(index, slot).into())));
        }
        self.refused = refused;
    }
}

/// A value that is touched only under the server's lock.
pub(super) struct UnderLock<T>(pub(super) RefCell<T>);

// SAFETY: all callers of the module hold the lock: the server's main thread, and threads of other modules that call a
// command. The only exception is `free`, which does not come here on a background thread. A forked child has this memory
// to itself.
unsafe impl<T> Sync for UnderLock<T> {}

impl<T> UnderLock<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }
}

static STATE: UnderLock<Option<State>> = UnderLock::new(None);

thread_local! {
    static IS_MAIN: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the server's main thread. Other threads may touch the state only while they hold the server's lock.
pub(crate) fn is_main_thread() -> bool {
    IS_MAIN.get()
}

/// Makes the state. `load` calls this once, on the main thread.
pub(crate) fn init(config: Config, lineage: u64) {
    IS_MAIN.set(true);
    *STATE.0.borrow_mut() = Some(State {
        config,
        lineage,
        ..State::default()
    });
}

/// Drops the state, before the server closes the module.
pub(super) fn end() {
    *STATE.0.borrow_mut() = None;
}

/// Runs `body` with the state.
///
/// `body` must not call the server in a way that can call the module back, since the callback would need the state too.
/// The bound ensures this: contexts and open keys, which all such calls need, are not `Send`.
#[inline(always)]
pub(crate) fn with<R>(body: impl FnOnce(&mut State) -> R + Send) -> R {
    let mut state = STATE.0.try_borrow_mut().ok();
    let state = state.as_deref_mut().and_then(Option::as_mut);
    body(state.expect("the state is made by `load` and is not held across calls to the server"))
}

/// [`with`] for a database.
#[inline(always)]
pub(crate) fn database<R>(number: u32, body: impl FnOnce(&mut Database<Handle>) -> R + Send) -> R {
    with(|state| body(state.database(number)))
}

/// [`with`] for the index of a database.
#[inline(always)]
pub(crate) fn index<R>(number: u32, body: impl FnOnce(&mut Index<Handle>) -> R + Send) -> R {
    with(|state| body(&mut state.database(number).index))
}

/// A value that may be used inside [`with`] although it is, or refers to, a pointer of the server's. No call that is
/// made with it there calls the module back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct CallsNothingBack<T>(T);

// SAFETY: all of this runs under the server's lock; the bound of `with` only keeps other pointers out.
unsafe impl<T> Send for CallsNothingBack<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for CallsNothingBack<T> {}

impl<T: Copy> CallsNothingBack<T> {
    pub(super) const fn new(pointer: T) -> Self {
        Self(pointer)
    }

    pub(crate) const fn get(&self) -> T {
        self.0
    }
}

/// [`with`] for the report of a crash that may have happened inside `with`.
pub(crate) fn try_with<R>(body: impl FnOnce(&mut State) -> R) -> Option<R> {
    STATE.0.try_borrow_mut().ok()?.as_mut().map(body)
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
