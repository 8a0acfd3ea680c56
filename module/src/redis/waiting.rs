//! Clients that wait in CACHE.FETCH.
//!
//! `DESIGN.md` (Leases) describes how they are served.
//!
//! A waiter is in [`Waiters`] exactly while its client waits. It is in the line of its key's lease until it gets a
//! reply or goes away.
//!
//! # Replies are tracked
//! The server remembers keys for CLIENT TRACKING when a command returns, which is when the wait begins; a write to the
//! key uses that up. So for a client that tracks, [`on_ready`] reads the key on its behalf, whether it replies or not.
//! Servers before Redis 7.2 would not count that read for the client. There, a client that tracks gets its reply inside
//! the command that writes, before the module signals the change to the server: the server's tracking invalidation then
//! follows the reply. That is not possible where a native command wrote the entry; there, such a client gets a MISS,
//! and retries.

mod callbacks;
mod keys;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{c_int, c_void};

use redis_module::raw;

use super::state::{self, CallsNothingBack, State};
use super::{Context, Place, Str, Undo, guard, monotonic_ms, panic_point, slices};
use crate::engine::{Caller, Database, Key, Seeded, Token, Waiter};
use crate::entry::Handle;
use callbacks::{on_disconnect, on_free, on_ready, on_timeout};
pub(crate) use keys::{may_appear, refused, removed, serve_trackers, written};

/// All clients that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    last: Waiter,
    /// When timers fire, on the monotonic clock, ms. A new one is set only before all of them, so there are few.
    timers: BTreeSet<u64>,
    blocked: HashMap<Waiter, Blocked, Seeded>,
    /// The module listens for keys that other types create. It begins with the first wait, so that before it native
    /// commands that create keys pay nothing.
    listens: bool,
}

#[derive(Debug)]
struct Blocked {
    /// Null until the server has blocked it.
    client: CallsNothingBack<*mut raw::RedisModuleBlockedClient>,
    db: u32,
    key: Key,
    ending: Ending,
}

/// The reply that a client gets if its wait ends before the server notices a write to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// MISS, with the lease that was granted to it.
    Miss(Option<Token>),
    /// The state of the key at that time.
    Look,
}

/// Leases that are changed before the next look at the time.
const AT_ONCE: usize = 16;

/// Makes the client wait for the holder of the key's lease. Returns false, and does nothing, if no client holds it, or if
/// the key cannot be looked up when the client is served.
pub(crate) fn block(ctx: &Context<'_>, name: Str<'_>, wait_ms: u64, caller: Caller) -> bool {
    if !ctx.is_lookup_safe_for(caller.client) {
        return false;
    }
    let db = ctx.db();
    let now = monotonic_ms();
    let waiter = state::with(|state| {
        state.waiters.last += 1;
        let waiter = state.waiters.last;
        let terms = state.lease_terms(db, now);
        let leases = &mut state.database(db).leases;
        let key = leases.wait(name.bytes(), waiter, caller, terms)?;
        let blocked = Blocked {
            client: CallsNothingBack::new(std::ptr::null_mut()),
            db,
            key,
            ending: Ending::Miss(None),
        };
        state.waiters.blocked.insert(waiter, blocked);
        Some(waiter)
    });
    let Some(waiter) = waiter else { return false };
    // A client that gets an error must not be blocked, and each client in line must be. So calls that may panic come
    // before the server blocks the client.
    let undo = Undo(|| _ = forget(waiter));
    if !state::with(|state| std::mem::replace(&mut state.waiters.listens, true)) {
        // All types. The server refuses nothing here.
        super::events::subscribe_to_keys(ctx, raw::REDISMODULE_NOTIFY_NEW);
    }
    watch(ctx);
    panic_point(Place::Wait);
    let mut keys = [name.as_raw()];
    // SAFETY: the context is that of a command that may block; the server retains the key. The private data is a
    // number. The handle lives until the wait has ended, and `Waiters` forgets it before that.
    let client = unsafe {
        let (ctx, keys, ms) = (ctx.as_raw(), keys.as_mut_ptr(), wait_ms as i64);
        let data = waiter as usize as *mut c_void;
        let (ready, timeout) = (Some(on_ready as _), Some(on_timeout as _));
        let free = Some(on_free as _);
        let client = if let Some(block) = raw::RedisModule_BlockClientOnKeysWithFlags {
            // The server calls `on_ready` also if the key was deleted, because that used up the tracking.
            let flags = raw::REDISMODULE_BLOCK_UNBLOCK_DELETED as c_int;
            block(ctx, ready, timeout, free, ms, keys, 1, data, flags)
        } else {
            let block = raw::RedisModule_BlockClientOnKeys.expect("every supported server has it");
            block(ctx, ready, timeout, free, ms, keys, 1, data)
        };
        if client.is_null() {
            forget(waiter);
            return false;
        }
        let gone = Some(on_disconnect as _);
        api!(RedisModule_SetDisconnectCallback(client, gone));
        client
    };
    drop(undo);
    let client = CallsNothingBack::new(client);
    state::with(|state| {
        if let Some(blocked) = state.waiters.blocked.get_mut(&waiter) {
            blocked.client = client;
        }
    });
    true
}

