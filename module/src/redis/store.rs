//! Changes the keyspace, the index and the entry headers, which must change together. No other file changes two of
//! these three.
//!
//! Every change runs inside [`change`]. A panic in it may leave the three inconsistent, so the database's index is then
//! emptied: its entries are gone, which is always safe, and [`super::reclaim`] takes them out of the keyspace.

use std::sync::atomic::{AtomicU32, Ordering};

use smallvec::SmallVec;

use super::sizes::{cost, cost_of, fits};
use super::state::{self, State};
use super::transit::Transfer;
use super::{
    Context, Held, Key, Mode, OwnedStr, Place, Str, filter, guard, log, monotonic_ms, now_ms, own,
    panic_point, propagation, reclaim, waiting,
};
use crate::engine::{
    CLOCKS_DIFFER_MS, Facts, Freshness, Incoming, Index, Invalidation, Slot, kept_stamp_ms,
};
use crate::entry::{Entry, Handle, NewEntry, Parts};

/// The database that is being changed.
static CHANGING: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = u32::MAX;

/// Runs a change of a database.
#[inline(always)]
pub(crate) fn change<R>(db: u32, body: impl FnOnce() -> R) -> R {
    let outer = CHANGING.load(Ordering::Relaxed);
    CHANGING.store(db, Ordering::Relaxed);
    panic_point(Place::Change);
    let result = body();
    CHANGING.store(outer, Ordering::Relaxed);
    result
}

/// Runs a change of a database's index alone.
fn change_index(db: u32, body: impl FnOnce(&mut Index<Handle>) + Send) {
    change(db, || state::index(db, body));
}

/// After a panic: empties the index of the database that was being changed, if any.
pub(super) fn distrust_changed() {
    let db = CHANGING.load(Ordering::Relaxed);
    if db != NONE {
        CHANGING.store(NONE, Ordering::Relaxed);
        distrust(db, "was being changed");
    }
}

/// Empties the index of a database that may disagree with the keyspace. Everything counts as invalidated, since an
/// invalidation may have been missed.
pub(super) fn distrust(db: u32, reason: &str) {
    log(&format!("database {db} {reason}: its entries are dropped"));
    let emptied = state::try_with(|state| {
        let database = state.database(db);
        drop(database.take_index());
        database.index.has_orphans = true;
        state.orphans = None;
    });
    if emptied.is_none() {
        log("its index could not be emptied");
    }
    guard(Place::Other, (), || invalidate_all(db));
}

fn invalidate_all(db: u32) {
    let now = now_ms();
    let at = state::with(|state| {
        let at = state.stamps.now_ms(now);
        let database = state.database(db);
        database.invalidate(Invalidation::Everything, at, now);
        at.to_string()
    });
    if propagation::has_own_log() {
        // Otherwise the log would keep the entries: a command of the primary that finds no key here is not logged.
        let ctx = own();
        ctx.select(db);
        ctx.replicate_words("CACHE.FLUSH", &[b"AT", at.as_bytes()]);
    }
}

/// The keyspace holds an entry that the index should know and does not know: starts a SCAN in slices that takes it out.
pub(super) fn look_for_orphans(ctx: &Context<'_>, db: u32) {
    state::with(|state| {
        state.database(db).index.has_orphans = true;
        state.orphans = None; // A search that is under way may already have passed it.
    });
    reclaim::arm(ctx);
}

/// The new content of an entry that is written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Content<'a> {
    pub(crate) parts: Parts<'a>,
    pub(crate) tags: &'a [&'a [u8]],
    /// The deadline that the server knows: expiry plus grace, unix ms.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) facts: Facts,
}

impl Content<'_> {
    /// Whether the index has no mark for an entry with this content.
    fn is_plain(&self) -> bool {
        self.parts.grace_ms == 0 && self.facts.softness.is_none() && !self.facts.is_foreign
    }
}

/// The form in which the index takes an entry that costs `bytes`.
fn incoming<'t>(
    entry: Entry<'_>,
    bytes: u64,
    tags: &'t [&'t [u8]],
    facts: Facts,
) -> Incoming<'t, Handle> {
    Incoming {
        entry: entry.handle(),
        tags,
        bytes,
        has_grace: entry.grace_ms() > 0,
        facts,
    }
}

/// The entry of an open key, its slot in the index of its database, and its freshness.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'k> {
    pub(crate) entry: Entry<'k>,
    pub(crate) slot: Slot,
    pub(crate) freshness: Freshness,
}

