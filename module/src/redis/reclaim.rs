//! Reclaims gone entries in slices, without ever holding the server up.
//!
//! `DESIGN.md` (Reclaiming) describes what reclaims them, and when.

use std::time::Instant;

use smallvec::SmallVec;

use super::context::moment;
use super::state::{self, State, entry_in, entry_key};
use super::{
    Context, Key, Mode, OwnedStr, Place, Str, data_type, filter, guard, log, monotonic_ms, now_ms,
    propagation, slices, store,
};
use crate::engine::{Database, Effect, Index, Slot, Softened, Step, TagFigures};
use crate::entry::{Entry, Handle};

/// Entries that each CACHE.SET reclaims during a backlog: more than it adds, so that writers cannot outrun reclaiming.
const HELP: u64 = 4;

/// How often a slice looks at the time.
const STEPS_BETWEEN_LOOKS: u32 = 4;

/// Entries refused on arrival that are removed in one go, which takes about a millisecond.
const REFUSED_AT_ONCE: usize = 128;

/// A slice that panicked is tried again after this time instead of at once.
const PAUSE_AFTER_PANIC_MS: u64 = 1_000;

/// How often a replica whose index was emptied searches for entries that it lost.
const SEARCH_AGAIN_MS: u64 = 1_000;

/// How often a replica in a cluster looks whether it can go on by itself, if the next gone entry has expired.
const HIDDEN_MS: u64 = 10;

/// To be called after an invalidation: reclaims what it dropped, at once if that is little, else later.
pub(crate) fn after_invalidation(ctx: &Context<'_>, dropped: u64) {
    let db = ctx.db();
    let is_small = dropped <= state::with(|state| state.config.reclaim_inline);
    if dropped > 0 && is_small && !ctx.is_atomic_block() {
        reclaim_entries(ctx, db, dropped);
    }
    go_on(ctx);
}

/// Arranges that gone entries of the context's database are reclaimed later. While an append-only file is loaded, they
/// are reclaimed at once, because the file's next commands found these keys gone when they were logged.
pub(crate) fn go_on(ctx: &Context<'_>) {
    let (db, now) = (ctx.db(), now_ms());
    if !state::index(db, |index| index.has_work(now)) {
        return;
    }
    if ctx.is_loading() {
        reclaim_entries(ctx, db, u64::MAX);
    } else {
        arm(ctx);
    }
}

/// Makes the server look at each entry of small tags, so that it removes those that have expired or are past their
/// grace since a soft invalidation. By itself, it does so only some time later. Returns the figures of entries that it
/// hides without removing them, as a replica does. O(tags + entries, of these up to `reclaim-inline`).
pub(crate) fn meet_expired<'t>(
    ctx: &Context<'_>,
    tags: impl Iterator<Item = &'t [u8]>,
) -> TagFigures {
    let (db, now, mut hidden) = (ctx.db(), now_ms(), TagFigures::default());
    let mut left = most_looks(ctx);
    for (slot, (handle, name)) in tags.flat_map(|tag| few_of(db, tag, &mut left)) {
        let is_over = end_grace(ctx, db, slot, now);
        if ctx.exists(name.as_str()) && !is_over {
            continue;
        }
        state::index(db, |index| {
            if index.holds(slot, handle) && !index.is_gone(slot) {
                hidden.entries += 1;
                hidden.bytes += index.cost(slot);
            }
        });
    }
    hidden
}

