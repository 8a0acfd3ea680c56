use crate::args::Cursor;
use crate::commands::write::{self, Options, Written};
use crate::error::Error;
use crate::redis::context::{self, Mode};
use crate::redis::string::Words;
use crate::redis::{Args, Context, reclaim};

const COMMAND: &str = "cache.set";

/// `CACHE.SET key value [EX s | PX ms | EXAT unix-s | PXAT unix-ms | KEEPTTL] [GRACE ms] [NX | XX] [LEASE token]
/// [TAGS count tag [tag ...] | KEEPTAGS]` → OK; nil when NX or XX is not met, or when the lease was lost.
pub(crate) fn set(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let (&pair, options) = words.split_first_chunk().ok_or(Error::WrongArity)?;
    let mut asked = Options::default();
    asked.read(Cursor::new(options), words.len(), write::limits(ctx))?;
    let times = write::times(ctx, &asked, COMMAND)?;
    let [name] = args.first::<1>()?;
    let mut key = ctx.open(name, Mode::Write);
    let db = ctx.db();
    let stored = write::store(ctx, db, &mut key, name, pair, &asked, times)?;
    let Some(written) = &stored else {
        ctx.reply_null();
        return Ok(());
    };
    write::announce(ctx, db, key, name);
    replicate(ctx, args, &asked, written);
    ctx.reply_ok();
    reclaim::help(ctx, db);
    Ok(())
}

/// Propagates what happened.
fn replicate(ctx: &Context<'_>, args: Args<'_>, asked: &Options<'_>, written: &Written) {
    if write::goes_verbatim(ctx) {
        ctx.replicate_verbatim();
        return;
    }
    let given: context::Parts<'_> = args.iter().take(2).collect();
    write::replicate(ctx, c"CACHE.SET", &given, args, asked, written);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{TagLimits, Ttl};
    use crate::commands::write::Condition;
    use crate::config::Config;

    fn parsed<'a>(words: &'a [&'a [u8]]) -> Result<Options<'a>, Error> {
        let (mut asked, limits) = (Options::default(), TagLimits::of(&Config::default()));
        asked.read(Cursor::new(&words[2..]), words.len(), limits)?;
        Ok(asked)
    }

    #[test]
    fn options_come_in_any_order_and_case() {
        let words: [&[u8]; 9] = [b"k", b"v", b"tags", b"2", b"a", b"b", b"Px", b"5", b"nX"];
        let args = parsed(&words).expect("good");
        assert_eq!((args.tags, args.tags_at), (&[&b"a"[..], b"b"][..], 4));
        assert_eq!(
            args.ttl,
            Some(Ttl::In {
                amount: 5,
                unit_ms: 1
            })
        );
        assert_eq!(args.condition, Some(Condition::Absent));
    }

    #[test]
    fn a_tag_may_be_any_word() {
        let words: [&[u8]; 7] = [b"k", b"v", b"TAGS", b"2", b"NX", b"TAGS", b"XX"];
        let args = parsed(&words).expect("good");
        assert_eq!(
            (args.tags, args.condition),
            (&[&b"NX"[..], b"TAGS"][..], Some(Condition::Present))
        );
    }

    #[test]
    fn what_contradicts_itself_is_a_syntax_error() {
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
