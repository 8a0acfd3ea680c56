use crate::args::{Cursor, Ttl, set_once, with_grace};
use crate::commands::del::remove;
use crate::commands::{open, visible, write};
use crate::error::Error;
use crate::record::MAX_SPAN_MS;
use crate::redis::context::Parts;
use crate::redis::{Args, Context, Mode, OwnedStr, Str, Words, now_ms, options, reclaim, store};

const COMMAND: &str = "cache.touch";

fn parse(words: &[&[u8]]) -> Result<(Ttl, Option<u64>), Error> {
    let mut cursor = Cursor::new(words);
    let (mut ttl, mut grace_ms) = (None, None);
    while let Some(word) = cursor.next_option() {
        if let Some(given) = Ttl::parse(word, &mut cursor)? {
            set_once(&mut ttl, given)?;
        } else if word.is(b"PERSIST") {
            set_once(&mut ttl, Ttl::Never)?;
        } else if word.is(b"GRACE") {
            set_once(&mut grace_ms, cursor.next_in(0..=MAX_SPAN_MS)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok((ttl.ok_or(Error::Syntax)?, grace_ms))
}

/// `CACHE.TOUCH key EX s | PX ms | EXAT unix-s | PXAT unix-ms | PERSIST [GRACE ms]` → 1, or 0 when there is no visible
/// entry.
pub(crate) fn touch(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let (name, rest) = args.split_first()?;
    let (ttl, given_grace_ms) = parse(rest.words(1, &mut storage)?)?;
    let now = now_ms();
    let new_expiry = ttl.new_deadline_ms(now, COMMAND)?;
    let db = ctx.db();
    let mut key = open(ctx, name, Mode::Write)?;
    let Some(found) = visible(ctx, db, &key, now) else {
        ctx.reply_integer(0);
        return Ok(());
    };
    let grace_ms = given_grace_ms.unwrap_or(found.entry.grace_ms());
    with_grace(new_expiry.filter(|&ms| ms > 0), grace_ms, COMMAND)?;
    // On a replica, the time that its primary set may be over by now: then the entry expires.
    if new_expiry.is_some_and(|ms| ms <= now) && !ctx.is_replay() {
        remove(ctx, db, key, name);
        ctx.reply_integer(1);
        return Ok(());
    }
    let (expires_ms, bounded_ms) =
        write::within_holds(ctx, db, found.entry, new_expiry, grace_ms, now);
    let deadline = with_grace(expires_ms, bounded_ms, COMMAND)?;
    store::retime(db, &mut key, bounded_ms, deadline);
    key.close_modified();
    reclaim::go_on(ctx); // Without the grace that kept it, a stale entry is gone.
    ctx.notify(c"cache.touch", name);
    let is_new = given_grace_ms.is_some() || bounded_ms != grace_ms;
    replicate(ctx, name, expires_ms, is_new.then_some(bounded_ms));
    ctx.reply_integer(1);
    Ok(())
}

pub(super) fn replicate(
    ctx: &Context<'_>,
    name: Str<'_>,
    expires_ms: Option<u64>,
    grace_ms: Option<u64>,
) {
    let mut owned = options(&[(b"PXAT", expires_ms), (b"GRACE", grace_ms)]);
    owned.extend(expires_ms.is_none().then(|| OwnedStr::new(b"PERSIST")));
    let words: Parts<'_> = [name]
        .into_iter()
        .chain(owned.iter().map(OwnedStr::as_str))
        .collect();
    ctx.replicate(c"CACHE.TOUCH", &words);
}
