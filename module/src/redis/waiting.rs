//! Clients that wait in CACHE.FETCH.
//!
//! The server knows them as blocked on their key. When the key is written, it asks [`on_ready`] for each of them in
//! the order in which they came, right after the command that wrote (or after the whole MULTI block): whoever is
//! answered stops waiting, and nobody polls. What the server cannot know, that a lease was given up or has run out, is
//! told by [`pass_on`], which ends the wait of the next in line.
//!
//! A waiter is in [`Waiters`] exactly while its client waits, and in the line of its key's lease until it is answered
//! or goes away.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use ahash::RandomState;
use redis_module::raw;

use super::barrier::{Place, guard};
use super::context::{Context, monotonic_ms};
use super::state;
use super::string::{Args, Str};
use crate::commands::fetch;
use crate::engine::{Token, Waiter};
use crate::error::Error;

/// All clients that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    last: Waiter,
    timer: Option<Timer>,
    blocked: HashMap<Waiter, Blocked, RandomState>,
}

/// The timer for the next lease that runs out.
#[derive(Debug)]
struct Timer {
    id: raw::RedisModuleTimerID,
    at_ms: u64,
}

#[derive(Debug)]
struct Blocked {
    client: *mut raw::RedisModuleBlockedClient,
    db: u32,
    key: Box<[u8]>,
    /// The lease that it asked for.
    lease_ms: Option<u64>,
    /// The lease that it was given at the end of its wait.
    token: Option<Token>,
}

impl Waiters {
    /// The lease that a waiter asked for.
    pub(crate) fn lease_ms(&self, waiter: Waiter) -> Option<u64> {
        self.blocked.get(&waiter)?.lease_ms
    }
}

/// Whether a waiter was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Given,
    NotYet,
}

/// Makes the client wait for the holder of the key's lease. False, and nothing done, if there is none.
pub(crate) fn block(ctx: &Context<'_>, name: Str<'_>, wait_ms: u64, lease_ms: Option<u64>) -> bool {
    let db = ctx.db();
    let now = monotonic_ms();
    let is_held = state::with(|state| {
        let leases = &state.database(db).leases;
        leases.is_held(name.bytes(), now)
    });
    if !is_held {
        return false;
    }
    let waiter = state::with(|state| {
        state.waiters.last += 1;
        state.waiters.last
    });
    let mut keys = [name.as_raw()];
    // SAFETY: the context is that of a command that may block; the server retains the key. The private data is a
    // number. The handle lives until the wait has ended, and `Waiters` forgets it before that.
    let client = unsafe {
        let client = api!(RedisModule_BlockClientOnKeys(
            ctx.as_raw(),
            Some(on_ready),
            Some(on_timeout),
            Some(on_free),
            wait_ms as i64,
            keys.as_mut_ptr(),
            1,
            waiter as usize as *mut c_void
        ));
        if client.is_null() {
            return false;
        }
        api!(RedisModule_SetDisconnectCallback(
            client,
            Some(on_disconnect)
        ));
        client
    };
    state::with(|state| {
        let lease_ms = lease_ms.map(|ms| ms.min(state.config.lease_max_ms));
        let blocked = Blocked {
            client,
            db,
            key: name.bytes().into(),
            lease_ms,
            token: None,
        };
        state.waiters.blocked.insert(waiter, blocked);
        let leases = &mut state.database(db).leases;
        leases.wait(name.bytes(), waiter, lease_ms);
    });
    watch(ctx);
    true
}

/// Sees that the next lease that others wait for is passed on when it has run out. To be called when one was granted
/// that others wait for, and when somebody begins to wait.
pub(crate) fn watch(ctx: &Context<'_>) {
    let due = state::with(|state| {
        let next = state
            .databases()
            .filter_map(|(_, db)| db.leases.next_due_ms())
            .min()?;
        let is_later = |timer: &Timer| timer.at_ms > next;
        let stale = match &state.waiters.timer {
            Some(timer) if !is_later(timer) => return None,
            timer => timer.as_ref().map(|timer| timer.id),
        };
        Some((next, stale))
    });
    let Some((at_ms, stale)) = due else { return };
    let in_ms = at_ms.saturating_sub(monotonic_ms()) + 1;
    // SAFETY: the context is alive. The timers have no data, and the one that is stopped has not fired: `on_timer`
    // forgets it.
    let id = unsafe {
        if let Some(id) = stale {
            api!(RedisModule_StopTimer(
                ctx.as_raw(),
                id,
                std::ptr::null_mut()
            ));
        }
        api!(RedisModule_CreateTimer(
            ctx.as_raw(),
            in_ms as i64,
            Some(on_timer),
            std::ptr::null_mut()
        ))
    };
    state::with(|state| state.waiters.timer = Some(Timer { id, at_ms }));
}

unsafe extern "C" fn on_timer(ctx: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    guard(Place::Timer, (), || {
        // SAFETY: the server passes a live context.
        let ctx = unsafe { Context::from_raw(ctx) };
        state::with(|state| state.waiters.timer = None);
        let now = monotonic_ms();
        let next_due = || {
            state::with(|state| {
                let mut all = state.databases();
                all.find_map(|(db, database)| Some((db, database.leases.due(now)?)))
            })
        };
        while let Some((db, key)) = next_due() {
            pass_on(&ctx, db, &key);
        }
        watch(&ctx);
    });
}

