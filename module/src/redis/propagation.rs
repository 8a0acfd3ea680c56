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

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use redis_module::raw;

use super::context::Context;

static ALONE: AtomicBool = AtomicBool::new(false);

/// Whether this node has neither primary nor replicas, no append-only file, is in no cluster, where a slot may migrate from
/// here or to here at any time, and loads nothing.
pub(crate) fn is_alone() -> bool {
    ALONE.load(Ordering::Relaxed)
}

/// How many atomic migrations of slots away from here, and to here, are under way.
static EXPORTS: AtomicU32 = AtomicU32::new(0);
static IMPORTS: AtomicU32 = AtomicU32::new(0);
/// They are those of Valkey 9.
static BY_VALKEY: AtomicBool = AtomicBool::new(false);

/// An atomic slot migration began or ended.
pub(super) fn slot_migrates(by_valkey: bool, what: u64) {
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
    let counter = if is_import { &IMPORTS } else { &EXPORTS };
    let count = counter.load(Ordering::Relaxed);
    let count = if begins {
        count + 1
    } else {
        count.saturating_sub(1)
    };
    counter.store(count, Ordering::Relaxed);
}

/// The node has another role: its migrations are over.
pub(super) fn no_slot_migrates() {
    EXPORTS.store(0, Ordering::Relaxed);
    IMPORTS.store(0, Ordering::Relaxed);
}

/// Whether a slot migrates atomically to here.
pub(super) fn is_importing() -> bool {
    IMPORTS.load(Ordering::Relaxed) > 0
}

/// Whether a slot migrates atomically away from here. Its new node is sent the commands that follow, native ones included,
/// but no invalidation. So it is told by UNLINK which keys these find vacant here.
pub(super) fn is_exporting() -> bool {
    EXPORTS.load(Ordering::Relaxed) > 0
}

/// Whether a command without keys can be propagated in another form than the one it came in. While a slot migrates, Valkey
/// 9 may take any command without keys that a module propagates for one that crosses slots, and break the migration off:
/// `VM_Replicate` reads a variable there that it did not set. What is propagated verbatim does not pass it; then replicas
/// and log miss the exact time of an invalidation, and take their own, which is later and so on the safe side.
pub(crate) fn may_rewrite_keyless() -> bool {
    let may_break_off = is_exporting() && BY_VALKEY.load(Ordering::Relaxed);
    !is_alone() && !may_break_off
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
pub(super) fn decides() -> bool {
    let others = raw::REDISMODULE_CTX_FLAGS_SLAVE | raw::REDISMODULE_CTX_FLAGS_LOADING;
    Context::server_flags() & others == 0
}

/// From here on there may be others.
pub(super) fn expect_others() {
    ALONE.store(false, Ordering::Relaxed);
}

/// Asks the server.
pub(super) fn look_again(ctx: &Context<'_>) {
    let is_alone = !(ctx.is_tied() || has_replicas(ctx));
    ALONE.store(is_alone, Ordering::Relaxed);
}

/// Whether replicas are attached, or were so lately that they may come back and ask for what they missed.
fn has_replicas(ctx: &Context<'_>) -> bool {
    // What cannot be read is taken for a yes.
    let is_set = |field| ctx.info(c"replication", field).as_deref() != Some("0");
    is_set(c"connected_slaves") || is_set(c"repl_backlog_active")
}
