use crate::args::{Cursor, Ttl, next_grace_ms, set_once, with_grace};
use crate::engine::Freshness;
use crate::error::Error;
use crate::redis::context::{Mode, now_ms};
use crate::redis::string::Words;
use crate::redis::{Args, Context, Kind, OwnedStr, Str, reclaim, store};

const COMMAND: &str = "cache.touch";

fn parse(words: &[&[u8]]) -> Result<(Ttl, Option<u64>), Error> {
    let mut cursor = Cursor::new(words.get(1..).unwrap_or_default());
    let (mut ttl, mut grace_ms) = (None, None);
    while let Some(word) = cursor.next_option() {
        if let Some(given) = Ttl::parse(word, &mut cursor)? {
            set_once(&mut ttl, given)?;
        } else if word.eq_ignore_ascii_case(b"PERSIST") {
            set_once(&mut ttl, Ttl::Never)?;
        } else if word.eq_ignore_ascii_case(b"GRACE") {
            set_once(&mut grace_ms, next_grace_ms(&mut cursor)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok((ttl.ok_or(Error::Syntax)?, grace_ms))
}

/// `CACHE.TOUCH key EX s | PX ms | EXAT unix-s | PXAT unix-ms | PERSIST [GRACE ms]` → 1, or 0 when there is no visible
/// entry.
///
/// Changes when an entry expires, and its grace if GRACE is given. EXAT and PXAT may lie in the past: the entry is stale
/// at once, or expired if it has no grace. An entry that was soft-invalidated stays stale, and for no longer than its
/// grace. A key that holds another type: `WRONGTYPE`. O(tags), since the tags' byte counts include what a TTL costs.
/// Replicates with absolute times.
pub(crate) fn touch(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let (ttl, given_grace_ms) = parse(words)?;
    let now = now_ms();
    let expires_ms = ttl.deadline_ms(now, COMMAND)?;
    let [name] = args.first::<1>()?;
    let db = ctx.db();
    let mut key = ctx.open(name, Mode::Write);
    if matches!(key.kind(), Kind::Other) {
        return Err(Error::WrongType);
    }
    // What a primary or a log says happened to a visible entry, also where this node's time says otherwise.
    let judged_at = if ctx.is_replay() { 0 } else { now };
    let visible =
        store::look(db, &key, || judged_at).filter(|found| found.freshness != Freshness::Gone);
    let Some(found) = visible else {
        ctx.reply_integer(0);
        return Ok(());
    };
    let grace_ms = given_grace_ms.unwrap_or(found.entry.grace_ms());
    let deadline = with_grace(expires_ms, grace_ms, COMMAND)?;
    store::retime(db, &mut key, grace_ms, deadline);
    ctx.close_modified(key);
    reclaim::arm_if_needed(ctx); // Without the grace that kept it, a stale entry is gone.
    ctx.notify(c"cache.touch", name);
    replicate(ctx, name, expires_ms, given_grace_ms);
    ctx.reply_integer(1);
    Ok(())
}

fn replicate(ctx: &Context<'_>, name: Str<'_>, expires_ms: Option<u64>, grace_ms: Option<u64>) {
    let number = |ms: u64| OwnedStr::from_number(ms as i64);
    let mut words = Vec::new();
    match expires_ms {
        Some(ms) => words.extend([OwnedStr::new(b"PXAT"), number(ms)]),
        None => words.push(OwnedStr::new(b"PERSIST")),
    }
    if let Some(ms) = grace_ms {
        words.extend([OwnedStr::new(b"GRACE"), number(ms)]);
    }
    let words = words.iter().map(OwnedStr::as_str);
    let parts: Vec<Str<'_>> = std::iter::once(name).chain(words).collect();
    ctx.replicate(c"CACHE.TOUCH", &parts);
}
