//! Command filter during a backlog: no command meets a gone key, and while memory is short, gone entries leave first.
//!
//! `DESIGN.md` (Reclaiming) describes why, and what the filter must not do. It cannot see commands that EXEC or a
//! script runs, or that waited. If one of these meets a gone key, [`met_gone`] announces it.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use redis_module::raw;
use smallvec::SmallVec;

use super::context::command_time_ms;
use super::state::{self, CallsNothingBack};
use super::{Context, Mode, OwnedStr, Place, Str, events, guard, own, propagation, reclaim};
use crate::args::parse_i64;
use crate::native::{self, Keys};

/// The part of `maxmemory` from which on commands reclaim gone entries first.
const PRESSURE: f32 = 0.98;

/// How many hash slots a cluster has.
const SLOTS: usize = 16_384;

/// Notifications of the filter to itself: remove the gone entry under this key; reclaim gone entries while memory is
/// short, for a slice at most; reclaim entries that only a command of the primary sees; propagate expiries. The last one
/// reads a key on behalf of the client that waits for it.
const REMOVE: &CStr = c"tagcache.remove";
const FREE: &CStr = c"tagcache.free";
const FREE_HIDDEN: &CStr = c"tagcache.free-hidden";
const PROPAGATE: &CStr = c"tagcache.propagate";
const TRACK: &CStr = c"tagcache.track";

pub(super) fn install(ctx: &Context<'_>) {
    if state::with(|state| state.filter.is_none()) {
        let filter = register::<Reclaiming>(ctx, raw::REDISMODULE_CMDFILTER_NOSELF);
        state::with(|state| {
            state.filter = Some(filter);
            state.touching.clear();
        });
        UNTIL_LOOK.store(0, Ordering::Relaxed);
    }
}

pub(super) fn remove(ctx: &Context<'_>) {
    if let Some(filter) = state::with(|state| state.filter.take()) {
        unregister(ctx, filter);
        watch_removals(ctx, false);
    }
}

/// Whether the key that is being removed may be evicted, if memory is used up.
static MAY_BE_EVICTION: AtomicBool = AtomicBool::new(true);
/// [`on_removal`] is called.
static WATCHES_REMOVALS: AtomicBool = AtomicBool::new(false);

/// Watches removals or no longer, where [`met_gone`] depends on it. Starts only when memory is short, because it makes DEL
/// and overwriting a tenth dearer.
fn watch_removals(ctx: &Context<'_>, watches: bool) {
    if Context::stops_on_no_touch() && WATCHES_REMOVALS.swap(watches, Ordering::Relaxed) != watches
    {
        events::watch_removals(ctx, watches.then_some(on_removal));
        MAY_BE_EVICTION.store(true, Ordering::Relaxed);
    }
}

unsafe extern "C" fn on_removal(
    _ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    what: u64,
    _data: *mut c_void,
) {
    let is_eviction = what == raw::REDISMODULE_SUBEVENT_KEY_EVICTED;
    MAY_BE_EVICTION.store(is_eviction, Ordering::Relaxed);
}