/// The visible entry of an open key of a database, for a change: the index is sure to hold this very entry.
pub(crate) fn look(db: u32, key: &Key, now_ms: impl FnOnce() -> u64 + Send) -> Option<Found<'_>> {
    let held = key.held()?;
    let found = state::with(|state| found_in(&state.database(db).index, held, now_ms));
    let (slot, freshness) = (found.0?, found.1);
    (freshness != Freshness::Gone).then_some(Found {
        entry: held.0,
        slot,
        freshness,
    })
}

/// [`look`] for a caller that has borrowed the index already. It returns gone entries too.
#[inline(always)]
pub(crate) fn found_in(
    index: &Index<Handle>,
    (entry, deadline): Held<'_>,
    now_ms: impl FnOnce() -> u64,
) -> (Option<Slot>, Freshness) {
    let slot = entry.slot();
    let slot = slot.filter(|&slot| index.holds(slot, entry.handle()));
    // An entry that is not indexed is gone as well: no invalidation would reach it.
    let freshness = slot.map_or(Freshness::Gone, |slot| {
        let (handle, grace_ms) = (entry.handle(), entry.grace_ms());
        index.freshness(slot, handle, grace_ms, || deadline.ms(), now_ms)
    });
    (slot, freshness)
}

/// Puts an entry under an open key that is empty or holds an entry, which is replaced. `decide` returns the new
/// content, and the slot of the old entry if the index of this database holds it. If `decide` returns `None`, nothing
/// is done. Keeps the hits of a visible entry. O(tags).
pub(crate) fn put<'c, R: Send>(
    db: u32,
    key: &mut Key,
    name: Str<'_>,
    decide: impl FnOnce(&mut State, Option<Held<'_>>) -> Option<(Content<'c>, Option<Slot>, R)> + Send,
) -> Option<R> {
    change(db, || {
        let held = key.held();
        let old = held.map(|(entry, _)| entry);
        let (new, deadline_ms, result) = state::with(|state| {
            let (content, slot, result) = decide(state, held)?;
            state.removed_gone = None;
            let mut index = &mut state.database(db).index;
            let visible = slot.filter(|&slot| !index.is_gone(slot));
            if let (Some(old), None) = (old, visible) {
                forget_gone(state, db, old);
                index = &mut state.database(db).index;
            }
            let is_rewritten = match (old, visible) {
                (Some(old), Some(slot)) => rewrite(index, old, slot, &content),
                _ => false,
            };
            let make = || place(index, name.bytes(), visible, &content);
            let new = (!is_rewritten).then(make);
            Some((new, content.deadline_ms, result))
        })?;
        let had_entry = old.is_some();
        panic_point(Place::Change);
        match new {
            Some(new) if had_entry => key.replace(new),
            Some(new) => key.create(new),
            None => {}
        }
        if had_entry || deadline_ms.is_some() {
            key.set_deadline_ms(deadline_ms);
        }
        Some(result)
    })
}

/// Rewrites a visible entry in place. Returns false, and does nothing, if the new content does not fit.
#[inline(always)]
fn rewrite(index: &mut Index<Handle>, old: Entry<'_>, slot: Slot, content: &Content<'_>) -> bool {
    let (extent, parts) = (old.extent(), content.parts);
    if !extent.is_that_of(&parts) {
        return resize(index, old, slot, content);
    }
    let costs_the_same = parts.has_ttl == old.has_ttl();
    // SAFETY: nothing is borrowed from the entry: the new value is the caller's, and no part of what a key holds.
    unsafe { old.overwrite(extent, &parts) };
    // The most common write changes only the entry.
    if !(costs_the_same && content.is_plain() && index.is_plain(slot, content.tags)) {
        reindex(index, old, slot, content.tags, content.facts);
    }
    true
}

/// [`rewrite`] for parts of other lengths. Apart, so that the most common write does not pay for its registers.
#[inline(never)]
fn resize(index: &mut Index<Handle>, old: Entry<'_>, slot: Slot, content: &Content<'_>) -> bool {
    let (extent, parts) = (old.extent(), content.parts);
    let size = parts.size(extent.key_len());
    let fits = fits(old, old.allocated(extent), size);
    if fits {
        // SAFETY: the new content fits, and nothing is borrowed from the entry, as above.
        unsafe { old.rewrite(extent, &parts, size) };
        reindex(index, old, slot, content.tags, content.facts);
    }
    fits
}

