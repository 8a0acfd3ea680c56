//! Whether any receiver exists for what a command propagates, and whether commands may come from others than clients.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use redis_module::raw;

use super::state::UnderLock;
use super::{Context, OwnedStr};
use crate::leb128;

static ALONE: AtomicBool = AtomicBool::new(false);

/// Whether this node has no primary, no replicas and no append-only file, loads nothing, and is in no cluster (where a
/// hash slot may migrate from here or to here at any time).
pub(crate) fn is_alone() -> bool {
    ALONE.load(Ordering::Relaxed)
}

/// The first and the last of consecutive hash slots.
type Slots = (u16, u16);

/// The atomic migrations that are in progress, each with its hash slots.
type Migrations = UnderLock<Vec<Vec<Slots>>>;

/// Migrations to this node; on a replica, to its primary.
static COMING: Migrations = UnderLock::new(Vec::new());
/// Migrations away from this node.
static LEAVING: Migrations = UnderLock::new(Vec::new());
/// The migrations are of Valkey 9.
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
    // Each migration that begins here ends here. In Valkey's header, `valkeymodule.h`, import and export alternate.
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
    // SAFETY: by the caller's promise; the data states the number of ranges.
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
    // Redis has one migration at a time. A replica that synchronised meanwhile did not see the end of the last one.
    all.retain(|others| by_valkey && *others != slots);
    all.extend(begins.then_some(slots));
}

/// Introduces the hash slots of a migration in auxiliary data. No database has this number.
const COMING_SLOTS: u64 = 1 << 33;

/// Appends the hash slots that migrate to here, for a replica that loads this node's data: Valkey 9 does not notify it of
/// migrations that began before.
pub(super) fn push_coming(bytes: &mut Vec<u8>) {
    let all = COMING.0.borrow();
    for slots in all.iter().filter(|_| BY_VALKEY.load(Ordering::Relaxed)) {
        leb128::push(bytes, COMING_SLOTS);
        leb128::push(bytes, slots.len() as u64);
        for &(first, last) in slots {
            leb128::push(bytes, first.into());
            leb128::push(bytes, last.into());
        }
    }
}

/// Takes what [`push_coming`] appended off the front. A replica keeps it. `None` if it is damaged.
pub(super) fn take_coming(bytes: &mut &[u8]) -> Option<()> {
    let is_replica = Context::server_flags() & raw::REDISMODULE_CTX_FLAGS_SLAVE != 0;
    let mut rest = *bytes;
    while leb128::take(&mut rest) == Some(COMING_SLOTS) {
        let mut slots: Vec<Slots> = Vec::new();
        let mut next = || u16::try_from(leb128::take(&mut rest)?).ok();
        for _ in 0..next()? {
            slots.push((next()?, next()?));
        }
        *bytes = rest;
        if is_replica {
            BY_VALKEY.store(true, Ordering::Relaxed);
            let mut all = COMING.0.borrow_mut();
            all.retain(|others| *others != slots);
            all.push(slots);
        }
    }
    Some(())
}

/// The node has another role, so its migrations are over.
pub(super) fn no_slot_migrates() {
    COMING.0.borrow_mut().clear();
    LEAVING.0.borrow_mut().clear();
}

/// Whether a hash slot migrates atomically to this node.
pub(super) fn is_importing() -> bool {
    !COMING.0.borrow().is_empty()
}

/// Whether the hash slot of this key migrates atomically to this node.
pub(crate) fn is_coming(name: &[u8]) -> bool {
    is_importing() && {
        let name = OwnedStr::new(name);
        // SAFETY: the name is alive. Servers with atomic slot migration have this function.
        let slot = unsafe { api!(RedisModule_ClusterKeySlot(name.as_str().as_raw())) };
        let is_of = |&(first, last): &Slots| (first.into()..=last.into()).contains(&slot);
        COMING.0.borrow().iter().flatten().any(is_of)
    }
}

/// Whether a hash slot migrates atomically away from this node. The new node receives the commands that follow, also
/// native ones. So UNLINK informs it of the keys that these commands find vacant here.
pub(super) fn is_exporting() -> bool {
    !LEAVING.0.borrow().is_empty()
}

/// Forwards a command that ran at `at_ms` to the new nodes of hash slots that migrate. Servers send these only commands
/// with keys, so this one has a key of the hash slots. Replicas and log receive it too. Returns false if they execute
/// the original command. Returns true if they execute the forwarded one; then nothing else may be propagated.
///
/// The second case is that of Valkey 9. It may take a command without keys that a module propagates meanwhile for one
/// that crosses hash slots, and break the migration off: `VM_Replicate` reads a variable there that it did not set.
/// Verbatim propagation does not use this code, and is possible if the command contains its time (`goes_verbatim`).
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
        // SAFETY: the server returns a C string that stays. Servers with atomic slot migration have this function.
        let key =
            unsafe { CStr::from_ptr(api!(RedisModule_ClusterCanonicalKeyNameInSlot(slot.into()))) };
        let node: &[u8] = if is_all && nth == 0 { b"" } else { &own };
        let head: [&[u8]; 5] = [b"SLOT", at.as_bytes(), command, key.to_bytes(), node];
        ctx.replicate_words("CACHE.REPLAY", &[&head, words].concat());
    }
    is_all
}

/// Whether something may be announced besides what the running command propagates. A replica receives that from its
/// primary, loaded data is in the file already, and while clients are paused the server stops on an assertion if
/// anything is propagated.
pub(super) fn may_announce() -> bool {
    !is_paused() && decides()
}

/// Whether what is propagated now goes to this node's own log alone: its replicas receive what its primary sends.
pub(super) fn has_own_log() -> bool {
    !is_paused() && Context::server_flags() & raw::REDISMODULE_CTX_FLAGS_SLAVE != 0
}

/// Whether this node must announce what happens, but may not do so now.
pub(super) fn must_wait() -> bool {
    is_paused() && decides()
}

fn is_paused() -> bool {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_AvoidReplicaTraffic()) != 0 }
}

/// Whether this node decides what happens, and gives the stamps: it is no replica and loads nothing.
pub(crate) fn decides() -> bool {
    let others = raw::REDISMODULE_CTX_FLAGS_SLAVE | raw::REDISMODULE_CTX_FLAGS_LOADING;
    Context::server_flags() & others == 0
}

/// From now on, this node counts as not alone.
pub(super) fn expect_others() {
    ALONE.store(false, Ordering::Relaxed);
}

/// Asks the server again whether this node is alone.
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
