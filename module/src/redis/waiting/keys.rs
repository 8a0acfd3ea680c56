//! What happens to keys, as far as leases and waiting clients go.

use super::{Ending, end, pass_on, tracks_on_behalf, watch};
use crate::redis::{Context, OwnedStr, Str, monotonic_ms, own, state};

/// The key was written: its lease is over, and those who wait for it are served when the command is done.
#[cold]
pub(crate) fn written(ctx: &Context<'_>, db: u32, name: Str<'_>) {
    let is_awaited = state::database(db, |database| {
        let leases = &mut database.leases;
        !leases.is_empty() && leases.end(name.bytes(), monotonic_ms())
    });
    if is_awaited {
        signal_ready(ctx, name);
        // The key may leave again before they are served, in the same MULTI block.
        watch(ctx);
    }
}

/// A write was refused under a lease, which is over now: those who wait for the key are served if it holds a fresh value
/// (that is why, with NX), else the next in line may load.
pub(crate) fn refused(ctx: &Context<'_>, db: u32, name: Str<'_>, is_fresh: bool) {
    if !is_fresh {
        pass_on(ctx, db, name.bytes());
    } else if state::database(db, |database| database.leases.is_awaited(name.bytes())) {
        signal_ready(ctx, name);
        watch(ctx);
    }
}

/// These keys were removed: what is being loaded for them must not be written, and the next in line load anew.
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

/// Something may be created under this key, or may take the place of an entry: those who wait for it look at it when the
/// command is done, in whichever database it is. Where they are woken for nothing, they go on waiting.
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

/// Has the server serve those who wait for a key of the context's database when the command is done.
fn signal_ready(ctx: &Context<'_>, name: Str<'_>) {
    // SAFETY: the context is alive, and so is the name.
    unsafe { api!(RedisModule_SignalKeyAsReady(ctx.as_raw(), name.as_raw())) };
}

/// Where reads on behalf of a client are not tracked: answers those who wait for a key and track what they read at
/// once. To be called after [`written`], and before the server is told of the change.
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