/// Updates the index after the entry in a slot was changed.
#[inline(never)]
fn reindex(index: &mut Index<Handle>, entry: Entry<'_>, slot: Slot, tags: &[&[u8]], facts: Facts) {
    entry.set_indexed(index.replace(slot, incoming(entry, cost(entry), tags, facts)));
}

/// Indexes an entry, in a slot near this one.
fn insert(
    index: &mut Index<Handle>,
    place: Option<Slot>,
    entry: Entry<'_>,
    tags: &[&[u8]],
    facts: Facts,
) {
    entry.set_indexed(index.insert_near(place, incoming(entry, cost(entry), tags, facts)));
}

/// Makes a new entry and indexes it, in the slot of the visible old entry if there is one.
#[inline(always)]
fn place(
    index: &mut Index<Handle>,
    name: &[u8],
    visible: Option<Slot>,
    content: &Content<'_>,
) -> NewEntry {
    let parts = content.parts;
    let size = parts.size(name.len());
    let new = NewEntry::sized(name, &parts, size);
    let entry = new.as_entry();
    let bytes = cost_of(size, name.len(), parts.has_ttl);
    let incoming = incoming(entry, bytes, content.tags, content.facts);
    let slot = match visible {
        Some(slot) => index.replace(slot, incoming),
        None => index.insert_near(None, incoming),
    };
    entry.set_indexed(slot);
    new
}

/// Removes an entry that is not visible, and is about to be replaced, from the index that holds it, if any.
#[cold]
fn forget_gone(state: &mut State, db: u32, old: Entry<'_>) {
    if let Some((holder, slot)) = state.database_of(old, Some(db)) {
        let holder = state.database(holder);
        holder.index.remove(slot);
        holder.counters.reclaimed += 1;
    }
}

/// The entry of an open key, and its slot, if it is indexed.
fn indexed(key: &Key) -> Option<(Entry<'_>, Slot)> {
    let entry = key.entry()?;
    Some((entry, entry.slot()?))
}

/// Makes a key of the context's database hold a gone entry, as on other nodes, unless it holds another type.
pub(crate) fn hold_gone(ctx: &Context<'_>, name: Str<'_>, deadline_ms: Option<u64>) {
    let db = ctx.db();
    let mut key = ctx.open(name, Mode::Upkeep);
    if key.is_empty() {
        let mut content = Content {
            deadline_ms,
            ..Content::default()
        };
        (content.parts.created_ms, content.parts.has_ttl) = (now_ms(), deadline_ms.is_some());
        put(db, &mut key, name, |_, _| Some((content, None, ())));
    }
    // An entry that was there is not reclaimed yet, or the sender refused it on its arrival. Here it may be visible.
    drop_entry(db, &key);
    drop(key);
    reclaim::arm(ctx);
}

/// Makes the entry of an open key gone because it arrived too late, and has replicas drop it, too.
pub(crate) fn refuse(ctx: &Context<'_>, db: u32, key: &Key, name: Str<'_>) {
    drop_entry(db, key);
    state::with(|state| state.refused.push((db, name.bytes().into())));
    reclaim::arm(ctx);
}

/// Marks the entry of an open key as doubted: this node's primary may have refused it ([`Lateness::Doubtful`]).
pub(crate) fn doubt(db: u32, key: &Key) {
    if let Some((_, slot)) = indexed(key) {
        state::index(db, |index| _ = index.marks.doubted.insert(slot.0));
    }
}

/// The primary or the log shows that it did not refuse the entry of an open key, so this node accepts it as well.
pub(crate) fn accept(db: u32, key: &Key) {
    let Some((entry, slot)) = indexed(key) else {
        return;
    };
    change_index(db, |index| {
        let is_refused = index.marks.doubted.contains(slot.0)
            && index.holds(slot, entry.handle())
            && index.is_gone(slot);
        // A command that comes with a hash slot shows only that the old node did not refuse the entry.
        if !is_refused || propagation::is_coming(entry.key()) {
            return;
        }
        let tags: Vec<Vec<u8>> = index.tags(slot).map(<[u8]>::to_vec).collect();
        let tags: SmallVec<[&[u8]; 8]> = tags.iter().map(Vec::as_slice).collect();
        let facts = Facts {
            is_gone: false,
            is_doubted: false,
            ..index.facts(slot)
        };
        index.remove(slot);
        insert(index, Some(slot), entry, &tags, facts);
    });
}