/// To be called before these tags are invalidated. Makes the server remove the entries of small tags that have expired
/// or are past their grace since a soft invalidation. Takes their other entries out if they become gone, because
/// finding them again afterwards costs more. Returns how many (entry, tag) pairs were taken. O(tags + entries), of
/// these up to `reclaim-inline`, and for each entry that is taken O(its tags × log of those given).
pub(crate) fn take_few(ctx: &Context<'_>, tags: &[&[u8]], effect: Effect) -> u64 {
    let (db, now, mut pairs) = (ctx.db(), now_ms(), 0);
    // Each tag once, and sorted for the binary search below.
    let mut tags: SmallVec<[&[u8]; 8]> = tags.into();
    tags.sort_unstable();
    tags.dedup();
    // As in [`after_invalidation`] and [`step`].
    let may_take = effect == Effect::Gone && !ctx.is_atomic_block() && may_take();
    let mut left = most_looks(ctx);
    for (slot, (handle, name)) in tags.iter().flat_map(|tag| few_of(db, tag, &mut left)) {
        end_grace(ctx, db, slot, now);
        // An open key does not show an entry that has expired.
        let key = ctx.open(name.as_str(), Mode::Upkeep);
        let entry = key.entry().filter(|entry| entry.handle() == handle);
        let may_take = may_take && !state::with(|state| is_held(&state.database(db).index, slot));
        let Some(slot) = entry.filter(|_| may_take).and_then(Entry::slot) else {
            continue;
        };
        pairs += state::with(|state| {
            let database = state.database(db);
            let index = &database.index;
            if index.is_gone(slot) {
                return 0;
            }
            let its = index.tags(slot);
            let is_given = |tag: &&[u8]| tags.binary_search(tag).is_ok();
            let dropped = its.filter(is_given).count() as u64;
            database.counters.invalidated += dropped;
            database.counters.reclaimed += 1;
            dropped
        });
        take(ctx, db, key, name.as_str());
    }
    pairs
}

/// How many entries one command may look at.
fn most_looks(ctx: &Context<'_>) -> u64 {
    if ctx.is_cluster() && ctx.is_atomic_block() {
        return 0; // See [`help`]: the block's keys may be of another hash slot.
    }
    state::with(|state| state.config.reclaim_inline)
}

/// The entries of a tag, gone ones included, with their names. Empty if there are more than `left`, the number of
/// entries that the command may still look at.
fn few_of(db: u32, tag: &[u8], left: &mut u64) -> Vec<(Slot, (Handle, OwnedStr))> {
    state::index(db, |index| {
        if *left == 0 {
            return Vec::new();
        }
        let slots = index.few_of_tag(tag, *left);
        *left -= slots.len() as u64;
        let slots = slots.into_iter();
        slots.map(|slot| (slot, named(index, slot))).collect()
    })
}

/// Reclaims a few entries inside a writer's command. Not in a cluster: there, servers with a hash table per hash slot
/// (Redis 8, Valkey 8) look for every key in the hash slot of the running command's keys, so a command cannot reach any
/// others.
pub(crate) fn help(ctx: &Context<'_>, db: u32) {
    // Not inside MULTI or a script: the effects of an invalidation inside such a block must not depend on how far this
    // node's reclaiming is, because its replicas run the same block.
    if state::index(db, |index| index.has_backlog()) && !ctx.is_atomic_block() && !ctx.is_cluster()
    {
        reclaim_entries(ctx, db, HELP);
    }
}

/// Reclaims up to `limit` entries of the context's database. The timer reclaims the rest.
fn reclaim_entries(ctx: &Context<'_>, db: u32, limit: u64) {
    let now = now_ms();
    for _ in 0..limit {
        if !step(ctx, db, now) {
            return;
        }
    }
}

/// Does one unit of work in the context's database. Returns false if nothing is left, while replicas must be notified
/// first ([`State::has_news`]), or while they cannot be notified. The last two do not apply while a log is loaded: the
/// server that wrote it had notified them.
fn step(ctx: &Context<'_>, db: u32, now_ms: u64) -> bool {
    if !ctx.is_loading() && (state::with(|state| state.has_news()) || !may_take()) {
        return false;
    }
    let holds_foreign = propagation::is_importing();
    let next = |state: &mut State| state.database(db).index.reclaim_step(now_ms, holds_foreign);
    match state::with(next) {
        Step::Gone(slot) => return reclaim_one(ctx, db, slot),
        Step::Softened(softened) => look_after(ctx, db, softened, now_ms),
        Step::Idle => return sweep_orphans(ctx, db),
    }
    true
}

/// Whether each entry that is taken out must be announced: to replicas, which may not know that it is gone
/// ([`State::has_news`], or the index of this node has lost it), or to the new node of a hash slot.
fn is_news() -> bool {
    let has_lost = |state: &State| state.databases().any(|(_, db)| db.index.has_orphans);
    propagation::is_exporting() || state::with(|state| state.has_news() || has_lost(state))
}

