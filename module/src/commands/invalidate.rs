use crate::args::Cursor;
use crate::engine::Effect;
use crate::error::Error;
use crate::redis::access::{self, Access};
use crate::redis::channel::{self, News};
use crate::redis::context::now_ms;
use crate::redis::string::Words;
use crate::redis::{Args, Context, OwnedStr, Str, reclaim, state};

/// `CACHE.INVALIDATE tag [tag ...]` → how many (entry, tag) pairs were dropped; for one tag, how many entries.
///
/// The entries are gone for every command at once. Their memory is given back inside the command if they are no more
/// than `tagcache.reclaim-inline` and this is not inside MULTI or a script, else in the background; until then an entry that was dropped through one tag still
/// counts in the replies and figures of its other tags. A tag given twice counts once. Works when the server is out of
/// memory. O(tags given), whatever the number of entries.
///
/// A user needs write permission for a key of the tag's name, else `NOPERM`.
///
/// Raises the database's clock by one, also when nothing carried a tag, replicates as this one command, and publishes one
/// message (see `redis/channel.rs`). A value that is being loaded under a lease is not written afterwards with one of
/// these tags.
pub(crate) fn invalidate(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    drop_tags(ctx, args, Effect::Gone)
}

/// `CACHE.REVALIDATE tag [tag ...]` → as CACHE.INVALIDATE.
///
/// The soft form: the entries turn stale instead of gone, for at most their grace, counted from the first time. An entry
/// without a grace is gone. In everything else as CACHE.INVALIDATE, but O(tags + entries / 64) where entries have a
/// grace, and it replicates with the time at which it happened.
pub(crate) fn revalidate(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    drop_tags(ctx, args, Effect::Stale)
}

fn drop_tags(ctx: &Context<'_>, args: Args<'_>, effect: Effect) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(1, &mut storage)?;
    access::check_tags(ctx, args, args.iter(), Access::Write)?;
    let config = state::with(|state| state.config);
    let tags = match Cursor::new(words).rest_as_tags(&config) {
        Err(error) if error.is_limit() && ctx.is_replay() => words,
        tags => tags?,
    };
    let now = now_ms();
    let dropped = invalidate_now(ctx, tags, effect, now);
    match effect {
        Effect::Gone => ctx.replicate_verbatim(),
        Effect::Stale => {
            let (word, at) = (
                OwnedStr::new(b"REVALIDATE"),
                OwnedStr::from_number(now as i64),
            );
            let parts: Vec<Str<'_>> = [word.as_str(), at.as_str()]
                .into_iter()
                .chain(args.iter())
                .collect();
            ctx.replicate(c"CACHE.REPLAY", &parts);
        }
    }
    reclaim::after_invalidation(ctx, dropped);
    ctx.reply_integer(dropped as i64);
    Ok(())
}

/// Invalidates, and tells everybody. The caller replicates, and then reclaims.
pub(crate) fn invalidate_now(
    ctx: &Context<'_>,
    tags: &[&[u8]],
    effect: Effect,
    now_ms: u64,
) -> u64 {
    let db = ctx.db();
    let (dropped, clock) = state::with(|state| {
        let lease_max_ms = state.config.lease_max_ms;
        let database = state.database(db);
        let dropped = database.invalidate(tags.iter().copied(), effect, now_ms, lease_max_ms);
        (dropped, database.clock.reading())
    });
    let event = match effect {
        Effect::Gone => c"cache.invalidate",
        Effect::Stale => c"cache.revalidate",
    };
    for tag in tags {
        ctx.notify(event, OwnedStr::new(tag).as_str());
    }
    channel::publish(ctx, db, clock, News::Tags(effect, tags));
    dropped
}