/// Looks at commands before they run.
pub(super) trait Filter {
    fn look(command: &Command<'_>);
}

/// A filter that the server calls.
pub(super) type Registered = CallsNothingBack<*mut raw::RedisModuleCommandFilter>;

pub(super) fn register<F: Filter>(ctx: &Context<'_>, flags: u32) -> Registered {
    unsafe extern "C" fn on_command<F: Filter>(filter: *mut raw::RedisModuleCommandFilterCtx) {
        guard(Place::Filter, (), || {
            // SAFETY: the server passes a live filter context, whose arguments are alive during the call.
            F::look(&unsafe { Command::new(filter) });
        });
    }
    let (ctx, on_command) = (ctx.as_raw(), Some(on_command::<F> as _));
    // SAFETY: the context is alive, and that of this module.
    Registered::new(unsafe {
        api!(RedisModule_RegisterCommandFilter(
            ctx,
            on_command,
            flags as c_int
        ))
    })
}

/// Ends a filter that is registered.
pub(super) fn unregister(ctx: &Context<'_>, filter: Registered) {
    // SAFETY: `register` made it, and it is kept in one place, from which the caller took it out.
    unsafe {
        api!(RedisModule_UnregisterCommandFilter(
            ctx.as_raw(),
            filter.get()
        ))
    };
}

/// A native command met a gone entry that the filter could not see. In front of the command, the module propagates an
/// order to hold a gone entry under this key.
///
/// If the command overwrites the key, this is announced at once, with the TTL that the command may keep. If the key is
/// removed, the server itself may have done that because the key has expired. Then nothing must be announced, because
/// otherwise even a command that fails would be propagated. Of all other commands only RENAME and MOVE depend on the
/// key, and for these [`announce_removed`] is called.
pub(super) fn met_gone(db: u32, name: &[u8]) {
    // An eviction is propagated by itself. In front of a client with CLIENT NO-TOUCH, some servers stop if the key is looked
    // up then.
    let is_eviction = Context::stops_on_no_touch()
        && MAY_BE_EVICTION.load(Ordering::Relaxed)
        && memory_used() >= 1.0;
    if is_eviction || !propagation::may_announce() {
        return;
    }
    let ctx = own();
    ctx.select(db);
    let owned = OwnedStr::new(name);
    let key = ctx.open(owned.as_str(), Mode::Look);
    if key.is_empty() {
        state::with(|state| state.removed_gone = Some((db, name.to_vec())));
        return;
    }
    let deadline = key.deadline_ms();
    drop(key);
    // Servers that still show the key here also show an expired one.
    if let (Some(deadline), Some(now)) = (deadline, command_time_ms())
        && deadline < now
    {
        return;
    }
    announce_gone(&ctx, name, deadline);
}

/// Makes receivers hold a gone entry under a key. The command names the key, so that the new node of a migrating hash
/// slot receives it as well.
fn announce_gone(ctx: &Context<'_>, name: &[u8], deadline: Option<u64>) {
    let at = deadline.map(|ms| ms.to_string());
    let at = at.iter().flat_map(|at| [b"PXAT", at.as_bytes()]);
    let words: Vec<&[u8]> = [name, b"", b"GONE"].into_iter().chain(at).collect();
    ctx.replicate_words("CACHE.SET", &words);
}

/// RENAME or MOVE took a key away: announces it if it is the gone key that was removed just before ([`met_gone`]).
pub(super) fn announce_removed(removed: Option<(u32, Vec<u8>)>, name: Str<'_>) {
    let Some((db, _)) = removed.filter(|(_, key)| key == name.bytes()) else {
        return;
    };
    let ctx = own();
    ctx.select(db);
    announce_gone(&ctx, name.bytes(), None);
}

/// Whether memory is so short that gone entries are reclaimed before anything else.
pub(super) fn under_pressure() -> bool {
    memory_used() >= PRESSURE
}

/// The part of `maxmemory` that is used, 0 without such a limit.
fn memory_used() -> f32 {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_GetUsedMemoryRatio()) }
}

/// How many commands pass until the filter looks at the memory again.
static UNTIL_LOOK: AtomicU32 = AtomicU32::new(0);

/// Makes the filter check from the next command on whether the command sees an entry that is hidden from others.
pub(super) fn look_for_hidden() {
    UNTIL_LOOK.store(0, Ordering::Relaxed);
}

/// Reclaims entries if memory is short, or if the command sees a hidden entry. Memory cannot be short before the next
/// look if none of the commands until then takes more than the part above [`PRESSURE`].
#[inline(never)]
fn free_if_needed(command: &Command<'_>) {
    const REST: f32 = 32.0;
    let used = memory_used();
    let rest = ((PRESSURE - used) / (1.0 - PRESSURE)).clamp(0.0, REST);
    let ctx = own();
    if used >= PRESSURE {
        // It ends with the filter, and not here: the server may be iterating over its list of callbacks.
        watch_removals(&ctx, true);
    }
    if state::with(|state| state.hidden.is_some()) {
        if may_free() && may_look(command) && shows_hidden(&ctx) {
            act(&ctx, FREE_HIDDEN, command.name);
        }
    } else {
        UNTIL_LOOK.store(rest as u32, Ordering::Relaxed);
    }
    if used >= PRESSURE && may_free() && may_look(command) {
        act(&ctx, FREE, command.name);
    }
}

/// Removes gone keys before a command that would meet them runs.
struct Reclaiming;

impl Filter for Reclaiming {
    fn look(command: &Command<'_>) {
        // Most commands name no key that matters, and cost nothing more.
        let keys = native::keys(command.name.bytes());
        match keys {
            Keys::None | Keys::Client => {}
            Keys::Set if command.is_plain_set() => {}
            keys => remove_gone(command, keys),
        }
        let left = UNTIL_LOOK.load(Ordering::Relaxed);
        UNTIL_LOOK.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 {
            free_if_needed(command);
        }
        if keys == Keys::Client
            && Context::stops_on_no_touch()
            && let Some(client) = command.client()
        {
            state::with(|state| state.touching.remove(&client));
        }
    }
}

