//! Whether anybody will receive what a command propagates, and whether commands may come from others than clients.
//!
//! To send CACHE.SET with an absolute time means to build a second command, which costs a tenth of the whole SET. A
//! cache server without replicas and without an append-only file would throw it away. So, while nobody can receive it,
//! the command is propagated as it came, which costs nothing and keeps the server's count of changes right.
//!
//! A replica always begins with a snapshot, which a forked child writes, and so does an append-only file that is
//! switched on; what was written before the fork is in the snapshot. So it is enough to look again after each fork
//! and after loading, and to assume a receiver from the moment of the fork on. Commands of a primary or out of a log come
//! after a change of role or while the server loads, both of which it announces. To ask for the context's flags at each
//! command would cost 2 % of a SET.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use redis_module::raw;

use super::state::MainThread;
use super::{Context, OwnedStr};

static ALONE: AtomicBool = AtomicBool::new(false);

/// Whether this node has neither primary nor replicas, no append-only file, is in no cluster, where a slot may migrate from
/// here or to here at any time, and loads nothing.
pub(crate) fn is_alone() -> bool {
    ALONE.load(Ordering::Relaxed)
}

/// The first and the last of some slots in a row.
type Slots = (u16, u16);

/// Atomic migrations that are under way, each with its slots.
type Migrations = MainThread<Vec<Vec<Slots>>>;

/// To here, on a replica to its primary.
static COMING: Migrations = MainThread::new(Vec::new());
/// Away from here.
static LEAVING: Migrations = MainThread::new(Vec::new());
/// They are those of Valkey 9.
static BY_VALKEY: AtomicBool = AtomicBool::new(false);

/// An atomic slot migration began or ended.
///
/// # Safety
/// The data must be that of the event.
pub(super) unsafe fn slot_migrates(by_valkey: bool, what: u64, data: *const c_void) {
    /// `ValkeyModuleAtomicSlotMigrationInfoV1`.
    #[repr(C)]
    struct Info {
        version: u64,
        name: [c_char; raw::REDISMODULE_NODE_ID_LEN as usize + 1],
        ranges: *const [c_int; 2],
        count: u32,
    }
    // Each that begins here ends here. Valkey's header, `valkeymodule.h`, has import and export by turns.
    let (is_import, begins) = if by_valkey {
        (what.is_multiple_of(2), what < 2)
    } else {
        let first = raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_MIGRATE_STARTED;
        (what < first, what.is_multiple_of(first))
    };
    if what > raw::REDISMODULE_SUBEVENT_CLUSTER_SLOT_MIGRATION_MIGRATE_COMPLETED {
        return;
    }
    BY_VALKEY.store(by_valkey, Ordering::Relaxed);
    // SAFETY: by the caller's promise; the ranges are as many as it says.
    let slots: Vec<Slots> = unsafe {
        if by_valkey {
            let info = &*data.cast::<Info>();
            let ranges = std::slice::from_raw_parts(info.ranges, info.count as usize);
            let ranges = ranges.iter();
            ranges
                .map(|&[first, last]| (first as u16, last as u16))
                .collect()
        } else {
            let slots = &*(*data.cast::<raw::RedisModuleClusterSlotMigrationInfo>()).slots;
            let ranges = slots.ranges.as_slice(slots.num_ranges as usize).iter();
            ranges.map(|range| (range.start, range.end)).collect()
        }
    };
    let mut all = if is_import { &COMING } else { &LEAVING }.0.borrow_mut();
    // Redis has one at a time, and a replica that synchronised meanwhile did not see the end of the last one.
    all.retain(|others| by_valkey && *others != slots);
    all.extend(begins.then_some(slots));
}

/// The node has another role: its migrations are over.
pub(super) fn no_slot_migrates() {
    COMING.0.borrow_mut().clear();
    LEAVING.0.borrow_mut().clear();
}

/// Whether a slot migrates atomically to here.
pub(super) fn is_importing() -> bool {
    !COMING.0.borrow().is_empty()
}

