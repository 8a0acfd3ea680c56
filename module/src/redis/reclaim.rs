//! Giving back the memory of gone entries, without ever holding the server up.
//!
//! A small invalidation is reclaimed inside its command, except inside MULTI and scripts, where what the rest of the
//! block finds must not depend on a count that differs between nodes. A larger one leaves a backlog, on which work: a
//! timer, in slices of `reclaim-budget-us`; every CACHE.SET, four entries each; and, while memory is short, every
//! command ([`super::filter`]), so that stale entries go before the server evicts live ones. Each node reclaims for
//! itself: nothing of this is replicated.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use redis_module::raw;

use super::barrier::{Place, guard, log};
use super::context::{Context, Mode};
use super::filter;
use super::key::Kind;
use super::sizes;
use super::state;
use super::string::{OwnedStr, Str};
use crate::commands::own_slot;
use crate::engine::{Slot, Step};
use crate::entry::{Entry, Handle};

/// Entries that each CACHE.SET frees while a backlog exists: more than it adds, so that writers cannot outrun it.
const HELP: u64 = 4;

/// How often a slice looks at the time.
const STEPS_BETWEEN_LOOKS: u32 = 4;

/// A slice that panicked is tried again after this time instead of at once.
const PAUSE_AFTER_PANIC_MS: i64 = 1_000;

/// After an invalidation that dropped so much: frees it at once if it is small, else sees that it is done later.
pub(crate) fn after_invalidation(ctx: &Context<'_>, dropped: u64) {
    let db = ctx.db();
    let is_small = dropped <= state::with(|state| state.config.reclaim_inline).into();
    if dropped > 0 && is_small && !ctx.is_atomic_block() {
        reclaim_entries(ctx, db, dropped);
    }
    if !state::with(|state| state.database(db).index.has_work()) {
        return;
    }
    if ctx.is_loading() {
        // An append-only file goes on at once with commands that, when they were logged, found the keys gone.
        reclaim_entries(ctx, db, u64::MAX);
    } else {
        arm(ctx);
    }
}

/// Frees a few entries on behalf of a writer.
pub(crate) fn help(ctx: &Context<'_>) {
    let db = ctx.db();
    // Not inside MULTI or a script: what such a block sees of its own invalidations shall not depend on how far this
    // node's reclaiming is, since its replicas run the same block.
    if state::with(|state| state.database(db).index.has_backlog()) && !ctx.is_atomic_block() {
        reclaim_entries(ctx, db, HELP);
    }
}

/// Frees up to so many entries of the context's database. Bookkeeping on the way is bounded as well: after a flush, there
/// may be very many lists between one entry and the next. What is left is the timer's.
fn reclaim_entries(ctx: &Context<'_>, db: u32, limit: u64) {
    let mut freed = 0;
    let mut bookkeeping = limit.saturating_mul(16).saturating_add(1024);
    loop {
        match state::with(|state| state.database(db).index.reclaim_step()) {
            Step::Gone(_) if freed == limit => return,
            Step::Gone(slot) => {
                reclaim_one(ctx, db, slot);
                freed += 1;
            }
            Step::Softened(slot, since_ms) => {
                limit_life(ctx, db, slot, since_ms);
                if freed == limit {
                    return;
                }
                freed += 1;
            }
            Step::Working if bookkeeping == 0 => return,
            Step::Working => bookkeeping -= 1,
            Step::Idle => return,
        }
    }
}

/// Takes one gone entry out of the keyspace.
fn reclaim_one(ctx: &Context<'_>, db: u32, slot: Slot) {
    let (handle, name) = handle_and_name(db, slot);
    let name = name.as_str();
    let mut key = ctx.open(name, Mode::Upkeep);
    if matches!(key.kind(), Kind::Entry(entry) if entry.handle() == handle) {
        key.delete();
        drop(key);
        ctx.signal_modified(name);
    } else {
        drop(key);
        remove_hidden(ctx, db, slot, handle, name);
    }
    state::with(|state| state.parked.clear());
}

/// Makes the time to live of an entry that became stale end with its grace, so that the server removes it then; and tells
/// WATCH and CLIENT TRACKING. Each node does so for itself, as with memory. Until then, and where the time to live is
/// changed afterwards, the mark in the index says how long it may be served.
fn limit_life(ctx: &Context<'_>, db: u32, slot: Slot, since_ms: u64) {
    let (handle, name) = handle_and_name(db, slot);
    let name = name.as_str();
    let mut key = ctx.open(name, Mode::Upkeep);
    let Kind::Entry(entry) = key.kind() else {
        return; // It expired meanwhile.
    };
    if entry.handle() != handle {
        return;
    }
    let over = since_ms.saturating_add(entry.grace_ms());
    if key.deadline_ms().is_none_or(|deadline| over < deadline) {
        let before = sizes::cost(entry);
        entry.set_has_ttl(true);
        let after = sizes::cost(entry);
        state::with(|state| state.database(db).index.resize(slot, before, after));
        key.set_deadline_ms(Some(over));
    }
    drop(key);
    ctx.signal_modified(name);
}

/// A native command changed when a key expires: an entry that is stale by a soft invalidation lives no longer than its
/// grace all the same.
pub(super) fn limit_again(ctx: &Context<'_>, name: Str<'_>) {
    if !state::with(|state| state.databases().any(|(_, db)| db.index.has_soft())) {
        return;
    }
    let key = ctx.open(name, Mode::Upkeep);
    let (Kind::Entry(entry), Some(db)) = (key.kind(), key.db()) else {
        return;
    };
    let softened = state::with(|state| {
        let slot = own_slot(state.database(db), entry)?;
        let since_ms = state.database(db).index.soft_since_ms(slot)?;
        Some((slot, since_ms))
    });
    drop(key);
    if let Some((slot, since_ms)) = softened {
        ctx.select(db);
        limit_life(ctx, db, slot, since_ms);
    }
}