/// If nobody holds the lease of a key any more, ends the wait of the next in line for it.
pub(crate) fn pass_on(ctx: &Context<'_>, db: u32, key: &[u8]) {
    let now = monotonic_ms();
    let released = state::with(|state| {
        let database = state.database(db);
        let clock = database.clock.reading();
        let released = database.leases.pass_on(key, clock, now);
        for released in &released {
            if let Some(blocked) = state.waiters.blocked.get_mut(&released.waiter) {
                blocked.token = released.token;
            }
        }
        released
    });
    if !released.is_empty() {
        watch(ctx);
    }
    for released in released {
        end(released.waiter);
    }
}

/// Ends the wait of a client, with what it was given.
fn end(waiter: Waiter) {
    let client = state::with(|state| Some(state.waiters.blocked.get(&waiter)?.client));
    if let Some(client) = client {
        // SAFETY: the client still waits, so its handle is alive. This calls `on_timeout`.
        unsafe { api!(RedisModule_UnblockClient(client, std::ptr::null_mut())) };
    }
}

/// Ends all leases of a database, and passes those on that others wait for.
pub(crate) fn restart(ctx: &Context<'_>, db: u32) {
    let now = monotonic_ms();
    let awaited = state::with(|state| state.database(db).leases.end_all(now));
    for key in awaited {
        pass_on(ctx, db, &key);
    }
}

/// In a cluster: ends all leases if slots may have moved since they were granted.
///
/// A slot that goes to another node and comes back brings with it what happened there, which this node did not see.
/// Nothing announces that, but each node that takes a slot over raises the cluster's epoch.
pub(crate) fn end_if_slots_moved(ctx: &Context<'_>) {
    let Some(epoch) = ctx.cluster_epoch() else {
        return;
    };
    let seen = state::with(|state| state.cluster_epoch.replace(epoch));
    if seen.is_some_and(|seen| seen != epoch) {
        let numbers: Vec<u32> =
            state::with(|state| state.databases().map(|(number, _)| number).collect());
        for db in numbers {
            restart(ctx, db);
        }
    }
}

/// Ends all leases of a database, and all waits for them.
pub(crate) fn clear(db: u32) {
    for waiter in state::with(|state| state.database(db).leases.clear()) {
        end(waiter);
    }
}

/// The key was written: its lease is over, and those who wait for it are served when the command is done.
pub(crate) fn written(ctx: &Context<'_>, db: u32, name: Str<'_>) {
    let is_awaited = state::with(|state| {
        let leases = &mut state.database(db).leases;
        !leases.is_empty() && leases.end(name.bytes(), monotonic_ms())
    });
    if is_awaited {
        // SAFETY: the context is alive, and so is the name.
        unsafe { api!(RedisModule_SignalKeyAsReady(ctx.as_raw(), name.as_raw())) };
        // The key may leave again before they are served, in the same MULTI block.
        watch(ctx);
    }
}

/// These keys were removed: what is being loaded for them must not be written, and the next in line load anew.
pub(crate) fn removed<'n>(
    ctx: &Context<'_>,
    db: u32,
    names: impl Iterator<Item = Str<'n>> + Clone,
) {
    let is_any_awaited = state::with(|state| {
        let leases = &mut state.database(db).leases;
        if leases.is_empty() {
            return false;
        }
        let now = monotonic_ms();
        let awaited = names.clone().filter(|name| leases.end(name.bytes(), now));
        awaited.count() > 0
    });
    if is_any_awaited {
        names.for_each(|name| pass_on(ctx, db, name.bytes()));
    }
}

/// Forgets a client that waits no longer, and returns what it was given.
fn forget(waiter: Waiter) -> Option<Token> {
    state::with(|state| {
        let blocked = state.waiters.blocked.remove(&waiter)?;
        let leases = &mut state.database(blocked.db).leases;
        leases.leave(&blocked.key, waiter);
        blocked.token
    })
}

/// The waiter that a callback is about.
///
/// # Safety
/// The context must be that of a callback of `block`.
unsafe fn waiter_of(ctx: *mut raw::RedisModuleCtx) -> Waiter {
    // SAFETY: by the caller's promise.
    unsafe { api!(RedisModule_GetBlockedClientPrivateData(ctx)) as usize as Waiter }
}

unsafe extern "C" fn on_ready(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    let not_yet = raw::REDISMODULE_ERR as c_int;
    guard(Place::Command, not_yet, || {
        // SAFETY: the server passes a live context of this wait, and the arguments of the command that waits.
        let (waiter, ctx, args) = unsafe {
            (
                waiter_of(ctx),
                Context::from_raw(ctx),
                Args::from_raw(argv, argc),
            )
        };
        let Ok([name]) = args.first::<1>() else {
            return not_yet;
        };
        if fetch::answer_waiter(&ctx, name, waiter) == Answer::NotYet {
            return not_yet;
        }
        forget(waiter);
        raw::REDISMODULE_OK as c_int
    })
}

unsafe extern "C" fn on_timeout(
    ctx: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    _argc: c_int,
) -> c_int {
    // SAFETY: the server passes a live context of this wait.
    let (waiter, ctx) = unsafe { (waiter_of(ctx), Context::from_raw(ctx)) };
    let is_answered = guard(Place::Command, false, || {
        let token = forget(waiter);
        fetch::answer_miss(&ctx, token);
        true
    });
    if !is_answered {
        ctx.reply_error(&Error::Internal);
    }
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn on_disconnect(
    ctx: *mut raw::RedisModuleCtx,
    _client: *mut raw::RedisModuleBlockedClient,
) {
    guard(Place::Other, (), || {
        // SAFETY: the server passes a context of this wait.
        forget(unsafe { waiter_of(ctx) });
    });
}

unsafe extern "C" fn on_free(_ctx: *mut raw::RedisModuleCtx, data: *mut c_void) {
    // Where a wait ended without any of the above.
    guard(Place::Other, (), || {
        forget(data as usize as Waiter);
    });
}
