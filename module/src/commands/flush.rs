use crate::error::Error;
use crate::redis::{Args, Context, reclaim, state};

/// `CACHE.FLUSH` → how many entries of this database are gone. Keys of other types stay.
///
/// As an invalidation of everything: visible at once, memory given back as by CACHE.INVALIDATE. All tags are forgotten.
/// Works when the server is out of memory. O(1). Raises the database's clock by one and replicates as this one command.
pub(crate) fn flush(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    args.exactly::<0>()?;
    let db = ctx.db();
    let dropped = state::with(|state| state.database(db).flush());
    ctx.replicate_verbatim();
    reclaim::after_invalidation(ctx, dropped);
    ctx.reply_integer(dropped as i64);
    Ok(())
}
