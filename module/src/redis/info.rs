//! `INFO tagcache`.

use std::ffi::{CStr, CString, c_int};

use redis_module::raw;

use super::barrier::{Place, guard};
use super::context::{Context, monotonic_ms};
use super::state;
use crate::figures::{Figure, Figures};

pub(super) fn register(ctx: &Context<'_>) {
    // SAFETY: the context is that of loading.
    unsafe { api!(RedisModule_RegisterInfoFunc(ctx.as_raw(), Some(info))) };
}

/// The section being written.
struct Section(*mut raw::RedisModuleInfoCtx);

impl Section {
    fn number(&self, name: &CStr, number: u64) {
        // SAFETY: the context is alive, the name a C string.
        unsafe {
            api!(RedisModule_InfoAddFieldULongLong(
                self.0,
                name.as_ptr(),
                number
            ))
        };
    }

    fn figure(&self, name: &CStr, figure: Figure) {
        match figure {
            Figure::Count(number) => self.number(name, number),
            Figure::Rate(rate) => {
                let text = CString::new(format!("{rate:.4}")).unwrap_or_default();
                // SAFETY: the context is alive, both are C strings.
                unsafe {
                    api!(RedisModule_InfoAddFieldCString(
                        self.0,
                        name.as_ptr(),
                        text.as_ptr()
                    ))
                };
            }
        }
    }
}

unsafe extern "C" fn info(ctx: *mut raw::RedisModuleInfoCtx, _for_crash_report: c_int) {
    guard(Place::Other, (), || {
        // SAFETY: the server passes a live context.
        if unsafe { api!(RedisModule_InfoAddSection(ctx, c"".as_ptr())) }
            != raw::REDISMODULE_OK as c_int
        {
            return; // Another section was asked for.
        }
        let section = Section(ctx);
        let now = monotonic_ms();
        // A crash report may interrupt anything, also what holds the state.
        state::try_with(|state| {
            let sums = Figures::of(state.databases_mut().map(|(_, database)| database), now);
            for (name, figure) in sums.list() {
                section.figure(name, figure);
            }
            for (number, database) in state.databases_mut().filter(|(_, db)| db.is_in_use()) {
                let Ok(name) = CString::new(format!("db{number}")) else {
                    continue;
                };
                // SAFETY: the context is alive, the name a C string.
                unsafe { api!(RedisModule_InfoBeginDictField(ctx, name.as_ptr())) };
                section.number(c"entries", database.index.visible());
                section.number(c"tags", database.index.populated_tags() as u64);
                section.number(c"bytes", database.index.visible_bytes());
                section.number(c"clock", database.clock.reading());
                // SAFETY: the context is alive, and a dict field was begun.
                unsafe { api!(RedisModule_InfoEndDictField(ctx)) };
            }
        });
    });
}
