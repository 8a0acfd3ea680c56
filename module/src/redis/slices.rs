//! Work that is too much for one go: it is done in slices of `reclaim-budget-us` while the caller waits. The first slice
//! runs inside the command, so that a small piece of work is answered at once. Inside MULTI and scripts, where nobody can
//! wait, all of it does.

use std::time::{Duration, Instant};

use redis_module::raw;

use super::barrier::{self, Place, guard};
use super::context::Context;
use super::state;
use crate::error::Error;

/// Work that can be interrupted.
pub(crate) trait Work {
    /// Does a little of it, a few microseconds. True when all is done.
    fn step(&mut self) -> bool;

    /// Tells the caller.
    fn reply(&mut self, ctx: &Context<'_>);
}

/// Does the work and replies, now or later.
pub(crate) fn run<W: Work + 'static>(ctx: &Context<'_>, mut work: W) {
    if !ctx.may_block() {
        while !work.step() {}
        work.reply(ctx);
    } else if slice(&mut work) {
        work.reply(ctx);
    } else {
        // SAFETY: the context is that of a command that may block. Without callbacks and without a time-out; the
        // handle lives until `RedisModule_UnblockClient`, which `go_on` calls once.
        let client = unsafe { api!(RedisModule_BlockClient(ctx.as_raw(), None, None, None, 0)) };
        ctx.after(1, move |ctx| go_on(ctx, work, client));
    }
}

/// Works for the budget of a slice. True when all is done.
fn slice(work: &mut impl Work) -> bool {
    let budget = Duration::from_micros(state::with(|state| state.config.reclaim_budget_us));
    let start = Instant::now();
    loop {
        if work.step() {
            return true;
        }
        if start.elapsed() >= budget {
            return false;
        }
    }
}

fn go_on(
    ctx: &Context<'_>,
    mut work: impl Work + 'static,
    client: *mut raw::RedisModuleBlockedClient,
) {
    let is_done = guard(Place::Slice, None, || Some(slice(&mut work)));
    if is_done == Some(false) {
        ctx.after(1, move |ctx| go_on(ctx, work, client));
        return;
    }
    // SAFETY: the client is blocked, so its handle is alive until it is ended here, once; the context is freed once. All
    // this is on the main thread.
    unsafe {
        let raw = api!(RedisModule_GetThreadSafeContext(client));
        let ctx = Context::from_raw(raw);
        barrier::reply(&ctx, || match is_done {
            Some(_) => work.reply(&ctx),
            None => ctx.reply_error(&Error::Internal),
        });
        api!(RedisModule_FreeThreadSafeContext(raw));
        api!(RedisModule_UnblockClient(client, std::ptr::null_mut()));
    }
}