/// Whether each entry that is taken out is announced by UNLINK.
pub(super) fn announces() -> bool {
    is_news() && propagation::may_announce()
}

/// Whether gone entries may be taken out of the keyspace now.
pub(super) fn may_take() -> bool {
    !(is_news() && propagation::must_wait())
}

/// Whether a gone entry must stay. It stays until its refusal is announced
/// ([`Facts::is_doubted`](crate::engine::Facts)). If it came from the old node of a hash slot, it also stays while this
/// slot migrates to here: at the old node it may not be gone yet, and the commands that come from there must find what
/// they found. The old node announces the entries that it removes.
pub(super) fn is_held(index: &Index<Handle>, slot: Slot) -> bool {
    index.marks.doubted.contains(slot.0)
        || propagation::is_importing()
            && index.marks.foreign.contains(slot.0)
            && propagation::is_coming(entry_key(index, slot))
}

/// Whether the entry was refused on its arrival, and the announcement of its removal waits until another hash slot has
/// migrated.
pub(super) fn is_unannounced(db: u32, name: &[u8]) -> bool {
    let is_it = |refused: &(u32, Box<[u8]>)| refused.0 == db && *refused.1 == *name;
    propagation::is_importing() && state::with(|state| state.refused.iter().any(is_it))
}

/// Does one step of a SCAN for entries that the index lost when it was emptied after an internal error, and removes
/// them, here and on replicas. Returns false if no more of them exist, or if it cannot search now.
fn sweep_orphans(ctx: &Context<'_>, db: u32) -> bool {
    let is_due = |state: &mut State| {
        let is_due = monotonic_ms() >= state.search_from_ms && !state.in_filter;
        state.database(db).index.has_orphans && is_due
    };
    // SCAN does not show the keys of a hash slot that migrates to here.
    if propagation::is_importing() || !state::with(is_due) {
        return false;
    }
    let begun = state::with(|state| state.orphans.take_if(|(begun, _)| *begun == db));
    let cursor = begun.map_or_else(|| "0".to_owned(), |(_, cursor)| cursor);
    let Some((cursor, names)) = ctx.scan(&cursor) else {
        return false; // SCAN is not possible now: the search begins anew later.
    };
    let is_more = cursor != "0";
    for name in names {
        reclaim_if_gone(ctx, name.as_str());
    }
    let is_replica = ctx.is_replica();
    state::with(|state| {
        if is_more {
            state.orphans = Some((db, cursor));
        } else if is_replica {
            // SCAN does not show expired keys, and the primary may prolong them.
            state.search_from_ms = monotonic_ms() + SEARCH_AGAIN_MS;
        } else {
            state.database(db).index.has_orphans = false;
        }
    });
    is_more
}

/// Takes one gone entry out of the keyspace. Returns false if the entry has expired, on a replica in a cluster: there
/// only a command of the primary sees it, and the filter continues at the next such command.
fn reclaim_one(ctx: &Context<'_>, db: u32, slot: Slot) -> bool {
    let (handle, name, key) = open(ctx, db, slot);
    let name = name.as_str();
    let mut hidden = None;
    if key.entry().is_some_and(|entry| entry.handle() == handle) {
        take(ctx, db, key, name);
    } else {
        drop(key);
        let is_indexed = state::index(db, |index| index.holds(slot, handle));
        if is_indexed && ctx.is_replica() && ctx.is_cluster() {
            hidden = Some((db, name.bytes().to_vec()));
        } else if state::with(|state| state.in_filter) {
            return false; // A command that the module calls there loses pushes (`filter.rs`). The timer removes it.
        } else {
            remove_hidden(ctx, db, slot, handle, name);
        }
    }
    let is_done = hidden.is_none();
    if !is_done {
        filter::look_for_hidden();
    }
    state::with(|state| state.hidden = hidden);
    is_done
}

/// Removes the gone entry of an open key.
fn take(ctx: &Context<'_>, db: u32, mut key: Key, name: Str<'_>) {
    store::take(db, &mut key);
    key.close_modified();
    ctx.notify(c"cache.drop", name);
    if announces() {
        ctx.replicate(c"UNLINK", &[name]);
    }
}

