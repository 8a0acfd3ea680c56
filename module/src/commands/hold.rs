use crate::args::Cursor;
use crate::commands::invalidate::{replicate_tags, split_time};
use crate::error::Error;
use crate::record::MAX_SPAN_MS;
use crate::redis::access::{self, Access};
use crate::redis::{Args, Context, Words, now_ms, state, store};

/// `CACHE.HOLD ms tag [tag ...]` → OK.
pub(crate) fn hold(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let (replayed, rest) = split_time(ctx, words);
    let (until_ms, tags) = if let Some(until_ms) = replayed {
        (until_ms, rest)
    } else {
        let ms = Cursor::new(rest).next_in(1..=MAX_SPAN_MS)?;
        (now_ms() + ms, &rest[1..])
    };
    access::check_tags(ctx, args, tags, Access::Write)?;
    let tags = Cursor::new(tags).rest_as_tags()?;
    until(ctx, until_ms, tags);
    replicate_tags(ctx, "CACHE.HOLD", replayed, until_ms, tags);
    ctx.reply_ok();
    Ok(())
}

pub(super) fn until(ctx: &Context<'_>, until_ms: u64, tags: &[&[u8]]) {
    let db = ctx.db();
    store::change(db, || {
        state::database(db, |database| database.hold(tags, until_ms));
    });
}
