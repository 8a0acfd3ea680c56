//! Whether anybody will receive what a command propagates.
//!
//! To send CACHE.SET with an absolute time means to build a second command, which costs a tenth of the whole SET. A
//! cache server without replicas and without an append-only file would throw it away. So, while nobody can receive it,
//! the command is propagated as it came, which costs nothing and keeps the server's count of changes right.
//!
//! A replica always begins with a snapshot, which a forked child writes, and so does an append-only file that is
//! switched on; what was written before the fork is in the snapshot. So it is enough to look again after each fork
//! and after loading, and to assume a receiver from the moment of the fork on. Should a server ever find another way,
//! the receiver would get a relative time instead of an absolute one: off by its delay, nothing worse.

use std::sync::atomic::{AtomicBool, Ordering};

use super::context::Context;

static RECEIVERS: AtomicBool = AtomicBool::new(true);

/// Whether replicas or an append-only file may receive what is propagated now.
pub(crate) fn has_receivers(ctx: &Context<'_>) -> bool {
    // In a cluster a slot may migrate from here at any time.
    RECEIVERS.load(Ordering::Relaxed) || ctx.is_cluster()
}

/// From here on there may be receivers.
pub(super) fn expect_receivers() {
    RECEIVERS.store(true, Ordering::Relaxed);
}

/// Asks the server.
pub(super) fn look_again(ctx: &Context<'_>) {
    RECEIVERS.store(
        ctx.is_replica_or_logs() || has_replicas(ctx),
        Ordering::Relaxed,
    );
}

/// Whether replicas are attached, or were so lately that they may come back and ask for what they missed.
fn has_replicas(ctx: &Context<'_>) -> bool {
    // SAFETY: the context is alive; section and fields are C strings; the information is freed, once.
    unsafe {
        let info = api!(RedisModule_GetServerInfo(
            ctx.as_raw(),
            c"replication".as_ptr()
        ));
        let field = |name: &std::ffi::CStr| {
            let mut error = 0;
            let number = api!(RedisModule_ServerInfoGetFieldUnsigned(
                info,
                name.as_ptr(),
                &raw mut error
            ));
            // What cannot be read is taken for a yes.
            error != 0 || number != 0
        };
        let found = field(c"connected_slaves") || field(c"repl_backlog_active");
        api!(RedisModule_FreeServerInfo(ctx.as_raw(), info));
        found
    }
}