/// Handles an entry that is stale by a soft invalidation (`DESIGN.md`, Soft marks): notifies WATCH and CLIENT TRACKING
/// once. When the grace is over, a primary gives the entry a time to live that is over as well.
fn look_after(ctx: &Context<'_>, db: u32, softened: Softened, now_ms: u64) {
    let slot = softened.slot;
    let over_ms = state::index(db, |index| {
        let grace_ms = entry_in(index, slot).grace_ms();
        let over_ms = softened.softness.ends_ms_for(grace_ms);
        if over_ms > now_ms {
            index.marks.ends(softened, over_ms);
        }
        over_ms
    });
    if over_ms <= now_ms {
        expire(ctx, db, slot, over_ms);
    } else if softened.is_new {
        open(ctx, db, slot).2.close_modified();
    }
}

fn expire(ctx: &Context<'_>, db: u32, slot: Slot, over_ms: u64) {
    if !propagation::decides() {
        return;
    }
    let (handle, _, mut key) = open(ctx, db, slot);
    let entry = key.entry().filter(|entry| entry.handle() == handle);
    // If it is not there, it has expired already.
    if let Some(grace_ms) = entry.map(Entry::grace_ms) {
        store::retime(db, &mut key, grace_ms, Some(over_ms));
    }
}

/// If the grace of the entry in a used slot is over since a soft invalidation, and this was not handled yet, handles it
/// and returns true.
fn end_grace(ctx: &Context<'_>, db: u32, slot: Slot, now_ms: u64) -> bool {
    let over = state::index(db, |index| {
        let softness = index.marks.softness(slot)?;
        let over_ms = softness.ends_ms_for(entry_in(index, slot).grace_ms());
        (over_ms <= now_ms && !index.is_gone(slot)).then_some(over_ms)
    });
    over.inspect(|&over_ms| expire(ctx, db, slot, over_ms))
        .is_some()
}

/// The entry in a slot that is in use, its name, and the key of that name, opened.
fn open(ctx: &Context<'_>, db: u32, slot: Slot) -> (Handle, OwnedStr, Key) {
    let (handle, name) = state::index(db, |index| named(index, slot));
    let key = ctx.open(name.as_str(), Mode::Upkeep);
    (handle, name, key)
}

/// The entry in a slot that is in use, and its name.
fn named(index: &Index<Handle>, slot: Slot) -> (Handle, OwnedStr) {
    (index.entry(slot), OwnedStr::new(entry_key(index, slot)))
}

/// To be called if the open key did not show the entry. If the entry expired and opening the key removed it, nothing is
/// left to do. Otherwise it has expired and is hidden: a replica keeps it until its primary deletes it, and a primary
/// keeps it while clients are paused. DEL removes a hidden key, but it would also remove another value of that name, so
/// the key is checked first.
#[cold]
fn remove_hidden(ctx: &Context<'_>, db: u32, slot: Slot, handle: Handle, name: Str<'_>) {
    let is_indexed = || state::index(db, |index| index.holds(slot, handle));
    if !is_indexed() {
        return;
    }
    if data_type::is_hidden_at(ctx, name.bytes(), handle) {
        ctx.call("DEL", &[name.bytes()]);
    }
    if is_indexed() {
        // The keyspace does not hold the entry under its name. The index must go on all the same. Wherever the entry
        // is, it is no longer visible, because it is not indexed.
        log("a gone entry was not in the keyspace under its name; the index forgets it");
        store::forget(db, slot, handle);
    }
    state::with(|state| state.transit.clear());
}

/// Removes a key of the context's database if it holds a gone entry.
pub(crate) fn reclaim_if_gone(ctx: &Context<'_>, name: Str<'_>) -> bool {
    let key = ctx.open(name, Mode::Upkeep);
    let (Some(entry), Some(db)) = (key.entry(), key.db()) else {
        return false;
    };
    let (slot, handle) = (entry.slot(), entry.handle());
    let must_leave = state::index(db, |index| index.must_leave(slot, handle));
    if must_leave {
        take(ctx, db, key, name);
    }
    must_leave
}