fn drop_entry(db: u32, key: &Key) {
    if let Some((_, slot)) = indexed(key) {
        state::index(db, |index| index.drop_one(slot));
    }
}

/// Makes all entries of a database gone. This is no invalidation: the database's clock stays.
pub(crate) fn empty(db: u32) {
    change(db, || state::index(db, Index::flush));
}

/// Changes the deadline and the grace of the entry of an open key. The grace is part of the allocation, so a changed
/// grace takes a new entry. An entry that is stale by a soft invalidation and loses its grace is gone.
pub(crate) fn retime(db: u32, key: &mut Key, grace_ms: u64, deadline_ms: Option<u64>) {
    let Some((entry, slot)) = indexed(key) else {
        return;
    };
    let has_ttl = deadline_ms.is_some();
    let rebuilt = (entry.grace_ms() != grace_ms).then(|| {
        let mut parts = entry.parts();
        (parts.has_ttl, parts.grace_ms) = (has_ttl, grace_ms);
        NewEntry::new(entry.key(), &parts)
    });
    let old = entry.handle();
    exchange(db, key, old, rebuilt, |entry| {
        entry.set_has_ttl(has_ttl);
        entry.set_indexed(slot);
        state::index(db, |index| {
            index.moved(slot, entry.handle());
            index.resize(slot, cost(entry));
            index.set_graced(slot, grace_ms > 0);
        });
    });
    key.set_deadline_ms(deadline_ms);
}

/// Indexes the entry of an open key, or its replacement `new`, which it then stores under the key.
fn exchange<R>(
    db: u32,
    key: &mut Key,
    old: Handle,
    new: Option<NewEntry>,
    index: impl FnOnce(Entry<'_>) -> R,
) -> R {
    let handle = new.as_ref().map_or(old, NewEntry::handle);
    change(db, || {
        // SAFETY: the keyspace holds it, or `new` does.
        let result = index(unsafe { Entry::from_handle(handle) });
        panic_point(Place::Change);
        if let Some(new) = new {
            key.replace(new);
        }
        result
    })
}

/// Gives the visible entry of an open key other tags. O(tags).
pub(crate) fn retag(db: u32, key: &Key, tags: &[&[u8]]) {
    let Some((entry, slot)) = indexed(key) else {
        return;
    };
    change_index(db, |index| {
        let facts = index.facts(slot);
        reindex(index, entry, slot, tags, facts);
    });
}

/// Removes the entry of an open key from the keyspace, which ends in [`unlinked`].
pub(crate) fn take(db: u32, key: &mut Key) {
    change(db, || {
        state::with(|state| state.removing = true);
        key.delete();
        state::with(|state| {
            state.removing = false;
            state.transit.clear();
        });
    });
}

/// An entry leaves the keyspace: takes it out of the index. Keeps what the index knew, in case the entry comes back
/// under another name.
pub(super) fn unlinked(entry: Entry<'_>, db: Option<u32>) {
    let Some((db, slot)) = state::with(|state| state.database_of(entry, db)) else {
        return lost_unlinked(entry, db);
    };
    let met_gone = change(db, || {
        state::with(|state| {
            let removing = state.removing;
            state.removed_gone = None;
            let (transit, database) = state.transit_and(db);
            let index = &mut database.index;
            // An entry that the module itself removes does not come back.
            if !removing {
                let facts = index.facts(slot);
                transit.leaves(entry, db, slot, facts, index.tags(slot));
            }
            let was_gone = index.remove(slot);
            if was_gone {
                database.counters.reclaimed += 1;
            }
            entry.set_unlinked();
            was_gone && !removing
        })
    });
    if met_gone {
        filter::met_gone(db, entry.key());
    }
}

/// An entry that no index knows leaves the keyspace. If an index lost it, it is gone, also under another name.
fn lost_unlinked(entry: Entry<'_>, db: Option<u32>) {
    let is_lost =
        |db: &u32| state::with(|state| !state.removing && state.database(*db).index.has_orphans);
    if let Some(db) = db.filter(is_lost) {
        let facts = Facts {
            is_gone: true,
            ..Facts::default()
        };
        let (slot, tags) = (
            entry.slot().unwrap_or_default(),
            std::iter::empty::<&[u8]>(),
        );
        state::with(|state| state.transit.leaves(entry, db, slot, facts, tags));
        filter::met_gone(db, entry.key());
    }
}

/// Removes from the index an entry that the keyspace does not hold under the entry's name.
pub(super) fn forget(db: u32, slot: Slot, handle: Handle) {
    change_index(db, |index| {
        if index.holds(slot, handle) {
            index.remove(slot);
            // SAFETY: nothing freed the entry: `unlinked` would have taken it out of the index.
            unsafe { Entry::from_handle(handle) }.set_unlinked();
        }
    });
}

/// An entry that was never unlinked is about to be freed: by a flush, whose event emptied the index before, or in a way
/// that this module does not know. In the second case the entry must leave the index. Returns false if that failed.
pub(super) fn freed(entry: Entry<'_>) -> bool {
    let Some(place) = state::try_with(|state| state.database_of(entry, None)) else {
        return false;
    };
    if let Some((db, slot)) = place {
        log("an entry was freed without being unlinked before. Please report this.");
        forget(db, slot, entry.handle());
    }
    true
}

/// Records the new address of an entry.
pub(super) fn moved(place: Option<(u32, Slot)>, old: Handle, new: Handle) {
    if let Some((db, slot)) = place {
        change_index(db, |index| index.moved(slot, new));
    }
    state::with(|state| state.transit.moved(old, new));
}

/// How an entry came into the keyspace, if not by a command of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From an RDB file.
    Loaded,
    /// By RESTORE, MIGRATE or a hash slot that migrates.
    Restored,
    /// Within this server, by RENAME, MOVE or COPY, from this database.
    Moved { from: Option<u32> },
}

