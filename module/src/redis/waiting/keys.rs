//! Effects of changes to keys on leases and waiting clients.

use super::{Ending, end, pass_on, tracks_on_behalf, watch};
use crate::redis::{Context, OwnedStr, Str, monotonic_ms, own, state};

/// The key was written: its lease ends, and the clients that wait for it are served when the command is done.
#[cold]
pub(crate) fn written(ctx: &Context<'_>, db: u32, name: Str<'_>) {
    let is_awaited = state::database(db, |database| {
        let leases = &mut database.leases;
        !leases.is_empty() && leases.end(name.bytes(), monotonic_ms())
    });
    if is_awaited {
        signal_ready(ctx, name);
        // The key may be removed again before they are served, in the same MULTI block.
        watch(ctx);
    }
}

/// A write was refused under a lease, which is over now. If the key holds a fresh value (the reason for the refusal,
/// with NX), the clients that wait for it are served, else the next in line may load.
pub(crate) fn refused(ctx: &Context<'_>, db: u32, name: Str<'_>, is_fresh: bool) {
    if !is_fresh {
        pass_on(ctx, db, name.bytes());
    } else if state::database(db, |database| database.leases.is_awaited(name.bytes())) {
        signal_ready(ctx, name);
        watch(ctx);
    }
}

/// These keys were removed: values that are being loaded for them must not be written, and the next in line load again.
pub(crate) fn removed<'n>(
    ctx: &Context<'_>,
    db: u32,
    names: impl Iterator<Item = Str<'n>> + Clone,
) {
    if state::database(db, |database| database.leases.is_empty()) {
        return;
    }
    let now = monotonic_ms();
    let mut is_any_awaited = false;
    for name in names.clone() {
        is_any_awaited |= state::database(db, |database| database.leases.end(name.bytes(), now));
    }
    if is_any_awaited {
        names.for_each(|name| pass_on(ctx, db, name.bytes()));
    }
}

/// This key may be created, or its entry overwritten by another type: the clients that wait for it, in any database,
/// look at it when the command is done. If they find nothing, they go on waiting.
pub(crate) fn may_appear(name: &[u8]) {
    let dbs: Vec<u32> = state::with(|state| {
        if state.waiters.blocked.is_empty() {
            return Vec::new();
        }
        let all = state.databases();
        let awaited = all.filter(|(_, database)| database.leases.is_awaited(name));
        awaited.map(|(number, _)| number).collect()
    });
    for db in dbs {
        let own = own();
        own.select(db);
        signal_ready(&own, OwnedStr::new(name).as_str());
    }
}

/// Makes the server serve the clients that wait for a key of the context's database when the command is done.
fn signal_ready(ctx: &Context<'_>, name: Str<'_>) {
    // SAFETY: the context is alive, and so is the name.
    unsafe { api!(RedisModule_SignalKeyAsReady(ctx.as_raw(), name.as_raw())) };
}

/// On servers that do not track reads on behalf of a client: replies at once to clients that wait for a key and track
/// what they read. To be called after [`written`], and before the change is signalled to the server.
#[cold]
pub(crate) fn serve_trackers(db: u32, name: Str<'_>) {
    if tracks_on_behalf() || state::with(|state| state.waiters.blocked.is_empty()) {
        return;
    }
    let line: Vec<_> = state::database(db, |database| {
        database.leases.waiters(name.bytes()).collect()
    });
    for (waiter, client) in line {
        if Context::is_tracking(client) {
            state::with(|state| {
                if let Some(blocked) = state.waiters.blocked.get_mut(&waiter) {
                    blocked.ending = Ending::Look;
                }
            });
            end(waiter);
        }
    }
}
