use crate::error::Error;
use crate::redis::channel::{self, News};
use crate::redis::{Args, Context, reclaim, state, waiting};

/// `CACHE.FLUSH` → how many entries of this database are gone. Keys of other types stay.
///
/// As an invalidation of everything: visible at once, memory given back as by CACHE.INVALIDATE. All tags are forgotten,
/// and all leases end. Works when the server is out of memory. O(1), and O(invalidations whose memory is not back yet) to
/// count each entry once. Raises the database's clock by one and replicates as this one command.
pub(crate) fn flush(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    args.exactly::<0>()?;
    let db = ctx.db();
    let (dropped, clock) = state::with(|state| {
        let database = state.database(db);
        (database.flush(), database.clock.reading())
    });
    waiting::restart(ctx, db);
    channel::publish(ctx, db, clock, News::Flush);
    ctx.replicate_verbatim();
    reclaim::after_invalidation(ctx, dropped);
    ctx.reply_integer(dropped as i64);
    Ok(())
}
