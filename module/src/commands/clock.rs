use crate::error::Error;
use crate::redis::{Args, Context, state};

/// `CACHE.CLOCK [START]` → `[lineage, clock]`: the node's lineage, 16 hexadecimal digits, and the reading of the database's
/// clock; with START also the reading at which the lineage began.
pub(crate) fn clock(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut given = args.iter();
    let with_start = match (given.next(), given.next()) {
        (None, _) => false,
        (Some(word), None) if word.bytes().eq_ignore_ascii_case(b"START") => true,
        _ => return Err(Error::Syntax),
    };
    let db = ctx.db();
    let lineage = state::with(|state| state.lineage);
    let (clock, start) = state::with(|state| {
        let database = state.database(db);
        (database.clock, database.start)
    });
    ctx.reply_array(2 + usize::from(with_start));
    ctx.reply_bytes(format!("{lineage:016x}").as_bytes());
    ctx.reply_integer(clock as i64);
    if with_start {
        ctx.reply_integer(start as i64);
    }
    Ok(())
}
