use crate::args::{Cursor, TagLimits, Ttl};
use crate::commands::open;
use crate::commands::write::{self, Logged, Options};
use crate::error::Error;
use crate::redis::access::{self, Access};
use crate::redis::context::Parts;
use crate::redis::{Args, Context, Mode, Words, propagation, reclaim};

const COMMAND: &str = "cache.mset";

/// The number of keys, each with its value.
fn count_keys(cursor: &mut Cursor<'_>) -> Result<usize, Error> {
    let keys = cursor.next_in(1..=u64::MAX >> 1)? as usize;
    if keys > cursor.left() / 2 {
        return Err(Error::Syntax);
    }
    Ok(keys)
}

/// The arguments of CACHE.MSET: the number of keys, and how all of them are to be written.
fn parse<'a>(
    words: &'a [&'a [u8]],
    limits: impl Fn() -> TagLimits,
) -> Result<(usize, Options<'a>), Error> {
    let mut cursor = Cursor::new(words);
    let keys = count_keys(&mut cursor)?;
    cursor.skip(2 * keys);
    let mut asked = Options::default();
    asked.read(cursor, words.len(), limits)?;
    let is_of_one_key = asked.ttl == Some(Ttl::Keep)
        || asked.keeps_tags
        || asked.token.is_some()
        || asked.logged.is_some_and(Logged::is_of_one_key);
    if is_of_one_key {
        return Err(Error::Syntax);
    }
    Ok((keys, asked))
}

/// `CACHE.MSET numkeys key value [key value ...] [EX s | PX ms | EXAT unix-s | PXAT unix-ms] [GRACE ms] [NX | XX]
/// [TAGS count tag [tag ...]]` → how many entries were written.
pub(crate) fn mset(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(0, &mut storage)?;
    if ctx.wants_keys() {
        let keys = count_keys(&mut Cursor::new(words)).unwrap_or(0);
        (0..keys).for_each(|at| ctx.key_at(2 * at + 2));
        return Ok(());
    }
    let (keys, mut asked) = parse(words, || write::limits(ctx))?;
    write::decide_times(ctx, &mut asked, COMMAND)?;
    let pairs = || (0..keys).map(|at| (2 * at + 1, words[2 * at + 2]));
    let names: Parts<'_> = args.iter().take(2 * keys + 1).collect();
    if Context::knows_first_key_only() {
        let slot = Context::hash_slot(names[1]);
        if pairs().any(|(at, _)| Context::hash_slot(names[at]) != slot) {
            return Err(Error::CrossSlot);
        }
        let keys: Vec<&[u8]> = pairs().map(|(at, _)| names[at].bytes()).collect();
        // Tags obey key patterns, so this is the check of keys as well.
        let checked = access::check_tags(ctx, args, &keys, Access::Write);
        checked.map_err(|_| Error::KeyNotPermitted)?;
        if keys.len() > 1 && !ctx.serves(&keys) {
            return Err(Error::TryAgain);
        }
    }
    for (at, _) in pairs() {
        open(ctx, names[at], Mode::Peek)?;
    }
    let db = ctx.db();
    let mut done = 0;
    for (at, value) in pairs() {
        let mut key = open(ctx, names[at], Mode::Write)?;
        let written = write::store(ctx, db, &mut key, names[at], value, &asked);
        if let Some(written) = written {
            // One by one: if this command is propagated while a hash slot migrates away, Redis 8.4 and newer ask the
            // module for its keys again and again until the stack is full. And at once: a key that is given twice may
            // have expired when it is met again, and the server propagates that.
            if !propagation::is_alone() {
                write::replicate(ctx, &names[at..at + 2], args, &asked, &written);
            }
            write::announce(ctx, db, key, names[at], &written);
            done += 1;
        }
    }
    if propagation::is_alone() && done > 0 {
        ctx.replicate_verbatim();
    }
    reclaim::help(ctx, db);
    ctx.reply_integer(done);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_wrong_pair_count_or_single_key_option_is_refused() {
        let parsed = |words: &[&'static [u8]]| {
            let parsed = parse(words, || TagLimits::of(&Config::default()));
            parsed.map(|(keys, options)| (keys, options.tags.len(), options.tags_at))
        };
        let good: &[&[u8]] = &[
            b"2", b"a", b"1", b"EX", b"2", b"EX", b"3", b"TAGS", b"1", b"t",
        ];
        assert_eq!(parsed(good), Ok((2, 1, 9)));
        for (words, error) in [
            (&[&b"0"[..], b"a", b"1"][..], Error::NotAnInteger),
            (&[b"-1", b"a", b"1"], Error::NotAnInteger),
            (&[b"x", b"a", b"1"], Error::NotAnInteger),
            (&[b"9223372036854775807", b"a", b"1"], Error::Syntax),
            (&[b"2", b"a", b"1"], Error::Syntax),
            (&[b"1", b"a", b"1", b"KEEPTTL"], Error::Syntax),
            (&[b"1", b"a", b"1", b"KEEPTAGS"], Error::Syntax),
            (&[b"1", b"a", b"1", b"LEASE", b"1"], Error::Syntax),
            (&[b"1", b"a", b"1", b"HITS", b"1"], Error::Syntax),
        ] {
            assert_eq!(parsed(words), Err(error), "{words:?}");
        }
    }
}