/// The entry in a slot that is in use, and its name.
fn handle_and_name(db: u32, slot: Slot) -> (Handle, OwnedStr) {
    state::with(|state| {
        let handle = state.database(db).index.entry(slot);
        // SAFETY: invariant 1: an entry in the index is in the keyspace, and nothing is removed in between.
        let entry = unsafe { Entry::from_handle(handle) };
        (handle, OwnedStr::new(entry.key()))
    })
}

/// Opening the key did not show the entry. Either it expired and opening removed it: done. Or this is a replica, which
/// hides expired keys until its primary deletes them: DEL does not mind.
#[cold]
fn remove_hidden(ctx: &Context<'_>, db: u32, slot: Slot, handle: Handle, name: Str<'_>) {
    let is_indexed = || state::with(|state| state.database(db).index.holds(slot, handle));
    if !is_indexed() {
        return;
    }
    // SAFETY: "s" takes a string; the reply is freed, null is taken.
    unsafe {
        let reply = api!(RedisModule_Call(
            ctx.as_raw(),
            c"DEL".as_ptr(),
            c"s".as_ptr(),
            name.as_raw()
        ));
        if !reply.is_null() {
            api!(RedisModule_FreeCallReply(reply));
        }
    }
    if is_indexed() {
        // The keyspace does not know the entry under its name. The index must go on all the same, and the entry, where
        // ever it is, is no longer visible, since it is not indexed.
        log(
            c"warning",
            "a gone entry was not in the keyspace under its name; the index forgets it",
        );
        state::with(|state| {
            // SAFETY: nothing freed the entry: `unlink` would have taken it out of the index.
            let entry = unsafe { Entry::from_handle(handle) };
            let removed = state.database(db).index.remove(slot, sizes::cost(entry));
            entry.set_unlinked(removed.hits, true);
        });
    }
}

/// Removes a key in whichever databases it holds a gone entry, and returns those. The context must not be a client's.
pub(super) fn reclaim_key(ctx: &Context<'_>, name: Str<'_>) -> Vec<u32> {
    let mut databases = state::with(|state| state.with_work());
    databases.retain(|&db| {
        ctx.select(db);
        reclaim_if_gone(ctx, name)
    });
    databases
}

/// Removes a key of the context's database if it holds a gone entry.
pub(crate) fn reclaim_if_gone(ctx: &Context<'_>, name: Str<'_>) -> bool {
    let key = ctx.open(name, Mode::Upkeep);
    let (Kind::Entry(entry), Some(db)) = (key.kind(), key.db()) else {
        return false;
    };
    let gone = entry.slot().map(Slot).filter(|&slot| {
        state::with(|state| {
            let index = &state.database(db).index;
            index.holds(slot, entry.handle()) && index.is_gone(slot)
        })
    });
    drop(key);
    if let Some(slot) = gone {
        reclaim_one(ctx, db, slot);
    }
    gone.is_some()
}

/// Works until nothing is left, `enough` says so, or the budget of a slice is used up. The context must not be a
/// client's: it walks through the databases.
pub(super) fn slice(ctx: &Context<'_>, enough: impl Fn() -> bool) {
    let (databases, budget) = state::with(|state| {
        (
            state.with_work(),
            Duration::from_micros(state.config.reclaim_budget_us),
        )
    });
    let start = Instant::now();
    let mut steps = 0_u32;
    for db in databases {
        ctx.select(db);
        let from = Instant::now();
        let mut finished = false;
        while !finished {
            match state::with(|state| state.database(db).index.reclaim_step()) {
                Step::Gone(slot) => reclaim_one(ctx, db, slot),
                Step::Softened(slot, since_ms) => limit_life(ctx, db, slot, since_ms),
                Step::Working => {}
                Step::Idle => break,
            }
            steps += 1;
            finished = steps.is_multiple_of(STEPS_BETWEEN_LOOKS)
                && (start.elapsed() >= budget || enough());
        }
        let took = from.elapsed().as_micros() as u64;
        state::with(|state| {
            let counters = &mut state.database(db).counters;
            counters.reclaim_max_us = counters.reclaim_max_us.max(took);
        });
        if finished {
            return;
        }
    }
}

/// Sees that a slice runs soon, and that commands meet no gone keys until the backlog is worked off.
pub(crate) fn arm(ctx: &Context<'_>) {
    if state::with(|state| state.has_backlog()) {
        filter::install(ctx);
    }
    arm_in(ctx, 1);
}

fn arm_in(ctx: &Context<'_>, ms: i64) {
    if state::with(|state| std::mem::replace(&mut state.reclaim_armed, true)) {
        return;
    }
    // SAFETY: the context is alive; the callback takes no data.
    unsafe {
        api!(RedisModule_CreateTimer(
            ctx.as_raw(),
            ms,
            Some(on_timer),
            std::ptr::null_mut()
        ))
    };
}

unsafe extern "C" fn on_timer(ctx: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    // SAFETY: the server passes a live context, one of its own and no client's.
    let ctx = unsafe { Context::from_raw(ctx) };
    let again = guard(Place::Timer, Some(PAUSE_AFTER_PANIC_MS), || {
        state::with(|state| state.reclaim_armed = false);
        slice(&ctx, || false);
        state::with(|state| state.has_work()).then_some(1)
    });
    guard(Place::Other, (), || {
        if !state::with(|state| state.has_backlog()) {
            filter::remove(&ctx);
        }
        if let Some(ms) = again {
            state::with(|state| state.reclaim_armed = false);
            arm_in(&ctx, ms);
        }
    });
}
