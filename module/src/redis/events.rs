//! What the server announces: keys that came and went, flushes, swaps, loading, ticks.

use std::ffi::{CStr, c_char, c_int, c_void};

use redis_module::raw;

use super::barrier::{Place, guard};
use super::channel::{self, News};
use super::cluster;
use super::context::{Context, Mode, monotonic_ms, now_ms, random};
use super::filter;
use super::propagation;
use super::reclaim;
use super::state::{self, Loading, State};
use super::store::{self, Way, adopt};
use super::string::Str;
use super::waiting;
use crate::engine::{Counters, History};

/// Of Valkey, whose header has these in `valkeymodule.h`.
const VALKEY_SLOT_MIGRATION: u64 = 19;
const EXPORT_STARTED: u64 = 1;
const EXPORT_ABORTED: u64 = 3;
const EXPORT_COMPLETED: u64 = 5;

/// Subscribes to everything that the index must hear of.
pub(super) fn subscribe(ctx: &Context<'_>) -> Result<(), &'static str> {
    // Redis 8.4 and newer free the keys of a slot that went away on a background thread, without `unlink`, unless
    // somebody subscribed to the removal of each. Nothing is done on that event itself.
    // SAFETY: takes nothing.
    let trimmed = unsafe { api!(RedisModule_GetKeyspaceNotificationFlagsAll()) }
        & raw::REDISMODULE_NOTIFY_KEY_TRIMMED;
    let classes = raw::REDISMODULE_NOTIFY_GENERIC
        | raw::REDISMODULE_NOTIFY_LOADED
        | raw::REDISMODULE_NOTIFY_EXPIRED
        | raw::REDISMODULE_NOTIFY_EVICTED
        | trimmed;
    // SAFETY: the context is that of loading.
    if unsafe {
        api!(RedisModule_SubscribeToKeyspaceEvents(
            ctx.as_raw(),
            classes,
            Some(keyspace)
        ))
    } != raw::REDISMODULE_OK as c_int
    {
        return Err("the server refused the subscription to keyspace events");
    }
    let events: [(u64, raw::RedisModuleEventCallback); 8] = [
        (raw::REDISMODULE_EVENT_FLUSHDB, Some(flush)),
        (raw::REDISMODULE_EVENT_SWAPDB, Some(swap)),
        (raw::REDISMODULE_EVENT_LOADING, Some(loading)),
        (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, Some(staging)),
        (raw::REDISMODULE_EVENT_CRON_LOOP, Some(cron)),
        (raw::REDISMODULE_EVENT_FORK_CHILD, Some(fork)),
        (raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED, Some(role)),
        (raw::REDISMODULE_EVENT_CLIENT_CHANGE, Some(client)),
    ];
    if trimmed == 0 {
        // Valkey 9: slot migrations. Other servers do not know the event, and refuse.
        let event = raw::RedisModuleEvent {
            id: VALKEY_SLOT_MIGRATION,
            dataver: 1,
        };
        // SAFETY: the context is that of loading.
        unsafe {
            api!(RedisModule_SubscribeToServerEvent(
                ctx.as_raw(),
                event,
                Some(migration)
            ))
        };
    }
    // Another event has this number in Valkey.
    let trim: (u64, raw::RedisModuleEventCallback) = (
        raw::REDISMODULE_EVENT_CLUSTER_SLOT_MIGRATION_TRIM,
        Some(trim),
    );
    for (id, callback) in events.into_iter().chain((trimmed != 0).then_some(trim)) {
        let event = raw::RedisModuleEvent { id, dataver: 1 };
        // SAFETY: the context is that of loading.
        if unsafe {
            api!(RedisModule_SubscribeToServerEvent(
                ctx.as_raw(),
                event,
                callback
            ))
        } != raw::REDISMODULE_OK as c_int
        {
            return Err("the server refused the subscription to server events");
        }
    }
    Ok(())
}

/// Subscribes to the creation of keys, of whatever type. Only the module's own waiters need it ([`waiting`]).
pub(super) fn subscribe_to_new_keys(ctx: &Context<'_>) {
    // SAFETY: the context is alive. The server refuses nothing here.
    unsafe {
        api!(RedisModule_SubscribeToKeyspaceEvents(
            ctx.as_raw(),
            raw::REDISMODULE_NOTIFY_NEW,
            Some(keyspace)
        ))
    };
}

unsafe extern "C" fn keyspace(
    ctx: *mut raw::RedisModuleCtx,
    _class: c_int,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server passes a C string. It need not be UTF-8: other modules choose theirs.
    let event = unsafe { CStr::from_ptr(event) }.to_bytes();
    if event == b"expire" {
        return raw::REDISMODULE_OK as c_int; // By far the commonest: each SET with a time to live.
    }
    guard(Place::Event, (), || {
        // SAFETY: the server passes a live context and a live name.
        let (ctx, key) = unsafe { (Context::from_raw(ctx), Str::from_raw(key)) };
        match event {
            what if what.starts_with(b"tagcache.") => filter::on_act(&ctx, what, key),
            b"loaded" if state::with(|state| state.is_staging()) => {
                store::adopt_staged(&ctx, key.bytes());
            }
            b"loaded" => adopt(&ctx, key, Way::Loaded),
            b"restore" => adopt(&ctx, key, Way::Restored),
            b"rename_from" => filter::announce_removed(key),
            b"move_from" => {
                let db = ctx.db();
                state::with(|state| state.selected = Some(db));
                filter::announce_removed(key);
            }
            b"rename_to" => adopt(&ctx, key, Way::Moved),
            b"move_to" | b"copy_to" => {
                adopt(&ctx, key, Way::Moved);
                // Valkey 8.1 selects the key's database for the client whose command this is, and leaves it so: without
                // this, the client would stay there, and the command be propagated as one of that database.
                if let Some(db) = state::with(|state| state.selected.take()) {
                    ctx.select(db);
                }
            }
            b"del" => removed(&ctx, key),
            b"expired" => {
                state::with(|state| state.expired = true);
                count_departure(key, |counters| counters.expired += 1);
            }
            b"new" => waiting::may_appear(key.bytes()),
            b"evicted" => count_departure(key, |counters| counters.evicted += 1),
            _ => {}
        }
    });
    raw::REDISMODULE_OK as c_int
}

/// A key was removed by DEL or UNLINK: ends its lease.
fn removed(ctx: &Context<'_>, name: Str<'_>) {
    if state::with(|state| state.has_leases())
        && let Some(db) = ctx.open(name, Mode::Upkeep).db()
    {
        waiting::removed(ctx, db, std::iter::once(name));
    }
}

/// Counts an expiry or eviction, if what left last was a visible entry of this name.
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

unsafe extern "C" fn flush(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    data: *mut c_void,
) {
    guard(Place::Event, (), || {
        if subevent != raw::REDISMODULE_SUBEVENT_FLUSHDB_START || data.is_null() {
            return;
        }
        // SAFETY: this event's data is that struct, alive during the call, and the context is a live one.
        let (info, ctx) = unsafe {
            (
                data.cast::<raw::RedisModuleFlushInfo>().read(),
                Context::from_raw(ctx),
            )
        };
        // A flush frees values without `unlink`, so the index forgets them here, before the first is freed.
        let taken: Vec<_> = state::with(|state| {
            state.transit.clear();
            if let Ok(flushed) = u32::try_from(info.dbnum) {
                vec![state.database(flushed).take_index()]
            } else {
                let all = state.databases_mut();
                all.map(|(_, database)| database.take_index()).collect()
            }
        });
        // What is being loaded from before the flush must not be written after it.
        let flushed = u32::try_from(info.dbnum).ok();
        let numbers: Vec<u32> = state::with(|state| {
            let all = state.databases().map(|(number, _)| number);
            all.filter(|&number| flushed.is_none_or(|flushed| flushed == number))
                .collect()
        });
        for db in numbers {
            waiting::restart(&ctx, db);
        }
        if info.sync == 0 {
            drop_aside(taken); // As FLUSHALL ASYNC frees the keys.
        }
    });
}

/// Drops what may be large on a background thread. Where no thread can be had, the closure is dropped right here, and what
/// it holds with it.
fn drop_aside(large: impl Send + 'static) {
    let _ = std::thread::Builder::new()
        .name("tagcache-flush".into())
        .spawn(move || drop(large));
}

/// A replica with `repl-diskless-load swapdb` loads what its primary sends into databases of its own, and serves those
/// that it has meanwhile. In the end the server swaps them and frees the old ones, in either case without naming keys.
unsafe extern "C" fn staging(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    _data: *mut c_void,
) {
    guard(Place::Event, (), || match subevent {
        raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_STARTED => state::with(State::stage),
        raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_COMPLETED => {
            drop_aside(state::with(State::serve_staged));
            // SAFETY: the server passes a live context.
            reclaim::arm_if_needed(&unsafe { Context::from_raw(ctx) });
        }
        _ => drop_aside(state::with(State::unstage)),
    });
}

/// DEBUG can make the server free keys on a background thread all the same, without naming them.
unsafe extern "C" fn trim(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    _data: *mut c_void,
) {
    guard(Place::Event, (), || {
        if subevent == raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_TRIM_BACKGROUND {
            // A cluster of Redis has no other database.
            store::distrust(0, "loses keys that nobody names");
            // SAFETY: the server passes a live context.
            reclaim::arm(&unsafe { Context::from_raw(ctx) });
        }
    });
}

unsafe extern "C" fn migration(
    _ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    _data: *mut c_void,
) {
    match subevent {
        EXPORT_STARTED => propagation::count_export(true),
        EXPORT_ABORTED | EXPORT_COMPLETED => propagation::count_export(false),
        _ => (),
    }
}

unsafe extern "C" fn swap(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _subevent: u64,
    data: *mut c_void,
) {
    guard(Place::Event, (), || {
        if data.is_null() {
            return;
        }
        // SAFETY: this event's data is that struct, alive during the call.
        let info = unsafe { data.cast::<raw::RedisModuleSwapDbInfo>().read() };
        if let (Ok(first), Ok(second)) = (
            u32::try_from(info.dbnum_first),
            u32::try_from(info.dbnum_second),
        ) {
            // Those who wait, wait for a key of the database that they selected, which is another now.
            waiting::clear(first);
            waiting::clear(second);
            state::with(|state| state.swap_databases(first, second));
            // Nothing else tells local tiers: the server sends clients that track keys no word of it.
            // SAFETY: the server passes a live context.
            let ctx = unsafe { Context::from_raw(ctx) };
            for db in [first, second] {
                let clock = state::with(|state| state.database(db).clock);
                channel::publish(&ctx, db, clock, News::Flush);
            }
        }
    });
}

unsafe extern "C" fn loading(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    _data: *mut c_void,
) {
    guard(Place::Event, (), || {
        if matches!(
            subevent,
            raw::REDISMODULE_SUBEVENT_LOADING_RDB_START
                | raw::REDISMODULE_SUBEVENT_LOADING_AOF_START
                | raw::REDISMODULE_SUBEVENT_LOADING_REPL_START
        ) {
            propagation::expect_receivers();
            // SAFETY: the server passes a live context.
            let is_replica = unsafe { Context::from_raw(ctx) }.is_replica();
            let is_rdb = subevent == raw::REDISMODULE_SUBEVENT_LOADING_RDB_START;
            state::with(|state| {
                state.transit.forget_arriving();
                let is_first = !std::mem::replace(&mut state.has_loaded, true);
                if is_rdb && is_first && !is_replica && state.config.drops_after_restart() {
                    state.loading = Loading::Drop;
                }
                if state.is_staging() {
                    return;
                }
                // What is loaded brings its clocks with it. A file without any was written at reading 0.
                for (_, database) in state.databases_mut() {
                    database.clock = 0;
                    database.history = History::default();
                }
            });
        } else {
            // SAFETY: the server passes a live context.
            let ctx = unsafe { Context::from_raw(ctx) };
            let (now, is_primary) = (now_ms(), !ctx.is_replica());
            state::with(|state| {
                state.loading = Loading::Keep;
                state.follow_loaded(now);
                if is_primary {
                    state.begin_stamps(now);
                }
            });
            propagation::look_again(&ctx);
        }
    });
}

unsafe extern "C" fn fork(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    _data: *mut c_void,
) {
    guard(Place::Event, (), || {
        if subevent == raw::REDISMODULE_SUBEVENT_FORK_CHILD_BORN {
            propagation::expect_receivers();
        } else {
            // SAFETY: the server passes a live context.
            propagation::look_again(&unsafe { Context::from_raw(ctx) });
        }
    });
}

unsafe extern "C" fn role(
    _ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    _data: *mut c_void,
) {
    guard(Place::Event, (), || {
        propagation::expect_receivers();
        if subevent == raw::REDISMODULE_EVENT_REPLROLECHANGED_NOW_MASTER {
            // What this node serves from now on may lack the last invalidations of the primary before it.
            let now = now_ms();
            state::with(|state| {
                state.lineage = random();
                state.begin_stamps(now);
            });
        }
        // Leases from before a failover are not good any more.
        let numbers = state::with(|state| state.numbers());
        numbers.into_iter().for_each(waiting::clear);
    });
}

unsafe extern "C" fn client(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    data: *mut c_void,
) {
    guard(Place::Event, (), || {
        if subevent != raw::REDISMODULE_SUBEVENT_CLIENT_CHANGE_DISCONNECTED || data.is_null() {
            return;
        }
        // SAFETY: this event's data is that struct, alive during the call, and the context is a live one.
        let (info, ctx) = unsafe {
            (
                data.cast::<raw::RedisModuleClientInfo>().read(),
                Context::from_raw(ctx),
            )
        };
        waiting::disconnected(&ctx, info.id);
    });
}

unsafe extern "C" fn cron(
    ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _subevent: u64,
    _data: *mut c_void,
) {
    guard(Place::Event, (), || {
        // SAFETY: the server passes a live context.
        let ctx = unsafe { Context::from_raw(ctx) };
        cluster::look(&ctx);
        let (now, monotonic) = (now_ms(), monotonic_ms());
        if state::with(|state| state.has_work(now)) {
            reclaim::arm(&ctx);
        }
        state::with(|state| {
            state.watch_clock(now, monotonic);
            state.has_loaded = true; // The server has started: what it loads from here on is no restart.
            for (_, database) in state.databases_mut() {
                database.leases.forget(monotonic, 1_024);
            }
        });
    });
}