/// Removes the gone keys that a command names.
#[inline(never)]
fn remove_gone(command: &Command<'_>, keys: Keys) {
    if !may_act() || !may_look(command) {
        return;
    }
    let ctx = own();
    let backlogs: SmallVec<[u32; 8]> = state::with(|state| {
        state.expired = false;
        state.backlogs().collect()
    });
    let mut is_announced = false;
    command.for_each_key(&ctx, keys, |name| {
        for &db in &backlogs {
            ctx.select(db);
            if !is_gone(&ctx, name) {
                continue;
            }
            let is_unannounced = reclaim::is_unannounced(db, name.bytes());
            if is_unannounced && !propagation::may_announce() {
                continue;
            }
            let announces = reclaim::announces();
            // No command removes it: inside a command, the server would lose what it pushes to the client whose command is
            // about to run (a key that it tracks, an event that it is subscribed to), and later stop on an assertion.
            act(&ctx, REMOVE, name);
            if is_unannounced && !announces {
                ctx.replicate(c"UNLINK", &[name]);
            }
            is_announced |= is_unannounced || announces;
        }
    });
    if is_announced {
        ctx.propagate(); // Redis 7.0 does so on a notification.
    }
    if is_announced | state::with(|state| std::mem::take(&mut state.expired)) {
        act(&ctx, PROPAGATE, command.name); // Redis 7.0 cannot look without expiring.
    }
}

/// Whether keys can be looked up in front of this command. Some servers stop if its client has CLIENT NO-TOUCH on
/// ([`Context::is_lookup_safe_for`]). A client is asked about once, and again after a command that may have changed this.
fn may_look(command: &Command<'_>) -> bool {
    let client = Context::stops_on_no_touch().then(|| command.client());
    let Some(client) = client.flatten() else {
        return true;
    };
    state::with(|state| state.touching.contains(&client)) || {
        let is_safe = own().is_lookup_safe_for(client);
        state::with(|state| is_safe && state.touching.insert(client));
        if !is_safe {
            UNTIL_LOOK.store(0, Ordering::Relaxed); // For [`watch_removals`].
        }
        is_safe
    }
}

/// A command that is about to run.
pub(super) struct Command<'a> {
    filter: *mut raw::RedisModuleCommandFilterCtx,
    pub(super) name: Str<'a>,
}

impl<'a> Command<'a> {
    /// # Safety
    /// The filter context must be alive for `'a`.
    unsafe fn new(filter: *mut raw::RedisModuleCommandFilterCtx) -> Self {
        // SAFETY: by the caller's promise. A command always has a name.
        unsafe {
            Self {
                filter,
                name: Str::from_raw(often!(RedisModule_CommandFilterArgGet(filter, 0))),
            }
        }
    }

    pub(super) fn arg(&self, at: c_int) -> Option<Str<'a>> {
        // SAFETY: the filter context and its arguments are alive for `'a`; beyond these the result is null.
        unsafe {
            let arg = often!(RedisModule_CommandFilterArgGet(self.filter, at));
            (!arg.is_null()).then(|| Str::from_raw(arg))
        }
    }

    /// The connection that the command came on, where the server provides it (Redis 7.2 and newer, Valkey).
    pub(super) fn client(&self) -> Option<u64> {
        // SAFETY: the filter context is alive; the function is optional because Redis 7.0 lacks it.
        unsafe { raw::RedisModule_CommandFilterGetClientId.map(|client| client(self.filter)) }
    }

    /// Whether the argument at a place is this word, in any case.
    pub(super) fn is_at(&self, at: c_int, word: &[u8]) -> bool {
        let arg = self.arg(at);
        arg.is_some_and(|arg| arg.bytes().eq_ignore_ascii_case(word))
    }

    fn len(&self) -> c_int {
        // SAFETY: the filter context is alive.
        unsafe { often!(RedisModule_CommandFilterArgsCount(self.filter)) }
    }

    /// Whether a SET overwrites any value, without conditions.
    fn is_plain_set(&self) -> bool {
        let is_time = |word: Str<'_>| native::is_time(word.bytes());
        match self.len() {
            3 => true,
            5 => self.arg(3).is_some_and(is_time),
            _ => false,
        }
    }

    /// Calls `look` with each key that the command depends on.
    fn for_each_key(&self, ctx: &Context<'_>, keys: Keys, look: impl FnMut(Str<'_>)) {
        match keys {
            Keys::None | Keys::Client => {}
            Keys::First | Keys::Set => self.arg(1).into_iter().for_each(look),
            Keys::Slots => self.for_each_left(ctx, look),
            Keys::Unknown => {
                let argc = self.len();
                let args = (0..argc).filter_map(|at| self.arg(at));
                let mut argv: SmallVec<[_; 16]> = args.map(Str::as_raw).collect();
                let mut count = 0;
                // SAFETY: the arguments are alive; the positions are `count` indices into them, ours to free.
                unsafe {
                    let positions = api!(RedisModule_GetCommandKeys(
                        ctx.as_raw(),
                        argv.as_mut_ptr(),
                        argc,
                        &raw mut count
                    ));
                    if !positions.is_null() {
                        let places = std::slice::from_raw_parts(positions, count as usize);
                        places.iter().filter_map(|&at| self.arg(at)).for_each(look);
                        api!(RedisModule_Free(positions.cast()));
                    }
                }
            }
        }
    }

    /// Calls `look` with each key in the hash slots that Valkey 9 is about to import: it would stop on an assertion if
    /// it found one. A replica still has gone keys there if its primary reclaimed them before the slot left.
    fn for_each_left(&self, ctx: &Context<'_>, mut look: impl FnMut(Str<'_>)) {
        if !(self.is_at(1, b"syncslots") && self.is_at(2, b"establish") && ctx.is_cluster()) {
            return;
        }
        let Some(at) = (3..self.len()).find(|&at| self.is_at(at, b"slotsrange")) else {
            return;
        };
        let number = |at| self.arg(at).and_then(|arg| parse_i64(arg.bytes()));
        let ranges = (at + 1..)
            .step_by(2)
            .map_while(|at| Some(number(at)?..=number(at + 1)?));
        let dbs: Vec<u32> = state::with(|state| state.backlogs().collect());
        // A command that names more is refused.
        for slot in ranges.flatten().take(SLOTS) {
            for &db in &dbs {
                ctx.select(db);
                for name in ctx.keys_in_slot(slot) {
                    // A key that is not gone is served here: no import begins, whoever sent this command.
                    if !is_gone(ctx, name.as_str()) {
                        return;
                    }
                    look(name.as_str());
                }
            }
        }
    }
}

