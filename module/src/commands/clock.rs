use crate::error::Error;
use crate::redis::{Args, Context, state};

/// `CACHE.CLOCK [START]` → `[lineage, clock]`: the node's lineage, 16 hexadecimal digits, and the reading of the database's
/// clock; with START also the reading at which the lineage began.
pub(crate) fn clock(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let with_start = args.len() > 0;
    if with_start && !args.only()?.bytes().eq_ignore_ascii_case(b"START") {
        return Err(Error::WrongArity);
    }
    let db = ctx.db();
    let (lineage, clock, start) = state::with(|state| {
        let (lineage, database) = (state.lineage, state.database(db));
        (lineage, database.clock, database.start)
    });
    ctx.reply_array(2 + usize::from(with_start));
    ctx.reply_bytes(format!("{lineage:016x}").as_bytes());
    ctx.reply_integer(clock as i64);
    if with_start {
        ctx.reply_integer(start as i64);
    }
    Ok(())
}
