//! A walk over all keys of a database.

use std::ffi::c_void;

use redis_module::raw;

use super::state::CallsNothingBack;
use super::{Context, OwnedStr, Place, Str, guard};

/// Where the walk is. As with SCAN, a key that is there all the time is met, and may be met twice.
///
/// The crate's own cursor keeps the name of each key that it meets for good.
#[derive(Debug)]
pub(crate) struct Cursor(CallsNothingBack<*mut raw::RedisModuleScanCursor>);

impl Cursor {
    pub(super) fn new() -> Self {
        // SAFETY: takes nothing.
        Self(CallsNothingBack::new(unsafe {
            api!(RedisModule_ScanCursorCreate())
        }))
    }

    /// Adds the names of a few more keys of the context's database. False after the last ones.
    pub(super) fn step(&self, ctx: &Context<'_>, names: &mut Vec<OwnedStr>) -> bool {
        let names = std::ptr::from_mut(names).cast();
        // SAFETY: context and cursor are alive; the callback takes the names as what they are, and only during the call.
        unsafe {
            api!(RedisModule_Scan(
                ctx.as_raw(),
                self.0.get(),
                Some(on_key),
                names
            )) != 0
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { api!(RedisModule_ScanCursorDestroy(self.0.get())) };
    }
}

unsafe extern "C" fn on_key(
    _ctx: *mut raw::RedisModuleCtx,
    name: *mut raw::RedisModuleString,
    _key: *mut raw::RedisModuleKey,
    names: *mut c_void,
) {
    guard(Place::Other, (), || {
        // SAFETY: the name lives during the call; `step` passes the names.
        let (name, names) = unsafe { (Str::from_raw(name), &mut *names.cast::<Vec<OwnedStr>>()) };
        names.push(OwnedStr::new(name.bytes()));
    });
}
