//! Work that is too much for one step is done in slices of `reclaim-budget-us` while the caller waits. The first slice
//! runs inside the command, so that a small piece of work gets its reply at once. Inside MULTI and scripts, where no
//! client can wait, the command does all of it.

use std::time::{Duration, Instant};

use redis_module::raw;

use super::{Context, Place, barrier, guard, state};
use crate::error::Error;

/// Calls `step`, which does a few microseconds of the work, until it returns the result. Then replies, now or later.
pub(crate) fn run<R: 'static>(
    ctx: &Context<'_>,
    mut step: impl FnMut() -> Option<R> + 'static,
    reply: fn(&Context<'_>, R),
) {
    let budget = if ctx.may_block() {
        budget()
    } else {
        Duration::MAX
    };
    let mut result = slice(&mut step, budget);
    if result.is_none() {
        // SAFETY: the context is that of a command that may block. There are no callbacks and no time-out. The handle
        // lives until `RedisModule_UnblockClient`, which `go_on` calls once.
        let client = unsafe { api!(RedisModule_BlockClient(ctx.as_raw(), None, None, None, 0)) };
        if !client.is_null() {
            return ctx.after(1, move |ctx| go_on(ctx, step, reply, client));
        }
        // Valkey 8.1 and newer block no client that is subscribed to channels.
        result = slice(&mut step, Duration::MAX);
    }
    if let Some(result) = result {
        reply(ctx, result);
    }
}

pub(super) fn budget() -> Duration {
    Duration::from_micros(state::with(|state| state.config.reclaim_budget_us))
}

/// Works until the budget is used up, or there is a result.
pub(super) fn slice<R>(step: &mut impl FnMut() -> Option<R>, budget: Duration) -> Option<R> {
    let start = Instant::now();
    loop {
        let result = step();
        if result.is_some() || start.elapsed() >= budget {
            return result;
        }
    }
}

fn go_on<R: 'static>(
    ctx: &Context<'_>,
    mut step: impl FnMut() -> Option<R> + 'static,
    reply: fn(&Context<'_>, R),
    client: *mut raw::RedisModuleBlockedClient,
) {
    let result = guard(Place::Slice, Err(Error::Internal), || {
        Ok(slice(&mut step, budget()))
    });
    let Some(result) = result.transpose() else {
        ctx.after(1, move |ctx| go_on(ctx, step, reply, client));
        return;
    };
    // SAFETY: the client is blocked, so its handle is alive until this code ends it, once; the context is freed once.
    // All of this runs under the lock of the server.
    unsafe {
        let raw = api!(RedisModule_GetThreadSafeContext(client));
        let ctx = Context::from_raw(raw);
        barrier::reply(&ctx, || match result {
            Ok(result) => reply(&ctx, result),
            Err(error) => ctx.reply_error(&error),
        });
        api!(RedisModule_FreeThreadSafeContext(raw));
        api!(RedisModule_UnblockClient(client, std::ptr::null_mut()));
    }
}
