//! Leases in a cluster: a slot that went to another node and came back brings with it what happened there, which this
//! node did not see. So all leases end when a slot may have come to this node.
//!
//! How that is noticed, and what it costs, is in `DESIGN.md` (Leases).

use redis_module::raw;

use super::barrier::{Place, guard};
use super::context::{Context, monotonic_ms};
use super::filter::Command;
use super::state::{self, CallsNothingBack};
use super::waiting;

/// How long after a CLUSTER command the epoch is compared before each write under a lease.
const WATCHFUL_MS: u64 = 60_000;

/// What is known of the cluster while leases exist.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    filter: CallsNothingBack<*mut raw::RedisModuleCommandFilter>,
    epoch: u64,
    /// A command passed that may bring a slot here.
    is_changing: bool,
    watchful_until_ms: u64,
}

/// CLUSTER commands that move no slot.
const HARMLESS: &str = "countkeysinslot count-failure-reports forget getkeysinslot getslotmigrations help info keyslot \
    links meet myid myshardid nodes replicas shards slaves slots slot-stats";

/// A lease is about to be granted.
pub(crate) fn watch(ctx: &Context<'_>) {
    if state::with(|state| state.cluster.is_some()) {
        return end_if_slots_moved(ctx);
    }
    let Some(epoch) = ctx.cluster_epoch() else {
        return;
    };
    // SAFETY: the context is alive, and that of this module.
    let filter = unsafe {
        api!(RedisModule_RegisterCommandFilter(
            ctx.as_raw(),
            Some(on_command),
            0
        ))
    };
    let watched = Watched {
        filter: CallsNothingBack::new(filter),
        epoch,
        is_changing: false,
        watchful_until_ms: 0,
    };
    state::with(|state| state.cluster = Some(watched));
}

/// Before a write under a lease: ends all leases if slots may have come here since they were granted.
pub(crate) fn end_if_slots_moved(ctx: &Context<'_>) {
    if let Some(watched) = state::with(|state| state.cluster)
        && (watched.is_changing || monotonic_ms() < watched.watchful_until_ms)
    {
        compare_epochs(ctx, watched);
    }
}

/// Does the same by the epoch, and stops watching when there are no leases, unless a CLUSTER command passed lately: it may
/// wait in a transaction until there are. For the server's cron.
pub(crate) fn look(ctx: &Context<'_>) {
    let Some(watched) = state::with(|state| state.cluster) else {
        return;
    };
    if state::with(|state| state.has_leases()) {
        compare_epochs(ctx, watched);
    } else if watched.watchful_until_ms <= monotonic_ms() {
        // SAFETY: registered by `watch`, and forgotten here.
        unsafe {
            api!(RedisModule_UnregisterCommandFilter(
                ctx.as_raw(),
                watched.filter.get()
            ))
        };
        state::with(|state| state.cluster = None);
    }
}

fn compare_epochs(ctx: &Context<'_>, watched: Watched) {
    let epoch = ctx.cluster_epoch().unwrap_or(watched.epoch);
    state::with(|state| {
        state.cluster = Some(Watched {
            epoch,
            is_changing: false,
            ..watched
        });
    });
    if watched.is_changing || epoch != watched.epoch {
        for db in state::with(|state| state.numbers()) {
            waiting::restart(ctx, db);
        }
    }
}

unsafe extern "C" fn on_command(filter: *mut raw::RedisModuleCommandFilterCtx) {
    guard(Place::Other, (), || {
        // SAFETY: the server passes a live filter context, whose arguments are alive during the call.
        let command = unsafe { Command::new(filter) };
        // This runs for every command: most differ in the length of their name.
        let is = |at, word: &[u8]| {
            let argument = command.arg(at);
            argument.is_some_and(|argument| argument.bytes().eq_ignore_ascii_case(word))
        };
        let is_cluster = is(0, b"cluster");
        if !is_cluster && !is(0, b"exec") {
            return;
        }
        let is_harmless = HARMLESS.split(' ').any(|word| is(1, word.as_bytes()))
            || (is(1, b"syncslots") && is(2, b"ack"));
        let now = monotonic_ms();
        state::with(|state| {
            let Some(watched) = &mut state.cluster else {
                return;
            };
            if !is_cluster {
                // It may run a CLUSTER command that was queued.
                watched.is_changing |= now < watched.watchful_until_ms;
            } else if !is_harmless {
                watched.is_changing = true;
                watched.watchful_until_ms = now + WATCHFUL_MS;
            }
        });
    });
}
