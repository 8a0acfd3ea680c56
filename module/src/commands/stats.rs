use crate::engine::Counters;
use crate::error::Error;
use crate::figures::{Figure, Figures};
use crate::redis::context::monotonic_ms;
use crate::redis::{Args, Context, state};

/// `CACHE.STATS` → figures of the selected database, as a map.
///
/// | field | |
/// |---|---|
/// | `entries` | entries that can be seen |
/// | `tags` | tags that at least one entry carries |
/// | `bytes` | memory of those entries (the sum of their `memory` in CACHE.INSPECT) |
/// | `index_bytes` | memory of the index |
/// | `hits`, `misses`, `stale_hits` | reads that found a fresh value, nothing, a stale value |
/// | `hit_rate` | hits and stale hits as a part of all reads, 0 to 1 |
/// | `sets`, `deletes` | entries written by CACHE.SET, removed by CACHE.DEL |
/// | `expired`, `evicted` | visible entries that the server removed for their age, for want of memory |
/// | `invalidations`, `invalidated` | invalidating commands, and the sum of their replies |
/// | `reclaim_backlog`, `reclaimed` | gone entries whose memory is still to be given back, was given back |
/// | `reclaim_max_us` | processor time of the longest single background slice, µs |
/// | `leases`, `lease_waiters`, `leases_refused` | leases out, callers that wait for one, writes that came too late |
/// | `clock` | invalidating commands since the database began; persisted and replicated |
///
/// Counters count since the start or the last CACHE.RESETSTATS. `INFO tagcache` shows the sums over all databases.
/// O(leases).
pub(crate) fn stats(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    args.exactly::<0>()?;
    let db = ctx.db();
    let now = monotonic_ms();
    let figures = state::with(|state| Figures::of(std::iter::once(state.database(db)), now));
    let list = figures.list();
    ctx.reply_map(list.len());
    for (name, figure) in list {
        ctx.reply_bytes(name.to_bytes());
        match figure {
            Figure::Count(number) => ctx.reply_integer(number as i64),
            Figure::Rate(rate) => ctx.reply_double(rate),
        }
    }
    Ok(())
}

/// `CACHE.RESETSTATS` → OK. Sets the counters of the selected database to 0; what is stored and the clock stay. O(1).
pub(crate) fn resetstats(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    args.exactly::<0>()?;
    let db = ctx.db();
    state::with(|state| state.database(db).counters = Counters::default());
    ctx.reply_ok();
    Ok(())
}