/// Arranges that the next lease that others wait for is passed on when it runs out. To be called when such a lease was
/// granted or changed, and when a client begins to wait.
pub(crate) fn watch(ctx: &Context<'_>) {
    let due_ms = state::with(|state| {
        let (next_ms, ..) = next_due(state)?;
        let timers = &mut state.waiters.timers;
        let is_sooner = timers.first().is_none_or(|&at_ms| next_ms < at_ms);
        (is_sooner && timers.insert(next_ms)).then_some(next_ms)
    });
    if let Some(at_ms) = due_ms {
        let in_ms = at_ms.saturating_sub(monotonic_ms()) + 1;
        ctx.after(in_ms, move |ctx| on_timer(ctx, at_ms));
    }
}

/// The next lease to run out that others wait for: when it ends, its database, and its key.
fn next_due(state: &State) -> Option<(u64, u32, Key)> {
    let due = |(db, database): (u32, &Database<Handle>)| {
        let (at_ms, key) = database.leases.next_due()?;
        Some((*at_ms, db, Key::clone(key)))
    };
    state.databases().filter_map(due).min()
}

fn on_timer(ctx: &Context<'_>, at_ms: u64) {
    state::with(|state| state.waiters.timers.remove(&at_ms));
    let is_done = guard(Place::Wait, false, || {
        let now = monotonic_ms();
        let over = |state: &mut State| next_due(state).filter(|&(at_ms, ..)| at_ms <= now);
        while let Some((_, db, key)) = state::with(over) {
            pass_on(ctx, db, &key);
        }
        watch(ctx);
        true
    });
    if !is_done {
        abandon();
    }
}

/// After a panic that may have lost a waiter: ends all waits, and all leases with them.
fn abandon() {
    guard(Place::Other, (), || {
        for db in state::with(|state| state.numbers()) {
            clear(db);
        }
        let rest: Vec<Waiter> =
            state::with(|state| state.waiters.blocked.keys().copied().collect());
        rest.into_iter().for_each(end);
    });
}

/// If no client holds the lease of a key any more, ends the wait of the next in line for it.
pub(crate) fn pass_on(ctx: &Context<'_>, db: u32, key: &[u8]) {
    let now = monotonic_ms();
    let released = state::with(|state| {
        let terms = state.lease_terms(db, now);
        let released = state.database(db).leases.pass_on(key, terms);
        for (waiter, token) in &released {
            if let Some(blocked) = state.waiters.blocked.get_mut(waiter) {
                blocked.ending = Ending::Miss(*token);
            }
        }
        released
    });
    if released.is_empty() {
        return;
    }
    for (waiter, _) in released {
        end(waiter);
    }
    watch(ctx);
}

/// Ends the wait of a client, with the lease that was granted to it.
fn end(waiter: Waiter) {
    let client = state::with(|state| Some(state.waiters.blocked.get(&waiter)?.client));
    let client = client.map(|client| client.get());
    if let Some(client) = client.filter(|client| !client.is_null()) {
        // SAFETY: the client still waits, so its handle is alive. This calls `on_timeout`, now or soon.
        unsafe { api!(RedisModule_UnblockClient(client, std::ptr::null_mut())) };
    }
}

/// Ends all leases of a database, and passes on those that others wait for.
pub(crate) fn restart(ctx: &Context<'_>, db: u32) {
    let now = monotonic_ms();
    let awaited = state::database(db, |database| database.leases.end_all(now));
    for key in awaited {
        pass_on(ctx, db, &key);
        // A flush has used up all tracking.
        may_appear(&key);
    }
}

/// Ends all leases of a database, and all waits for them.
pub(crate) fn clear(db: u32) {
    let now = monotonic_ms();
    for waiter in state::database(db, |database| database.leases.clear(now)) {
        end(waiter);
    }
}

/// A connection was closed: its leases run out soon.
pub(crate) fn disconnected(ctx: &Context<'_>, client: u64) {
    let orphan_ms = state::with(|state| state.config.lease_orphan_ms);
    orphan(ctx, client, monotonic_ms().saturating_add(orphan_ms));
}

/// The leases of a closed connection run out at this time at the latest. Works in slices, because there may be many.
fn orphan(ctx: &Context<'_>, client: u64, ends_ms: u64) {
    let disconnect = |state: &mut State| {
        let mut all = state.databases_mut();
        let are_all = all.all(|(_, db)| db.leases.disconnected(client, ends_ms, AT_ONCE));
        are_all.then_some(())
    };
    let is_done = slices::slice(&mut || state::with(disconnect), slices::budget()).is_some();
    watch(ctx);
    if !is_done {
        ctx.after(1, move |ctx| orphan(ctx, client, ends_ms));
    }
}

/// Forgets a client that waits no longer, and returns its data.
fn forget(waiter: Waiter) -> Option<Blocked> {
    state::with(|state| {
        let blocked = state.waiters.blocked.remove(&waiter)?;
        let leases = &mut state.database(blocked.db).leases;
        leases.leave(&blocked.key, waiter);
        Some(blocked)
    })
}

/// Forgets a client that gets no reply, or an error. A lease that was granted to it goes to the next in line.
fn give_up(ctx: &Context<'_>, waiter: Waiter) {
    guard(Place::Other, (), || {
        if let Some(blocked) = forget(waiter)
            && let Ending::Miss(Some(token)) = blocked.ending
        {
            let (key, now) = (&*blocked.key, monotonic_ms());
            state::database(blocked.db, |database| {
                database.leases.release(key, token, now)
            });
            watch(ctx);
        }
    });
}

/// Whether the server counts the reads of a module that serves a client as reads of that client. A server has this call
/// exactly if it counts so: both came with Redis 7.2.
fn tracks_on_behalf() -> bool {
    // SAFETY: set once, at the start of loading.
    unsafe { raw::RedisModule_BlockClientOnKeysWithFlags }.is_some()
}
