//! The shell around the engine: every call to the server and every call from it. All `unsafe` of the module is here
//! and in `entry.rs`.
//!
//! The server runs all of this on its main thread, or on a thread of another module that calls a command. Such a thread
//! holds the server's lock, so one callback runs at a time, with one exception: `free` of the data type may run on a
//! background thread. Calls to the server can call back into the module (deleting a key calls `unlink`),
//! so [`state::with`] is never held across such a call.

/// Calls a function of the module API that exists on every supported server. Code that uses a newer function looks it
/// up itself.
macro_rules! api {
    ($function:ident($($arg:expr),* $(,)?)) => {
        (redis_module::raw::$function.expect(concat!("every supported server has ", stringify!($function))))($($arg),*)
    };
}

/// The same for a function that commands call often. `load` looks it up once, and keeps its address in a static of this
/// module. The library's functions are reached through a table, and tested, at each call.
macro_rules! often {
    ($function:ident($($arg:expr),* $(,)?)) => {
        $crate::redis::often::typed(&raw const redis_module::raw::$function, $crate::redis::often::$function)($($arg),*)
    };
}

macro_rules! looked_up_once {
    ($($function:ident)+) => {
        /// Addresses of functions.
        mod often {
            $(#[allow(non_upper_case_globals, reason = "of the server's")]
            pub(super) static mut $function: *const () = std::ptr::null();)+

            /// Looks them all up. Returns whether the server has them.
            pub(super) fn look_up() -> bool {
                // SAFETY: the library sets its functions before the module starts. All of this runs on one thread.
                unsafe {
                    $(let Some(function) = redis_module::raw::$function else {
                        return false;
                    };
                    $function = function as *const ();)+
                }
                true
            }

            /// Turns an address into a function of the type of the library's.
            ///
            /// # Safety
            /// `look_up` must have returned true, and the address be that of `_like`.
            #[inline(always)]
            pub(super) unsafe fn typed<F: Copy>(_like: *const Option<F>, address: *const ()) -> F {
                const { assert!(size_of::<F>() == size_of::<*const ()>()) };
                // SAFETY: by the caller's promise.
                unsafe { std::mem::transmute_copy(&address) }
            }
        }
    };
}

looked_up_once! {
    RedisModule_CloseKey RedisModule_CommandFilterArgGet RedisModule_CommandFilterArgsCount RedisModule_GetAbsExpire RedisModule_GetSelectedDb RedisModule_KeyType RedisModule_Milliseconds
    RedisModule_ModuleTypeGetType RedisModule_ModuleTypeGetValue RedisModule_ModuleTypeSetValue
    RedisModule_NotifyKeyspaceEvent RedisModule_OpenKey RedisModule_ReplicateVerbatim RedisModule_ReplyWithArray
    RedisModule_ReplyWithCallReply RedisModule_ReplyWithLongLong RedisModule_ReplyWithStringBuffer RedisModule_SetAbsExpire
    RedisModule_StringPtrLen
}

use std::ffi::c_int;

pub(crate) mod access;
#[cfg(not(test))]
mod alloc;
pub(crate) mod barrier;
pub(crate) mod channel;
pub(crate) mod cluster;
pub(crate) mod context;
mod copies;
mod data_type;
mod describe;
mod events;
mod filter;
mod info;
pub(crate) mod key;
mod load;
mod older;
pub(crate) mod propagation;
pub(crate) mod reclaim;
pub(crate) mod sizes;
pub(crate) mod slices;
pub(crate) mod state;
pub(crate) mod store;
pub(crate) mod string;
pub(crate) mod transit;
pub(crate) mod waiting;

pub(crate) use barrier::{Place, Undo, guard, log, panic_point};
pub(crate) use context::{Context, Mode, monotonic_ms, now_ms, own};
#[cfg(test)]
pub(crate) use describe::categories;
pub(crate) use key::{Held, Key};
pub(crate) use load::{Command, Keys, Use, command};
pub(crate) use string::{Args, OwnedStr, Str, Words, options};

/// The results of the server's functions, and of the module's callbacks.
const OK: c_int = redis_module::raw::REDISMODULE_OK as c_int;
const ERR: c_int = redis_module::raw::REDISMODULE_ERR as c_int;

/// The name of the data type: nine characters, as the server requires. The last one is the generation of its meaning.
pub(crate) const TYPE_NAME: &std::ffi::CStr = c"tagcache1";
