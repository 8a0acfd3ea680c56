use crate::args::Cursor;
use crate::error::Error;
use crate::redis::access::{self, Access};
use crate::redis::context::now_ms;
use crate::redis::string::Words;
use crate::redis::{Args, Context, reclaim, state};

/// `CACHE.INVALIDATE tag [tag ...]` → how many (entry, tag) pairs were dropped; for one tag, how many entries.
///
/// The entries are gone for every command at once. Their memory is given back inside the command if they are no more
/// than `tagcache.reclaim-inline` and this is not inside MULTI or a script, else in the background; until then an entry that was dropped through one tag still
/// counts in the replies and figures of its other tags. A tag given twice counts once. Works when the server is out of
/// memory. O(tags given), whatever the number of entries.
///
/// A user needs write permission for a key of the tag's name, else `NOPERM`.
///
/// Raises the database's clock by one, also when nothing carried a tag, and replicates as this one command.
pub(crate) fn invalidate(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(1, &mut storage)?;
    access::check_all(ctx, args, Access::Write)?;
    let db = ctx.db();
    let config = state::with(|state| state.config);
    let tags = match Cursor::new(words).rest_as_tags(&config) {
        Err(error) if error.is_limit() && ctx.is_replay() => words,
        tags => tags?,
    };
    let dropped = state::with(|state| {
        let database = state.database(db);
        database.invalidate(tags.iter().copied(), now_ms())
    });
    ctx.replicate_verbatim();
    reclaim::after_invalidation(ctx, dropped);
    ctx.reply_integer(dropped as i64);
    Ok(())
}