/// Notifies replicas of entries that are gone here for a reason that they do not know: those dropped at the start,
/// which a replica that goes on with a partial resync still has, and a few that were gone when they arrived.
fn tell_replicas(ctx: &Context<'_>) {
    if ctx.is_replica() {
        state::with(|state| {
            state.refused.clear();
            state.has_dropped = false;
        });
        return;
    }
    if propagation::may_announce() && state::with(|state| std::mem::take(&mut state.has_dropped)) {
        for db in state::with(|state| state.numbers()) {
            store::empty(db);
            ctx.replicate_words("CACHE.REPLAY", &[b"EMPTY", db.to_string().as_bytes()]);
        }
    }
    if propagation::is_importing() {
        return; // See [`is_held`].
    }
    for _ in 0..REFUSED_AT_ONCE {
        // Nothing may be propagated while clients are paused.
        if !propagation::may_announce() {
            return;
        }
        let Some((db, name)) = state::with(|state| state.refused.last().cloned()) else {
            return;
        };
        ctx.select(db);
        let name = OwnedStr::new(&name);
        let is_announced = reclaim_if_gone(ctx, name.as_str());
        let is_vacant = || ctx.open(name.as_str(), Mode::Upkeep).is_empty();
        // Any other value under the key was propagated by its own command.
        if !is_announced && is_vacant() {
            ctx.replicate(c"UNLINK", &[name.as_str()]);
        }
        state::with(|state| state.refused.pop());
    }
}

/// Works until nothing is left, `enough` returns true, or the budget of a slice is used up. The context must not be a
/// client's, because this function selects databases in it.
pub(super) fn slice(ctx: &Context<'_>, enough: impl Fn() -> bool) {
    let now = now_ms();
    let databases: Vec<u32> = state::with(|state| state.with_work(now).collect());
    let budget = slices::budget();
    let start = Instant::now();
    let mut steps = 0_u32;
    for db in databases {
        ctx.select(db);
        let from = moment();
        let mut finished = false;
        while !finished && step(ctx, db, now) {
            steps += 1;
            finished = steps.is_multiple_of(STEPS_BETWEEN_LOOKS)
                && (start.elapsed() >= budget || enough());
        }
        // Without the time that other processes had the processor, so that only the module's part counts.
        let took = moment().ran.saturating_sub(from.ran).as_micros() as u64;
        state::database(db, |Database { counters, .. }| {
            counters.reclaim_max_us = counters.reclaim_max_us.max(took);
        });
        if finished {
            return;
        }
    }
}

/// As [`arm`], if there is something to do.
pub(crate) fn arm_if_needed(ctx: &Context<'_>) {
    let now = now_ms();
    if state::with(|state| state.has_work(now)) {
        arm(ctx);
    }
}

/// Schedules a slice soon, and installs the filter, so that commands meet no gone keys until the backlog is reclaimed.
pub(crate) fn arm(ctx: &Context<'_>) {
    if state::with(|state| state.backlogs().next().is_some()) {
        filter::install(ctx);
    }
    arm_in(ctx, 1);
}

fn arm_in(ctx: &Context<'_>, ms: u64) {
    if state::with(|state| std::mem::replace(&mut state.reclaim_armed, true)) {
        return;
    }
    ctx.after(ms, on_timer);
}

fn on_timer(ctx: &Context<'_>) {
    let again = guard(Place::Timer, Some(PAUSE_AFTER_PANIC_MS), || {
        state::with(|state| (state.reclaim_armed, state.in_filter) = (false, false));
        let start = moment();
        tell_replicas(ctx);
        slice(ctx, || false);
        let (end, now) = (moment(), now_ms());
        let rest = state::with(|state| {
            let rest = state.reclaim_pace.rest_after(start, end);
            state.has_work(now).then_some(rest)
        })?;
        if state::with(|state| state.hidden.is_some()) {
            return Some(HIDDEN_MS);
        }
        if filter::under_pressure() {
            return Some(0);
        }
        Some((rest.as_millis() as u64).max(1))
    });
    if !state::with(|state| state.backlogs().next().is_some()) {
        filter::remove(ctx);
    }
    if let Some(ms) = again {
        state::with(|state| state.reclaim_armed = false);
        arm_in(ctx, ms);
    }
}