/// Indexes the entry that was just loaded for this place, without opening its key. Returns false, and does nothing, if
/// it is gone or not known to be there. Databases that are not served yet, whose keys cannot be opened, take it in any
/// case.
fn adopt_loaded(ctx: &Context<'_>, name: &[u8]) -> bool {
    let db = ctx.db();
    let (loaded, is_staging) = state::with(|state| {
        let is_staging = state.is_staging();
        (state.transit.loaded(db, name, is_staging), is_staging)
    });
    let Some(handle) = loaded else {
        return is_staging;
    };
    let index = || {
        state::with(|state| {
            // SAFETY: the keyspace holds it ([`super::transit::Transit::loaded`]).
            let entry = unsafe { Entry::from_handle(handle) };
            state.stamps.follow(entry.created_ms());
            let transfer = std::mem::take(&mut state.transit.arriving);
            let index = &mut state.loaded_database(db).index;
            let has_work = index_arrived(index, None, entry, &transfer);
            state.transit.arriving = transfer; // Reuses its buffers.
            has_work
        })
    };
    if is_staging {
        panic_point(Place::Change);
        index();
    } else if change(db, index) {
        reclaim::arm(ctx);
    }
    true
}

/// Indexes the entry under this key if it is not indexed yet. The server announces each such entry by an event, after
/// the key exists.
pub(crate) fn adopt(ctx: &Context<'_>, name: Str<'_>, way: Way) {
    let may_be_loaded = |state: &mut State| state.is_staging() || !state.checks_loaded;
    if way == Way::Loaded && state::with(may_be_loaded) && adopt_loaded(ctx, name.bytes()) {
        return;
    }
    // A copy, because "loaded" passes a name that lies on the server's stack, and opening a key retains the name.
    let name = OwnedStr::new(name.bytes());
    let name = name.as_str();
    let mut key = ctx.open(name, Mode::Upkeep);
    let (Some(entry), Some(db)) = (key.entry(), key.db()) else {
        // The key holds a native value. Its expiry must not be taken for that of the entry that it replaced.
        return state::with(|state| state.transit.clear());
    };
    let (slot, handle) = (entry.slot(), entry.handle());
    if slot.is_some_and(|slot| state::index(db, |index| index.holds(slot, handle))) {
        return;
    }
    let Some(mut transfer) = state::with(|state| state.transit.end(handle)) else {
        drop(key);
        return look_for_orphans(ctx, db);
    };
    let facts = transfer.facts;
    // Redis 8.6 looks at the restored value after this event, so a gone entry stays until it is reclaimed. An entry
    // that this node refused itself stays until its primary removes it. One in a hash slot that migrates to here stays
    // as well: the next commands of the old node may find it there ([`reclaim::is_held`]).
    let is_coming = propagation::is_coming(name.bytes());
    if facts.is_gone && !(facts.is_doubted || is_coming || way == Way::Restored) {
        return take(db, &mut key);
    }
    transfer.facts.is_foreign |= is_coming;
    let is_primary = propagation::decides();
    let lateness = if facts.is_gone {
        Lateness::InTime
    } else {
        lateness(is_primary, db, entry, way, &mut transfer)
    };
    let is_refused = facts.is_gone || lateness == Lateness::TooLate;
    transfer.facts.is_gone = is_refused;
    // An entry that was saved as gone is not announced if its primary knows that replicas dropped it.
    let waits = is_refused && !is_primary && way != Way::Loaded;
    transfer.facts.is_doubted |= lateness == Lateness::Doubtful || waits;
    let has_ttl = key.deadline_ms().is_some();
    // RENAME and MOVE: the name is part of the entry, so a new entry is built.
    let renamed = (entry.key() != name.bytes()).then(|| {
        let parts = entry.parts();
        NewEntry::new(name.bytes(), &Parts { has_ttl, ..parts })
    });
    let is_gone = exchange(db, &mut key, handle, renamed, |entry| {
        entry.set_has_ttl(has_ttl);
        state::with(|state| {
            // If an entry of this name was there a moment ago (RENAME, COPY, RESTORE over it), this one gets the same
            // slot or a higher one. Otherwise, a scan of a tag that both carry could miss it.
            let place = state.transit.vacated(db, name.bytes());
            index_arrived(&mut state.database(db).index, place, entry, &transfer)
        })
    });
    drop(key);
    state::with(|state| {
        *state.arriving() = transfer; // Reuses its buffers.
        if is_refused && is_primary {
            state.refused.push((db, name.bytes().into()));
        }
    });
    if way != Way::Loaded {
        waiting::written(ctx, db, name);
    }
    if is_gone {
        reclaim::arm(ctx);
    }
}

