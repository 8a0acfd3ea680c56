//! While a backlog exists: no command meets a gone key, and memory pressure is met with stale entries first.
//!
//! Nodes reclaim at their own pace, so for a while a gone key is still there on one node and not on another. A native
//! command that depends on whether a key exists (SETNX, RENAME, SET … XX) would then do different things on a primary
//! and its replica. So, while there is a backlog, a command filter looks at the keys that a command names and removes
//! the gone ones first. It is taken away again with the last of the backlog: commands pay nothing for it otherwise.
//!
//! The filter itself must not touch keys (it runs outside of any command, where an expiry could not be propagated), so
//! it calls the internal command CACHE.RECLAIM, which can.

use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, Ordering};

use redis_module::raw;
use smallvec::SmallVec;

use super::barrier::{Place, guard};
use super::context::{Context, Mode, command_time_ms};
use super::key::Kind;
use super::reclaim;
use super::state;
use super::string::{Args, OwnedStr, Str};
use crate::error::Error;

/// The filter while it is installed, and the context that it calls commands with.
static FILTER: AtomicPtr<raw::RedisModuleCommandFilter> = AtomicPtr::new(std::ptr::null_mut());
static CONTEXT: AtomicPtr<raw::RedisModuleCtx> = AtomicPtr::new(std::ptr::null_mut());

/// The part of `maxmemory` from which on commands free stale entries first.
const PRESSURE: f32 = 0.98;

pub(super) fn install(ctx: &Context<'_>) {
    if !FILTER.load(Ordering::Relaxed).is_null() {
        return;
    }
    // SAFETY: the context is alive, and that of this module.
    unsafe {
        if CONTEXT.load(Ordering::Relaxed).is_null() {
            CONTEXT.store(
                api!(RedisModule_GetDetachedThreadSafeContext(ctx.as_raw())),
                Ordering::Relaxed,
            );
        }
        let no_self = raw::REDISMODULE_CMDFILTER_NOSELF as c_int;
        FILTER.store(
            api!(RedisModule_RegisterCommandFilter(
                ctx.as_raw(),
                Some(on_command),
                no_self
            )),
            Ordering::Relaxed,
        );
    }
}

pub(super) fn remove(ctx: &Context<'_>) {
    let filter = FILTER.swap(std::ptr::null_mut(), Ordering::Relaxed);
    if !filter.is_null() {
        // SAFETY: registered by `install`, and not removed since.
        unsafe { api!(RedisModule_UnregisterCommandFilter(ctx.as_raw(), filter)) };
    }
}

/// A native command inside MULTI met a gone entry, which the filter could not see: the command was queued before. A
/// replica, or this server when it loads its append-only file, may have no such key by then, and the command would do
/// something else there. So it is told, in front of the command, to hold a gone entry under this key.
///
/// What overwrites the key is announced at once, with the TTL that the command may keep. What removes it may be the
/// server itself, because the key has expired, and then nothing must be announced, or even a command that fails would
/// be propagated. Of all others only RENAME and MOVE depend on the key, and [`announce_removed`] hears of these.
pub(super) fn met_gone(db: u32, name: &[u8]) {
    let Some(ctx) = own_context() else { return };
    ctx.select(db);
    let owned = OwnedStr::new(name);
    let key = ctx.open(owned.as_str(), Mode::Peek);
    if matches!(key.kind(), Kind::Empty) {
        state::with(|state| state.removed_gone = Some((db, name.to_vec())));
        return;
    }
    let deadline = key.deadline_ms();
    // Servers that still show the key here show an expired one as well.
    if let (Some(deadline), Some(now)) = (deadline, command_time_ms())
        && deadline <= now
    {
        return;
    }
    let at = deadline.map(|ms| (OwnedStr::new(b"PXAT"), OwnedStr::from_number(ms as i64)));
    let word = OwnedStr::new(b"GONE");
    let mut parts = vec![word.as_str(), owned.as_str()];
    if let Some((word, ms)) = &at {
        parts.extend([word.as_str(), ms.as_str()]);
    }
    ctx.replicate(c"CACHE.REPLAY", &parts);
}

/// RENAME or MOVE took a key away: if it was the gone one that [`met_gone`] saw last, that is announced.
pub(super) fn announce_removed(name: Str<'_>) {
    let removed = state::with(|state| state.removed_gone.take());
    let Some((db, _)) = removed.filter(|(_, key)| key == name.bytes()) else {
        return;
    };
    let Some(ctx) = own_context() else { return };
    ctx.select(db);
    let word = OwnedStr::new(b"GONE");
    ctx.replicate(c"CACHE.REPLAY", &[word.as_str(), name]);
}

