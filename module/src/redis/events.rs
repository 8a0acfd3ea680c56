//! The server's events: keys that came and went, flushes, swaps, loading, ticks.

use std::ffi::{CStr, c_char, c_int, c_void};

use redis_module::raw;

use super::context::random;
use super::state::{self, State};
use super::store::{self, Way, adopt};
use super::transit::Transfer;
use super::{
    Context, Mode, OK, OwnedStr, Place, Str, channel, cluster, copies, filter, guard, monotonic_ms,
    now_ms, own, propagation, reclaim, waiting,
};
use crate::config::DROP;
use crate::engine::{Counters, History, Invalidation, Stamps};

const TRIM: u64 = raw::REDISMODULE_EVENT_CLUSTER_SLOT_MIGRATION_TRIM;

/// Subscribes to every event that may change the index.
pub(super) fn subscribe(ctx: &Context<'_>) -> Result<(), &'static str> {
    let classes = raw::REDISMODULE_NOTIFY_GENERIC
        | raw::REDISMODULE_NOTIFY_LOADED
        | raw::REDISMODULE_NOTIFY_EXPIRED
        | raw::REDISMODULE_NOTIFY_EVICTED
        | trimmed();
    if !subscribe_to_keys(ctx, classes) {
        return Err("the server refused the subscription to keyspace events");
    }
    for id in [
        raw::REDISMODULE_EVENT_FLUSHDB,
        raw::REDISMODULE_EVENT_SWAPDB,
        raw::REDISMODULE_EVENT_LOADING,
        raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD,
        raw::REDISMODULE_EVENT_CRON_LOOP,
        raw::REDISMODULE_EVENT_FORK_CHILD,
        raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED,
        raw::REDISMODULE_EVENT_CLIENT_CHANGE,
    ] {
        if !subscribe_to(ctx, id) {
            return Err("the server refused the subscription to server events");
        }
    }
    // Servers that do not know this event refuse.
    subscribe_to(ctx, TRIM);
    if trimmed() != 0 {
        subscribe_to(ctx, raw::REDISMODULE_EVENT_CLUSTER_SLOT_MIGRATION);
    }
    Ok(())
}

/// The class of keys that leave with their hash slot. Redis 8.4 and newer free these on a background thread, without
/// `unlink`, unless a module subscribes to the removal of each. The module does nothing on that event itself.
fn trimmed() -> c_int {
    // SAFETY: takes nothing.
    let known = unsafe { api!(RedisModule_GetKeyspaceNotificationFlagsAll()) };
    known & raw::REDISMODULE_NOTIFY_KEY_TRIMMED
}

fn subscribe_to(ctx: &Context<'_>, id: u64) -> bool {
    subscribe_with(ctx, id, Some(on_event))
}

fn subscribe_with(ctx: &Context<'_>, id: u64, callback: raw::RedisModuleEventCallback) -> bool {
    let event = raw::RedisModuleEvent { id, dataver: 1 };
    raw::subscribe_to_server_event(ctx.as_raw(), event, callback) == raw::Status::Ok
}

/// Has `callback` called before each removal of a key, or no longer.
pub(super) fn watch_removals(ctx: &Context<'_>, callback: raw::RedisModuleEventCallback) {
    subscribe_with(ctx, raw::REDISMODULE_EVENT_KEY, callback);
}

pub(super) fn subscribe_to_keys(ctx: &Context<'_>, classes: c_int) -> bool {
    let callback = Some(keyspace as _);
    // SAFETY: the context is alive.
    let subscribed = unsafe {
        api!(RedisModule_SubscribeToKeyspaceEvents(
            ctx.as_raw(),
            classes,
            callback
        ))
    };
    subscribed == OK
}

unsafe extern "C" fn on_event(
    ctx: *mut raw::RedisModuleCtx,
    event: raw::RedisModuleEvent,
    what: u64,
    data: *mut c_void,
) {
    // SAFETY: the server passes a live context.
    let ctx = &unsafe { Context::from_raw(ctx) };
    let done = guard(Place::Event, false, || {
        match event.id {
            // SAFETY: the data of these events is this struct, alive during the call.
            raw::REDISMODULE_EVENT_FLUSHDB => flush(ctx, what, unsafe { read(data) }),
            // SAFETY: as above.
            raw::REDISMODULE_EVENT_SWAPDB => swap(ctx, unsafe { read(data) }),
            // SAFETY: as above.
            raw::REDISMODULE_EVENT_CLIENT_CHANGE => client(ctx, what, unsafe { read(data) }),
            raw::REDISMODULE_EVENT_LOADING => loading(ctx, what),
            raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD => staging(ctx, what),
            raw::REDISMODULE_EVENT_CRON_LOOP => cron(ctx),
            raw::REDISMODULE_EVENT_FORK_CHILD => fork(ctx, what),
            raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED => role(ctx, what),
            TRIM if trimmed() != 0 => trim(ctx, what),
            // The number of the first event means slot migrations in Valkey 9.
            TRIM | raw::REDISMODULE_EVENT_CLUSTER_SLOT_MIGRATION => {
                // SAFETY: the data is that of the event.
                unsafe { propagation::slot_migrates(event.id == TRIM, what, data) };
                reclaim::arm_if_needed(ctx); // For entries that were held until now.
            }
            _ => (),
        }
        true
    });
    if !done {
        // SAFETY: as above.
        guard(Place::Other, (), || unsafe {
            missed(ctx, event.id, what, data);
        });
    }
}

/// The handler of an event panicked. If the event may have changed the keyspace without naming keys, or the role of
/// this node, no index can be trusted, and all leases end.
///
/// # Safety
/// The data must be that of the event.
unsafe fn missed(ctx: &Context<'_>, event: u64, what: u64, data: *mut c_void) {
    propagation::expect_others();
    let mut databases = state::with(|state| state.numbers());
    match event {
        raw::REDISMODULE_EVENT_SWAPDB => {
            // SAFETY: by the caller's promise.
            let info: Option<raw::RedisModuleSwapDbInfo> = unsafe { read(data) };
            let swapped = info.map(|info| [info.dbnum_first as u32, info.dbnum_second as u32]);
            databases.extend(swapped.into_iter().flatten());
        }
        // If this was a restart, the file may lack invalidations.
        raw::REDISMODULE_EVENT_LOADING => state::with(|state| state.drops_loaded = true),
        raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD => {
            // The staged indexes exist before the load ends, or after it has begun.
            state::with(|state| state.distrust_staged(0));
            staging(ctx, what);
            state::with(|state| state.distrust_staged(0));
            return;
        }
        raw::REDISMODULE_EVENT_FLUSHDB | raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED | TRIM => {
        }
        _ => return,
    }
    for db in databases {
        waiting::clear(db);
        store::distrust(db, "missed an event");
    }
    reclaim::arm(ctx);
}

/// The data of an event.
///
/// # Safety
/// It must be of that type, or null.
unsafe fn read<T>(data: *mut c_void) -> Option<T> {
    // SAFETY: by the caller's promise.
    (!data.is_null()).then(|| unsafe { data.cast::<T>().read() })
}

unsafe extern "C" fn keyspace(
    ctx: *mut raw::RedisModuleCtx,
    _class: c_int,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    // The two most frequent events by far: each SET with a time to live, and each DEL.
    // SAFETY: the server passes a C string.
    let is_expire = unsafe { is(event, c"expire") };
    // SAFETY: as above.
    let is_del = || unsafe { is(event, c"del") };
    // Once an entry was removed or overwritten, a later expiry or eviction is not about it.
    let is_done = |state: &mut State| {
        state.transit.clear();
        is_expire || (state.removed_gone.is_none() && !state.has_leases())
    };
    if !((is_expire || is_del()) && state::try_with(is_done) == Some(true)) {
        // SAFETY: the server passes a C string, a live context and a live name.
        unsafe { rarer(ctx, event, key) };
    }
    OK
}

/// Whether an event has this name. The comparison ends at the end of the event's name: no byte beyond is read.
///
/// # Safety
/// It must be a C string.
#[inline(always)]
unsafe fn is(event: *const c_char, name: &CStr) -> bool {
    let mut bytes = name.to_bytes_with_nul().iter().enumerate();
    // SAFETY: by the caller's promise.
    bytes.all(|(at, &byte)| unsafe { event.add(at).read() } as u8 == byte)
}

/// # Safety
/// The event must be a C string, context and name alive.
#[inline(never)]
unsafe fn rarer(
    ctx: *mut raw::RedisModuleCtx,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) {
    // SAFETY: by the caller's promise. The name need not be UTF-8: other modules choose their own.
    let event = unsafe { CStr::from_ptr(event) }.to_bytes();
    // SAFETY: by the caller's promise.
    let (ctx, key) = unsafe { (Context::from_raw(ctx), Str::from_raw(key)) };
    let done = guard(Place::Event, false, || {
        // This event is not about the entry that an earlier command removed.
        let gone = state::with(|state| state.removed_gone.take());
        match event {
            b"del" => removed(&ctx, key),
            what if what.starts_with(b"tagcache.") => filter::on_act(&ctx, what, key),
            b"loaded" => adopt(&ctx, key, Way::Loaded),
            b"restore" => adopt(&ctx, key, Way::Restored),
            b"rename_from" => filter::announce_removed(gone, key),
            b"move_from" => {
                let db = ctx.db();
                state::with(|state| state.selected = Some(db));
                filter::announce_removed(gone, key);
            }
            b"rename_to" => adopt(&ctx, key, Way::Moved { from: None }),
            b"move_to" | b"copy_to" => {
                // Taken first: a panic below must leave nothing to the next command.
                let from = state::with(|state| state.selected.take());
                let is_copy = event == b"copy_to";
                let from = is_copy
                    .then(|| copies::begun_in(&ctx, key))
                    .flatten()
                    .or(from);
                // MOVE never stays in its database, also if `move_from` panicked.
                let left = from.or((!is_copy).then_some(u32::MAX));
                adopt(&ctx, key, Way::Moved { from: left });
                // See [`copies`].
                if let Some(db) = from {
                    ctx.select(db);
                }
            }
            b"expired" => {
                state::with(|state| state.expired = true);
                count_departure(key, |counters| counters.expired += 1);
            }
            b"new" => waiting::may_appear(key.bytes()),
            b"evicted" => count_departure(key, |counters| counters.evicted += 1),
            _ => {}
        }
        true
    });
    if !done {
        guard(Place::Other, (), || missed_key(&ctx, key));
    }
}

/// The handler of a keyspace event panicked: no index may know the entry that came, and leases that should have ended
/// did not.
fn missed_key(ctx: &Context<'_>, name: Str<'_>) {
    let (db, from) = (ctx.db(), state::with(|state| state.selected.take()));
    state::with(|state| state.distrust_staged(db));
    waiting::clear(db);
    let name = OwnedStr::new(name.bytes()); // As in [`adopt`].
    let key = ctx.open(name.as_str(), Mode::Upkeep);
    let place = key.entry().and(key.db());
    drop(key);
    if let Some(db) = place {
        store::look_for_orphans(ctx, db);
    }
    if let Some(from) = from {
        ctx.select(from); // As after MOVE and COPY.
    }
}

/// A key was removed by DEL or UNLINK while there are leases: ends the leases of this key.
fn removed(ctx: &Context<'_>, name: Str<'_>) {
    if let Some(db) = ctx.open(name, Mode::Upkeep).db() {
        waiting::removed(ctx, db, std::iter::once(name));
    }
}

/// Counts an expiry or eviction, if the entry that left last was visible and had this name.
fn count_departure(key: Str<'_>, count: impl FnOnce(&mut Counters) + Send) {
    state::with(|state| {
        if let Some((db, was_gone)) = state.transit.left(key.bytes()) {
            if !was_gone {
                count(&mut state.database(db).counters);
            }
            state.transit.clear();
        }
    });
}

fn flush(ctx: &Context<'_>, what: u64, info: Option<raw::RedisModuleFlushInfo>) {
    let info = info.filter(|_| what == raw::REDISMODULE_SUBEVENT_FLUSHDB_START);
    let Some(info) = info else { return };
    let flushed = u32::try_from(info.dbnum);
    // A flush frees values without `unlink`, so the index forgets them here, before the first is freed.
    let (numbers, taken): (Vec<u32>, Vec<_>) = state::with(|state| {
        state.transit.clear();
        state.removed_gone = None;
        state.checks_loaded = false; // Valkey 9.1 flushes after the start of DEBUG RELOAD's load.
        let numbers = flushed.map_or_else(|_| state.numbers(), |db| vec![db]);
        let take = |db| (db, state.database(db).take_index());
        numbers.into_iter().map(take).unzip()
    });
    // A value whose load began before the flush must not be written after it.
    for db in numbers {
        waiting::restart(ctx, db);
    }
    if info.sync == 0 {
        drop_aside(taken); // As FLUSHALL ASYNC frees the keys.
    }
}

/// Drops a value that may be large on a background thread. If no thread can be started, the closure is dropped right
/// here, and the value with it.
fn drop_aside(large: impl Send + 'static) {
    let _ = std::thread::Builder::new()
        .name("tagcache-flush".into())
        .spawn(move || drop(large));
}

/// A replica with `repl-diskless-load swapdb` loads its primary's data into separate databases, and meanwhile serves
/// those that it has. At the end the server swaps them and frees the old ones, or after a failure the new ones, without
/// naming keys.
fn staging(ctx: &Context<'_>, what: u64) {
    match what {
        raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_STARTED => state::with(State::stage),
        raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_COMPLETED => {
            drop_aside(state::with(State::serve_staged));
            reclaim::arm_if_needed(ctx);
        }
        _ => drop_aside(state::with(State::unstage)),
    }
}

/// DEBUG can still make the server free keys on a background thread, without naming them.
fn trim(ctx: &Context<'_>, what: u64) {
    if what == raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_TRIM_BACKGROUND {
        // A cluster of Redis has no other database.
        store::distrust(0, "loses keys that nobody names");
        reclaim::arm(ctx);
    }
}

fn swap(ctx: &Context<'_>, info: Option<raw::RedisModuleSwapDbInfo>) {
    let Some(info) = info else { return };
    let dbs = [info.dbnum_first as u32, info.dbnum_second as u32];
    // Clients wait for a key of the database that they selected, and that is another database now.
    dbs.into_iter().for_each(waiting::clear);
    state::with(|state| state.swap_databases(dbs[0], dbs[1]));
    // Nothing else notifies local tiers: the server sends nothing to clients that track keys.
    publish_flush(ctx, dbs);
}

/// Makes local tiers drop databases whose data and clock are others now.
fn publish_flush(ctx: &Context<'_>, dbs: impl IntoIterator<Item = u32>) {
    for db in dbs {
        let clock = state::database(db, |database| database.clock);
        channel::publish(ctx, db, clock, Invalidation::Everything);
    }
}

fn loading(ctx: &Context<'_>, what: u64) {
    let is_replica = ctx.is_replica();
    let is_rdb = what == raw::REDISMODULE_SUBEVENT_LOADING_RDB_START;
    let other_starts = [
        raw::REDISMODULE_SUBEVENT_LOADING_AOF_START,
        raw::REDISMODULE_SUBEVENT_LOADING_REPL_START,
    ];
    if is_rdb || other_starts.contains(&what) {
        propagation::expect_others();
        let in_cluster = ctx.cluster_names();
        let is_cluster_replica = in_cluster.is_some_and(|(_, primary)| primary.is_some());
        let is_own = is_rdb && !is_replica && !is_cluster_replica;
        state::with(|state| {
            // An entry that arrived before the load is no part of it.
            state.transit.arriving = Transfer::default();
            // A file that is loaded at the start may lack the last invalidations.
            let is_restart = is_own && !state.has_loaded;
            state.drops_loaded = is_restart && state.config.after_restart == DROP;
            // DEBUG RELOAD may load an older file, also beside existing keys: the later of both clocks and histories
            // hold.
            state.checks_loaded = is_own && state.databases().any(|(_, db)| db.index.len() > 0);
            if state.is_staging() || is_own {
                return;
            }
            // Loaded data brings its own clocks, and replaces all data of this node, so its stamps need not be later
            // than those here. A file without clocks was written at reading 0.
            state.stamps = Stamps::default();
            for (_, database) in state.databases_mut() {
                database.clock = 0;
                database.history = History::default();
            }
        });
    } else {
        let now = now_ms();
        state::with(|state| {
            // Stamps continue after all loaded invalidations, as they do after loaded entries.
            let latest_ms = state.databases().map(|(_, db)| db.history.latest_ms());
            let latest_ms = latest_ms.max().unwrap_or(0);
            state.stamps.follow(latest_ms);
            let is_first = !std::mem::replace(&mut state.has_loaded, true);
            if !is_replica {
                if is_first {
                    state.begin_lineage(state.lineage);
                }
                state.begin_stamps(now);
                state.begin_to_decide();
            }
            state.has_dropped |= std::mem::take(&mut state.drops_loaded);
        });
        propagation::look_again(ctx);
        if state::with(|state| state.has_dropped) {
            let numbers = state::with(|state| state.numbers());
            numbers.into_iter().for_each(store::empty);
        }
        if is_replica {
            // The data may be that of another primary, with a lower clock: later messages would seem to be copies.
            publish_flush(ctx, state::with(|state| state.numbers()));
        } else {
            hold_refused();
        }
        reclaim::arm_if_needed(ctx);
        copies::loaded();
    }
}

/// DEBUG RELOAD loads no gone entries. Replicas still have the refused ones, so this node must hold them as well, as
/// gone, until replicas are notified.
fn hold_refused() {
    let ctx = own();
    for (db, name) in state::with(|state| state.refused.clone()) {
        ctx.select(db);
        let name = OwnedStr::new(&name);
        if ctx.open(name.as_str(), Mode::Look).is_empty() {
            store::hold_gone(&ctx, name.as_str(), None);
        }
    }
}

fn fork(ctx: &Context<'_>, what: u64) {
    if what == raw::REDISMODULE_SUBEVENT_FORK_CHILD_BORN {
        propagation::expect_others();
    } else {
        propagation::look_again(ctx);
    }
}

fn role(ctx: &Context<'_>, what: u64) {
    propagation::expect_others();
    propagation::no_slot_migrates();
    if what == raw::REDISMODULE_EVENT_REPLROLECHANGED_NOW_MASTER {
        // The data that this node serves from now on may lack the last invalidations of its former primary.
        let now = now_ms();
        state::with(|state| {
            state.begin_lineage(random());
            state.begin_stamps(now);
            state.begin_to_decide();
        });
        reclaim::arm_if_needed(ctx);
    } else {
        state::with(|state| state.stamps.follow_another());
    }
    // Leases from before a failover are no longer valid.
    let numbers = state::with(|state| state.numbers());
    numbers.into_iter().for_each(waiting::clear);
}

fn client(ctx: &Context<'_>, what: u64, info: Option<raw::RedisModuleClientInfo>) {
    if what == raw::REDISMODULE_SUBEVENT_CLIENT_CHANGE_DISCONNECTED
        && let Some(info) = info
    {
        waiting::disconnected(ctx, info.id);
        state::with(|state| {
            state.copies.forget(info.id);
            state.touching.remove(&info.id);
            (state.cluster.iter_mut()).for_each(|cluster| cluster.forget(info.id));
        });
    }
}

fn cron(ctx: &Context<'_>) {
    cluster::look(ctx);
    ctx.run_overdue();
    reclaim::arm_if_needed(ctx);
    let (now, monotonic) = (now_ms(), monotonic_ms());
    state::with(|state| {
        state.watch_clock(now, monotonic);
        state.has_loaded = true; // The server has started: no later load is a restart.
        // A later expiry or eviction is not about an entry of this name that a native command overwrote some time ago.
        // No event announces an overwritten key, except one that costs a callback for each SET.
        state.transit.clear();
        for (_, database) in state.databases_mut() {
            database.tidy(monotonic);
        }
    });
}
