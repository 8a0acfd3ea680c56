//! `INFO tagcache`.

use std::ffi::c_int;
use std::time::Duration;

use redis_module::raw::{self, Status};

use super::{Context, Place, guard, monotonic_ms, slices, state};
use crate::figures::{Figure, LOOK_STEP, figures};

pub(super) fn register(ctx: &Context<'_>) {
    raw::register_info_function(ctx.as_raw(), Some(info));
}

unsafe extern "C" fn info(ctx: *mut raw::RedisModuleInfoCtx, _for_crash_report: c_int) {
    let number = |name: &str, number| _ = raw::add_info_field_unsigned_long_long(ctx, name, number);
    guard(Place::Other, (), || {
        if raw::add_info_section(ctx, Some("")) != Status::Ok {
            return; // Another section was asked for.
        }
        let now = monotonic_ms();
        // A crash report may interrupt any code, also code that holds the state.
        state::try_with(|state| {
            // INFO cannot wait: tags that were not looked at make the number of tags too high for a moment.
            let budget = Duration::from_micros(state.config.reclaim_budget_us);
            let mut look = || {
                let mut databases = state.databases_mut();
                let is_exact = databases.all(|(_, db)| db.index.look_for_hollow(LOOK_STEP));
                is_exact.then_some(())
            };
            slices::slice(&mut look, budget);
            for (name, figure) in figures(state.databases().map(|(_, db)| db), now) {
                match figure {
                    Figure::Count(count) => number(name, count),
                    Figure::Rate(rate) => {
                        raw::add_info_field_str(ctx, name, &format!("{rate:.4}"));
                    }
                }
            }
            for (db, database) in state.databases().filter(|(_, db)| db.is_in_use()) {
                raw::add_info_begin_dict_field(ctx, &format!("db{db}"));
                number("entries", database.index.visible());
                number("tags", database.index.populated_tags() as u64);
                number("bytes", database.index.visible_bytes());
                number("clock", database.clock);
                raw::add_info_end_dict_field(ctx);
            }
        });
    });
}
