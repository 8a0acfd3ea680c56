use crate::error::Error;
use crate::redis::{Args, Context, state};

/// `CACHE.CLOCK` → `[lineage, clock]`: the node's lineage, 16 hexadecimal digits, and the reading of the database's clock.
pub(crate) fn clock(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    args.exactly::<0>()?;
    let db = ctx.db();
    let (lineage, clock) = state::with(|state| (state.lineage, state.database(db).clock));
    ctx.reply_array(2);
    ctx.reply_bytes(format!("{lineage:016x}").as_bytes());
    ctx.reply_integer(clock as i64);
    Ok(())
}
