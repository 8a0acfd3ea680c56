use crate::args::{Cursor, MAX_SPAN_MS};
use crate::commands::invalidate::{replayed_time, replayed_word};
use crate::error::Error;
use crate::redis::access::{self, Access};
use crate::redis::context::now_ms;
use crate::redis::string::Words;
use crate::redis::{Args, Context, OwnedStr, Str, propagation, state, store};

/// `CACHE.HOLD ms tag [tag ...]` → OK.
pub(crate) fn hold(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let now = now_ms();
    let replayed = match words {
        [b"", at, tags @ ..] if !tags.is_empty() && access::may_replay(ctx) => {
            replayed_time(at, 2 * MAX_SPAN_MS).map(|until_ms| (until_ms, tags))
        }
        _ => None,
    };
    let (until_ms, tags) = match (replayed, words) {
        (Some(replayed), _) => replayed,
        (None, [ms, tags @ ..]) => {
            let ms = Cursor::new(&[ms]).next_in(1..=MAX_SPAN_MS)?;
            (now + ms, tags)
        }
        (None, []) => return Err(Error::WrongArity),
    };
    let given: Vec<Str<'_>> = args.iter().skip(words.len() - tags.len()).collect();
    access::check_tags(ctx, args, given.iter().copied(), Access::Write)?;
    let tags = Cursor::new(tags).rest_as_tags()?;
    let db = ctx.db();
    store::change(db, || {
        state::with(|state| state.database(db).hold(tags, until_ms));
    });
    if words[0].is_empty() || !propagation::may_rewrite_keyless(ctx) {
        ctx.replicate_verbatim();
    } else {
        let (none, at) = (OwnedStr::new(b""), replayed_word(until_ms));
        ctx.replicate(
            c"CACHE.HOLD",
            &[&[none.as_str(), at.as_str()], &given[..]].concat(),
        );
    }
    ctx.reply_ok();
    Ok(())
}
