use crate::args::Cursor;
use crate::commands::open;
use crate::commands::write::{self, Options};
use crate::error::Error;
use crate::redis::context::Parts;
use crate::redis::{Args, Context, Key, Mode, Str, Words, reclaim, store};

const COMMAND: &str = "cache.set";

/// `CACHE.SET key value [EX s | PX ms | EXAT unix-s | PXAT unix-ms | KEEPTTL] [GRACE ms] [NX | XX] [LEASE token]
/// [TAGS count tag [tag ...] | KEEPTAGS]` → OK; nil when NX or XX is not met, or when the lease was lost.
pub(crate) fn set(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let (name, rest) = args.split_first()?;
    let words = rest.words(1, &mut storage)?;
    let (value, options) = words.split_first().ok_or(Error::WrongArity)?;
    let mut asked = Options::default();
    asked.read(Cursor::new(options), args.len(), || write::limits(ctx))?;
    write::decide_times(ctx, &mut asked, COMMAND)?;
    if asked.logged.is_some_and(|logged| logged.is_gone) {
        store::hold_gone(ctx, name, asked.expires_ms);
        ctx.replicate_verbatim();
        ctx.reply_ok();
        return Ok(());
    }
    let key = open(ctx, name, Mode::Write)?;
    if asked.keeps_tags {
        with_kept_tags(ctx, args, key, name, value, &asked);
    } else {
        put(ctx, args, ctx.db(), key, name, value, &asked);
    }
    Ok(())
}

#[cold]
fn with_kept_tags(
    ctx: &Context<'_>,
    args: Args<'_>,
    key: Key,
    name: Str<'_>,
    value: &[u8],
    asked: &Options<'_>,
) {
    let db = ctx.db();
    let kept = write::kept_tags(db, &key, asked);
    let tags: Vec<_> = kept.iter().map(Vec::as_slice).collect();
    let tags = &tags[..];
    put(ctx, args, db, key, name, value, &Options { tags, ..*asked });
}

/// Writes, propagates and replies.
#[inline(always)]
fn put(
    ctx: &Context<'_>,
    args: Args<'_>,
    db: u32,
    mut key: Key,
    name: Str<'_>,
    value: &[u8],
    asked: &Options<'_>,
) {
    let stored = write::store(ctx, db, &mut key, name, value, asked);
    // By reference: moving it out of here costs each SET a dozen instructions.
    let Some(written) = &stored else {
        ctx.reply_null();
        return;
    };
    // Before a waiting client may meet the entry: if that has expired, the server propagates the expiry.
    if write::goes_verbatim(ctx) {
        ctx.replicate_verbatim();
    } else {
        let given: Parts<'_> = args.iter().take(2).collect();
        write::replicate(ctx, &given, args, asked, written);
    }
    write::announce(ctx, db, key, name, written);
    ctx.reply_ok();
    if written.has_backlog {
        reclaim::help(ctx, db);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{TagLimits, Ttl};
    use crate::config::Config;

    fn parsed<'a>(words: &'a [&'a [u8]]) -> Result<Options<'a>, Error> {
        let (mut asked, limits) = (Options::default(), || TagLimits::of(&Config::default()));
        asked.read(Cursor::new(&words[2..]), words.len(), limits)?;
        Ok(asked)
    }

    #[test]
    fn options_are_accepted_in_any_order_and_case() {
        let words: [&[u8]; 9] = [b"k", b"v", b"tags", b"2", b"a", b"b", b"Px", b"5", b"nX"];
        let args = parsed(&words).expect("good");
        assert_eq!((args.tags, args.tags_at), (&[&b"a"[..], b"b"][..], 4));
        assert_eq!(args.ttl, Some(Ttl::In(Some(5))));
        assert_eq!(args.where_fresh, Some(false));
    }

    #[test]
    fn an_option_word_can_be_a_tag() {
        let words: [&[u8]; 7] = [b"k", b"v", b"TAGS", b"2", b"NX", b"TAGS", b"XX"];
        let args = parsed(&words).expect("good");
        assert_eq!(
            (args.tags, args.where_fresh),
            (&[&b"NX"[..], b"TAGS"][..], Some(true))
        );
    }

    #[test]
    fn contradictory_or_incomplete_options_are_a_syntax_error() {
        for options in [
            &[&b"NX"[..], b"XX"][..],
            &[b"NX", b"NX"],
            &[b"PX", b"1", b"EX", b"1"],
            &[b"KEEPTTL", b"PXAT", b"1"],
            &[b"TAGS", b"1", b"a", b"TAGS", b"1", b"b"],
            &[b"TAGS", b"2", b"a"],
            &[b"TAGS", b"1", b"a", b"KEEPTAGS"],
            &[b"KEEPTAGS", b"KEEPTAGS"],
            &[b"PX"],
            &[b"TAGS"],
            &[b"nonsense"],
            &[b""],
        ] {
            let words: Vec<&[u8]> = [&b"k"[..], b"v"]
                .into_iter()
                .chain(options.iter().copied())
                .collect();
            assert_eq!(parsed(&words).unwrap_err(), Error::Syntax, "{options:?}");
        }
    }
}