/// The context of the module's own, made with the first backlog.
fn own_context<'a>() -> Option<Context<'a>> {
    let ctx = CONTEXT.load(Ordering::Relaxed);
    // SAFETY: made by `install`, and never freed.
    (!ctx.is_null()).then(|| unsafe { Context::from_raw(ctx) })
}

/// Whether the server is executing a MULTI block.
pub(super) fn in_transaction() -> bool {
    // SAFETY: without a context, the flags of the server alone are returned.
    let flags = unsafe { api!(RedisModule_GetContextFlags(std::ptr::null_mut())) } as u32;
    flags & raw::REDISMODULE_CTX_FLAGS_MULTI != 0
}

fn under_pressure() -> bool {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_GetUsedMemoryRatio()) >= PRESSURE }
}

unsafe extern "C" fn on_command(filter: *mut raw::RedisModuleCommandFilterCtx) {
    guard(Place::Other, (), || {
        if in_transaction() {
            // A script that is called inside MULTI. Until the block ends, gone keys stay where they are: replicas
            // are sent the script's commands, and those that were queued by themselves did not pass here either.
            return;
        }
        let ctx = CONTEXT.load(Ordering::Relaxed);
        // SAFETY: the server passes a live filter context; its arguments are alive during the call.
        let mut argv: SmallVec<[*mut raw::RedisModuleString; 16]> = unsafe {
            let argc = api!(RedisModule_CommandFilterArgsCount(filter));
            (0..argc)
                .map(|at| api!(RedisModule_CommandFilterArgGet(filter, at)))
                .collect()
        };
        let mut keys: SmallVec<[*mut raw::RedisModuleString; 16]> = SmallVec::new();
        if !is_own(&mut argv) {
            let mut count = 0;
            // SAFETY: the arguments are alive; the positions are an array of `count` indices into them, ours to free.
            unsafe {
                let positions = api!(RedisModule_GetCommandKeys(
                    ctx,
                    argv.as_mut_ptr(),
                    argv.len() as c_int,
                    &raw mut count
                ));
                if !positions.is_null() {
                    let places = std::slice::from_raw_parts(positions, count as usize);
                    keys.extend(
                        places
                            .iter()
                            .filter_map(|&at| argv.get(at as usize).copied()),
                    );
                    api!(RedisModule_Free(positions.cast()));
                }
            }
        }
        if keys.is_empty() && !under_pressure() {
            return;
        }
        // SAFETY: "v" takes an array of strings and its length; the reply is freed. "!" lets through what the server
        // propagates meanwhile: a key that has expired is deleted by the look at it, and replicas must hear of that.
        unsafe {
            let reply = api!(RedisModule_Call(
                ctx,
                c"cache.reclaim".as_ptr(),
                c"!v".as_ptr(),
                keys.as_mut_ptr(),
                keys.len()
            ));
            if !reply.is_null() {
                api!(RedisModule_FreeCallReply(reply));
            }
        }
    });
}

/// Commands of the module see gone entries for what they are.
fn is_own(argv: &mut [*mut raw::RedisModuleString]) -> bool {
    // SAFETY: the arguments are alive during the call.
    let args = unsafe { Args::from_raw(argv.as_mut_ptr(), argv.len() as c_int) };
    args.name()
        .is_none_or(|name| name.len() > 6 && name[..6].eq_ignore_ascii_case(b"cache."))
}

/// `CACHE.RECLAIM [key ...]` → OK. Internal: frees the gone entries under these keys, in every database, and, while
/// memory is short, as many others as fit into one slice. Never replicated. Harmless if called by hand.
#[allow(clippy::unnecessary_wraps, reason = "all commands have this form")]
pub(crate) fn reclaim_command(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    if in_transaction() {
        ctx.reply_ok(); // Called by hand inside MULTI, where gone keys stay where they are.
        return Ok(());
    }
    let db = ctx.db();
    for name in args.iter() {
        for dropped_in in reclaim::reclaim_key(ctx, name) {
            if ctx.is_script() {
                // A replica gets the script's commands as one MULTI block: they pass its filter before the
                // invalidation among them is executed. So it is told where the key had to go.
                ctx.select(dropped_in);
                let word = OwnedStr::new(b"DROP");
                ctx.replicate(c"CACHE.REPLAY", &[word.as_str(), name]);
            }
        }
    }
    if under_pressure() && !ctx.is_script() {
        reclaim::slice(ctx, || !under_pressure());
    }
    ctx.select(db);
    ctx.reply_ok();
    Ok(())
}
