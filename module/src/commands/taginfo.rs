use crate::args::Cursor;
use crate::error::Error;
use crate::redis::access::{self, Access};
use crate::redis::{Args, Context, Words, reclaim, state};

/// `CACHE.TAGINFO tag` → figures of a tag, as a map; nil if the tag is unknown.
pub(crate) fn taginfo(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let tag = args.only()?.bytes();
    access::check_tags(ctx, args, &[tag], Access::Read)?;
    Cursor::new(&[tag]).rest_as_tags()?;
    let db = ctx.db();
    let hidden = reclaim::meet_expired(ctx, [tag].into_iter());
    let (mut figures, past) = state::database(db, |database| {
        let past = database.history.of_named(tag).copied();
        (database.index.tag_figures(tag), past)
    });
    figures.entries -= hidden.entries;
    figures.bytes -= hidden.bytes;
    if figures.entries == 0 && past.is_none() {
        ctx.reply_null();
        return Ok(());
    }
    let past = past.unwrap_or_default();
    ctx.reply_map(4);
    ctx.reply_fields(&[
        ("entries", figures.entries),
        ("bytes", figures.bytes),
        ("invalidations", past.invalidations),
        ("last_invalidated", past.named_ms),
    ]);
    Ok(())
}

/// `CACHE.TAGTIMES tag [tag ...]` → for each tag `[last hard, last soft]`: the times of its last invalidations, unix
/// ms; 0 if that is not remembered.
pub(crate) fn tagtimes(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(1, &mut storage)?;
    access::check_tags(ctx, args, words, Access::Read)?;
    let tags = Cursor::new(words).rest_as_tags()?;
    let db = ctx.db();
    let times: Vec<(u64, u64)> = state::database(db, |database| {
        let times = |tag: &&[u8]| database.history.times(tag, database.index.is_carried(tag));
        tags.iter().map(times).collect()
    });
    ctx.reply_array(times.len());
    for (hard_ms, soft_ms) in times {
        ctx.reply_array(2);
        ctx.reply_integer(hard_ms as i64);
        ctx.reply_integer(soft_ms as i64);
    }
    Ok(())
}
