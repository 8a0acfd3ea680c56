//! Catches panics. A panic that unwound into the server's C code would abort the server.
//!
//! A caught panic is not hidden: a client in the middle of a reply is closed, and the index of a database that was
//! being changed is emptied.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redis_module::raw;

use super::{Args, Context, OK, reclaim, store};
use crate::error::Error;

/// The place where a callback was entered, for the log; the build that panics on demand panics there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Command,
    /// In the middle of a reply.
    Reply,
    Unlink,
    Timer,
    /// In the background part of a command whose caller waits.
    Slice,
    Event,
    Save,
    /// Before an entry, or what is remembered of invalidations, was read from a file or a payload.
    Read,
    /// After that.
    Load,
    Digest,
    /// Between a change of the index and that of the keyspace.
    Change,
    Filter,
    /// Clients that wait in CACHE.FETCH.
    Wait,
    /// In CACHE.FETCH, when its reply is decided.
    Fetch,
    Config,
    Other,
}

/// Runs a command, whose handler parses, acts and replies. Inlined, as [`reply`] and [`catch`] are: with calls, a
/// command took 8 to 35 more instructions.
///
/// # Safety
/// The arguments must be what the server passed to the command.
#[inline(always)]
pub(crate) unsafe fn command(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
    handler: fn(&Context<'_>, Args<'_>) -> Result<(), Error>,
) -> c_int {
    // SAFETY: the server keeps both alive while the command runs.
    let (ctx, args) = unsafe { (Context::from_raw(ctx), Args::from_raw(argv, argc)) };
    let replied = reply(&ctx, || {
        panic_point(Place::Command);
        if let Err(error) = handler(&ctx, args) {
            ctx.reply_error(&error);
        }
    });
    if replied.is_none() {
        guard(Place::Other, (), || missed(&ctx));
    }
    OK
}

/// A command panicked. A client gets an error. A primary or a log does not repeat the command, which may have been an
/// invalidation.
#[cold]
fn missed(ctx: &Context<'_>) {
    if ctx.is_replay() {
        store::distrust(ctx.db(), "missed a command");
        reclaim::arm(ctx);
    }
}

/// Runs a function that replies. If it panics, returns `None`, and the client is not left without a valid reply.
#[inline(always)]
pub(crate) fn reply<R>(ctx: &Context<'_>, body: impl FnOnce() -> R) -> Option<R> {
    let replied = catch(Place::Command, body);
    if replied.is_none() {
        ctx.end_reply();
    }
    replied
}

/// Runs any other callback. If it panics, returns `fallback`.
pub(crate) fn guard<R>(place: Place, fallback: R, body: impl FnOnce() -> R) -> R {
    catch(place, || {
        panic_point(place);
        body()
    })
    .unwrap_or(fallback)
}

/// Undoes something if it is dropped by a panic.
pub(crate) struct Undo<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            guard(Place::Other, (), || (self.0)());
        }
    }
}

#[inline(always)]
fn catch<R>(place: Place, body: impl FnOnce() -> R) -> Option<R> {
    let caught = catch_unwind(AssertUnwindSafe(body)).ok();
    if caught.is_none() {
        log(&format!(
            "internal error in {place:?}. Please report this and the line before."
        ));
        store::distrust_changed();
    }
    caught
}

/// Writes a warning to the server's log. The crate for modules takes a format, so percent signs are doubled.
pub(crate) fn log(line: &str) {
    redis_module::logging::log_warning(line.replace('\0', "").replace('%', "%%"));
}

/// The place whose next callback panics, for the test of this barrier.
#[cfg(feature = "panic-on-demand")]
pub(crate) static ARMED: std::sync::RwLock<String> = std::sync::RwLock::new(String::new());

#[cfg(feature = "panic-on-demand")]
pub(crate) fn panic_point(place: Place) {
    let is_armed = |armed: &String| armed.eq_ignore_ascii_case(&format!("{place:?}"));
    if ARMED.read().is_ok_and(|armed| is_armed(&armed)) {
        _ = ARMED.write().map(|mut armed| armed.clear());
        panic!("panic on demand");
    }
}

#[cfg(not(feature = "panic-on-demand"))]
pub(crate) const fn panic_point(_: Place) {}
