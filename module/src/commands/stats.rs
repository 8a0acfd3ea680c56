use crate::engine::Counters;
use crate::error::Error;
use crate::figures::{Figure, LOOK_STEP, figures};
use crate::redis::{Args, Context, monotonic_ms, slices, state};

/// `CACHE.STATS` → figures of the selected database, as a map.
pub(crate) fn stats(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    args.exactly::<0>()?;
    let db = ctx.db();
    let step = move || {
        let now = monotonic_ms();
        state::database(db, |database| {
            let is_exact = database.index.look_for_hollow(LOOK_STEP);
            is_exact.then(|| figures(std::iter::once(&*database), now))
        })
    };
    slices::run(ctx, step, reply);
    Ok(())
}

fn reply(ctx: &Context<'_>, list: Vec<(&'static str, Figure)>) {
    ctx.reply_map(list.len());
    for (name, figure) in list {
        ctx.reply_bytes(name.as_bytes());
        match figure {
            Figure::Count(number) => ctx.reply_integer(number as i64),
            Figure::Rate(rate) => ctx.reply_double(rate),
        }
    }
}

/// `CACHE.RESETSTATS` → OK. Sets the counters of the selected database to 0, and nothing else. O(1).
pub(crate) fn resetstats(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    args.exactly::<0>()?;
    let db = ctx.db();
    state::database(db, |database| database.counters = Counters::default());
    ctx.reply_ok();
    Ok(())
}
