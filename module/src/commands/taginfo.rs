use crate::args::check_tag;
use crate::error::Error;
use crate::redis::access::{self, Access};
use crate::redis::{Args, Context, state};

/// `CACHE.TAGINFO tag` → what is known about a tag, as a map; nil if it is unknown.
///
/// | field | |
/// |---|---|
/// | `entries` | entries that carry it |
/// | `bytes` | memory of those entries |
/// | `invalidations` | how often it was invalidated, hard or soft, since it became known |
/// | `last_invalidated` | when, unix ms; 0: never |
///
/// A tag is known while an entry carries it, and after its last invalidation for 60 s or `tagcache.lease-max-ms`, whichever is more. A user needs read
/// permission for a key of the tag's name, else `NOPERM`. O(1).
pub(crate) fn taginfo(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let tag = args.only()?;
    access::check_tags(ctx, args, [tag].into_iter(), Access::Read)?;
    let tag = tag.bytes();
    let db = ctx.db();
    let info = state::with(|state| {
        check_tag(tag, &state.config)?;
        Ok(state.database(db).index.tag_info(tag))
    })?;
    let Some(info) = info else {
        ctx.reply_null();
        return Ok(());
    };
    ctx.reply_map(4);
    for (name, number) in [
        (&b"entries"[..], i64::from(info.entries)),
        (b"bytes", info.bytes as i64),
        (b"invalidations", i64::from(info.invalidations)),
        (b"last_invalidated", info.last_ms as i64),
    ] {
        ctx.reply_bytes(name);
        ctx.reply_integer(number);
    }
    Ok(())
}
