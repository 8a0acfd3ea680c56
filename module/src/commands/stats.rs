use crate::engine::Counters;
use crate::error::Error;
use crate::figures::{Figure, figures};
use crate::redis::{Args, Context, monotonic_ms, state};

/// `CACHE.STATS` → figures of the selected database, as a map.
pub(crate) fn stats(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    args.exactly::<0>()?;
    let db = ctx.db();
    let now = monotonic_ms();
    let list = state::with(|state| figures(std::iter::once(state.database(db)), now));
    ctx.reply_map(list.len());
    for (name, figure) in list {
        ctx.reply_bytes(name.as_bytes());
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
    state::database(db, |database| database.counters = Counters::default());
    ctx.reply_ok();
    Ok(())
}