/// Whether a key of the context's database holds a gone entry.
fn is_gone(ctx: &Context<'_>, name: Str<'_>) -> bool {
    let key = ctx.open(name, Mode::Look);
    key.entry().is_some_and(|entry| {
        let db = ctx.db();
        state::with(|state| {
            let (index, slot) = (&state.database(db).index, entry.slot());
            index.must_leave(slot, entry.handle())
                && !slot.is_some_and(|slot| reclaim::is_held(index, slot))
        })
    })
}

/// Whether this command sees the hidden entry that is to be reclaimed next.
fn shows_hidden(ctx: &Context<'_>) -> bool {
    let hidden = state::with(|state| state.hidden.clone());
    hidden.is_some_and(|(db, name)| {
        ctx.select(db);
        is_gone(ctx, OwnedStr::new(&name).as_str())
    })
}

/// Whether gone entries may be removed: not for commands that EXEC and scripts run, and not while a removal must be
/// announced and cannot be. Not while a log is loaded either: a notification would move the load to another database
/// ([`super::copies`]), and clients are refused then.
fn may_act() -> bool {
    let flags = Context::server_flags();
    let blocks = raw::REDISMODULE_CTX_FLAGS_MULTI | raw::REDISMODULE_CTX_FLAGS_LUA;
    let loads = raw::REDISMODULE_CTX_FLAGS_LOADING | raw::REDISMODULE_CTX_FLAGS_ASYNC_LOADING;
    flags & blocks == 0
        && flags & loads != raw::REDISMODULE_CTX_FLAGS_LOADING
        && reclaim::may_take()
}

/// Whether any gone entry may be removed. Not while removals must be announced: the command may be the one that pauses
/// clients, after which nothing may be propagated.
fn may_free() -> bool {
    !reclaim::announces() && may_act()
}

/// Makes the server track a key for the client that waits for it. Inside a notification, so that the server keeps what this
/// pushes to the client, such as that the key has expired, until the client's turn ends.
pub(super) fn track(ctx: &Context<'_>, name: Str<'_>) {
    act(ctx, TRACK, name);
}

/// Makes the server run [`on_act`] inside a notification, of a class that no client can see.
fn act(ctx: &Context<'_>, what: &CStr, name: Str<'_>) {
    ctx.notify_class(raw::REDISMODULE_NOTIFY_LOADED, what, name);
}

/// For servers where a notification leaves its database selected ([`super::copies`]): selects the context's database
/// for the client whose command runs.
pub(super) fn select_again(ctx: &Context<'_>) {
    act(ctx, PROPAGATE, OwnedStr::new(b"").as_str());
}

/// Acts on a notification of the filter.
pub(super) fn on_act(ctx: &Context<'_>, what: &[u8], name: Str<'_>) {
    if what == REMOVE.to_bytes() {
        reclaim::reclaim_if_gone(ctx, name);
    } else if what == TRACK.to_bytes() {
        ctx.call("CACHE.INSPECT", &[name.bytes()]);
    } else if what == FREE.to_bytes() || what == FREE_HIDDEN.to_bytes() {
        let is_under_pressure = what == FREE.to_bytes();
        state::with(|state| state.in_filter = true);
        reclaim::slice(ctx, || is_under_pressure && !under_pressure());
        state::with(|state| state.in_filter = false);
    }
}