/// Whether the slot of this key migrates atomically to here.
pub(crate) fn is_coming(name: &[u8]) -> bool {
    is_importing() && {
        let name = OwnedStr::new(name);
        // SAFETY: the name is alive. Servers whose slots migrate so have it.
        let slot = unsafe { api!(RedisModule_ClusterKeySlot(name.as_str().as_raw())) };
        let is_of = |&(first, last): &Slots| (first.into()..=last.into()).contains(&slot);
        COMING.0.borrow().iter().flatten().any(is_of)
    }
}

/// Whether a slot migrates atomically away from here. Its new node is sent the commands that follow, native ones included.
/// So it is told by UNLINK which keys these find vacant here.
pub(super) fn is_exporting() -> bool {
    !LEAVING.0.borrow().is_empty()
}

/// Sends what was done at a time to the nodes that slots migrate to. Servers send these no command without keys, so it is
/// one with a key of the slots. Replicas and log get it too, and have done it already: then false. True: nothing else may be
/// propagated, and they do it by this command.
///
/// That is so on Valkey 9, which may take a command without keys that a module propagates meanwhile for one that crosses
/// slots, and break the migration off: `VM_Replicate` reads a variable there that it did not set. A command that is
/// propagated verbatim does not go that way, and may be if it says itself when it happened (`goes_verbatim`).
pub(crate) fn forward(
    ctx: &Context<'_>,
    at_ms: u64,
    command: &str,
    words: &[&[u8]],
    goes_verbatim: bool,
) -> bool {
    let Some((own, _)) = is_exporting().then(|| ctx.cluster_names()).flatten() else {
        return false;
    };
    let firsts = |all: &Vec<Slots>| all.first().copied();
    let slots: Vec<Slots> = LEAVING.0.borrow().iter().filter_map(firsts).collect();
    let is_all = BY_VALKEY.load(Ordering::Relaxed) && !goes_verbatim && !slots.is_empty();
    let (at, command) = (at_ms.to_string(), command.as_bytes());
    for (nth, (slot, _)) in slots.into_iter().enumerate() {
        // SAFETY: what the server answers is a C string and stays. Servers whose slots migrate so have it.
        let key =
            unsafe { CStr::from_ptr(api!(RedisModule_ClusterCanonicalKeyNameInSlot(slot.into()))) };
        let node: &[u8] = if is_all && nth == 0 { b"" } else { &own };
        let head: [&[u8]; 5] = [b"SLOT", at.as_bytes(), command, key.to_bytes(), node];
        ctx.replicate_words("CACHE.REPLAY", &[&head, words].concat());
    }
    is_all
}

/// Whether something may be announced beside what the running command propagates: a replica is sent by its primary what
/// it needs, what is loaded was written down, and while clients are paused the server stops on an assertion if anything
/// is propagated.
pub(super) fn may_announce() -> bool {
    !is_paused() && decides()
}

/// Whether what happens here had to be announced, which may not be done now.
pub(super) fn must_wait() -> bool {
    is_paused() && decides()
}

fn is_paused() -> bool {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_AvoidReplicaTraffic()) != 0 }
}

/// Whether this node decides what happens, and gives the stamps: it is no replica, and loads nothing.
pub(crate) fn decides() -> bool {
    let others = raw::REDISMODULE_CTX_FLAGS_SLAVE | raw::REDISMODULE_CTX_FLAGS_LOADING;
    Context::server_flags() & others == 0
}

/// From here on there may be others.
pub(super) fn expect_others() {
    ALONE.store(false, Ordering::Relaxed);
}

/// Asks the server.
pub(super) fn look_again(ctx: &Context<'_>) {
    const TIES: u32 = raw::REDISMODULE_CTX_FLAGS_SLAVE
        | raw::REDISMODULE_CTX_FLAGS_AOF
        | raw::REDISMODULE_CTX_FLAGS_CLUSTER
        | raw::REDISMODULE_CTX_FLAGS_LOADING;
    let is_tied = Context::server_flags() & TIES != 0;
    // Replicas that were attached lately may come back and ask for what they missed. A field that cannot
    // be read counts as "yes".
    let is_set = |field| ctx.info(c"replication", field).as_deref() != Some("0");
    let may_have_replicas = || is_set(c"connected_slaves") || is_set(c"repl_backlog_active");
    ALONE.store(!(is_tied || may_have_replicas()), Ordering::Relaxed);
}