/// Indexes an entry that arrived, and returns whether there is work in the background.
fn index_arrived(
    index: &mut Index<Handle>,
    place: Option<Slot>,
    entry: Entry<'_>,
    transfer: &Transfer,
) -> bool {
    let tags: SmallVec<[&[u8]; 8]> = transfer.tags().collect();
    insert(index, place, entry, &tags, transfer.facts);
    index.has_backlog() || index.marks.has_soft()
}

/// Whether one of an arriving entry's tags was invalidated here after the entry was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lateness {
    InTime,
    /// On a replica or from a log: only the allowance for clocks refuses it, so the primary may have refused it.
    Doubtful,
    TooLate,
}

/// A primary allows for clocks that differ. Other nodes compare the same stamps without this allowance, and mark the
/// entries that the primary may have refused. `DESIGN.md` (Entries that arrive) gives the reasons.
fn lateness(
    is_primary: bool,
    db: u32,
    entry: Entry<'_>,
    way: Way,
    transfer: &mut Transfer,
) -> Lateness {
    state::with(|state| {
        let (origin, facts) = (transfer.origin, &mut transfer.facts);
        let is_own = match way {
            Way::Restored => origin != 0 && origin == state.origin(),
            // From another database: an invalidation in this database did not reach the entry there.
            Way::Moved { from: Some(from) } if from != db => !facts.is_foreign,
            Way::Loaded if state.checks_loaded => !facts.is_foreign,
            Way::Moved { .. } | Way::Loaded => return Lateness::InTime,
        };
        facts.is_foreign = !is_own;
        let (real, monotonic) = (now_ms(), monotonic_ms());
        state.watch_clock(real, monotonic);
        let now = state.stamps_at(real, || monotonic).now_ms(real);
        let is_stale = facts.softness.is_some();
        let created_ms = entry.created_ms();
        let since_ms = state.stamps.written_since_ms(created_ms, !is_own, now);
        // A stamp that is later by the allowance, which cancels it.
        let (allowed_ms, never) = (created_ms + CLOCKS_DIFFER_MS, u64::MAX / 2);
        let allowed_since_ms = state.stamps.written_since_ms(allowed_ms, true, never);
        let history = &state.database(db).history;
        let is_too_late = |since_ms| {
            let outcome = history.of_arriving(transfer.tags(), since_ms);
            outcome.is_too_late(is_stale)
        };
        let lateness = match is_too_late(since_ms) {
            false => Lateness::InTime,
            true if is_primary || is_too_late(allowed_since_ms) => Lateness::TooLate,
            true => Lateness::Doubtful,
        };
        let kept_ms = kept_stamp_ms(created_ms, now);
        entry.set_created_ms(kept_ms);
        if !is_primary {
            // If an invalidation from the primary has an earlier stamp, the two stamps are in no order.
            state.stamps.follow_foreign(kept_ms);
        }
        lateness
    })
}
