//! Callbacks that the server calls for a client that waits.

use std::ffi::{c_int, c_void};

use redis_module::raw;

use super::{Ending, forget, give_up, tracks_on_behalf};
use crate::commands::fetch;
use crate::engine::Waiter;
use crate::redis::{Args, Context, ERR, OK, Place, access, barrier, filter, panic_point, state};

/// The waiter that a callback is about.
///
/// # Safety
/// The context must be that of a callback of `block`.
unsafe fn waiter_of(ctx: *mut raw::RedisModuleCtx) -> Waiter {
    // SAFETY: by the caller's promise.
    unsafe { api!(RedisModule_GetBlockedClientPrivateData(ctx)) as usize as Waiter }
}

pub(super) unsafe extern "C" fn on_ready(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // SAFETY: the server passes a live context of this wait, and the arguments of the command that waits.
    let (waiter, ctx, args) = unsafe {
        let args = Args::from_raw(argv, argc);
        (waiter_of(ctx), Context::from_raw(ctx), args)
    };
    let answered = barrier::reply(&ctx, || {
        panic_point(Place::Wait);
        let (name, rest) = args.split_first().ok()?;
        let is_tracking = Context::is_tracking(ctx.client_id());
        if !access::may_run(&ctx, args) || is_tracking && !tracks_on_behalf() {
            fetch::miss(&ctx, None);
            return Some(());
        }
        let is_answered = fetch::look_again(&ctx, name, rest, waiter);
        if is_tracking {
            // Also if the client goes on waiting: the reply at the end of its time is tracked, too.
            filter::track(&ctx, name);
        }
        is_answered.then_some(())
    });
    if answered == Some(None) {
        return ERR;
    }
    give_up(&ctx, waiter);
    OK
}

pub(super) unsafe extern "C" fn on_timeout(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // SAFETY: the server passes a live context of this wait, and the arguments of the command that waits.
    let (waiter, ctx, args) = unsafe {
        let args = Args::from_raw(argv, argc);
        (waiter_of(ctx), Context::from_raw(ctx), args)
    };
    barrier::reply(&ctx, || {
        panic_point(Place::Wait);
        let ending = state::with(|state| Some(state.waiters.blocked.get(&waiter)?.ending));
        let token = match ending.filter(|_| access::may_run(&ctx, args)) {
            Some(Ending::Miss(token)) => token,
            Some(Ending::Look) => {
                let mut given = args.split_first().into_iter();
                if given.any(|(name, rest)| fetch::look_again(&ctx, name, rest, waiter)) {
                    return;
                }
                None
            }
            None => None,
        };
        fetch::miss(&ctx, token);
        if token.is_some() {
            forget(waiter);
        }
    });
    give_up(&ctx, waiter);
    OK
}

pub(super) unsafe extern "C" fn on_disconnect(
    ctx: *mut raw::RedisModuleCtx,
    _client: *mut raw::RedisModuleBlockedClient,
) {
    // SAFETY: the server passes a live context of this wait.
    let (waiter, ctx) = unsafe { (waiter_of(ctx), Context::from_raw(ctx)) };
    give_up(&ctx, waiter);
}

pub(super) unsafe extern "C" fn on_free(ctx: *mut raw::RedisModuleCtx, data: *mut c_void) {
    // For a wait that ended without any of the above.
    // SAFETY: the server passes a live context.
    give_up(&unsafe { Context::from_raw(ctx) }, data as usize as Waiter);
}
