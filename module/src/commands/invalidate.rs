use crate::args::{Cursor, set_once};
use crate::commands::hold;
use crate::engine::{Condition, Effect, Invalidation};
use crate::error::Error;
use crate::record::{MAX_SPAN_MS, MAX_TIME_MS};
use crate::redis::access::{self, Access, Reach};
use crate::redis::state::State;
use crate::redis::{
    Args, Context, Words, channel, monotonic_ms, now_ms, propagation, reclaim, state, store,
    waiting,
};

/// `CACHE.INVALIDATE tag [tag ...]` → how many (entry, tag) pairs were dropped; for one tag, how many entries.
pub(crate) fn invalidate(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    drop_tags(ctx, args, Effect::Gone)
}

/// `CACHE.REVALIDATE tag [tag ...]` → as CACHE.INVALIDATE.
pub(crate) fn revalidate(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    drop_tags(ctx, args, Effect::Stale)
}

fn drop_tags(ctx: &Context<'_>, args: Args<'_>, effect: Effect) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(1, &mut storage)?;
    let (at_ms, tags) = split_time(ctx, words);
    access::check_tags(ctx, args, tags, Access::Write)?;
    let tags = Cursor::new(tags).rest_as_tags()?;
    let (name, event) = match effect {
        Effect::Gone => ("CACHE.INVALIDATE", c"cache.invalidate"),
        Effect::Stale => ("CACHE.REVALIDATE", c"cache.revalidate"),
    };
    let taken = at_ms.map_or_else(|| reclaim::take_few(ctx, tags, effect), |_| 0);
    let (dropped, at) = run(ctx, Invalidation::Tags(effect, tags), at_ms);
    let given = args.iter().skip(words.len() - tags.len());
    given.for_each(|tag| ctx.notify(event, tag));
    replicate_tags(ctx, name, at_ms, at, tags);
    finish(ctx, taken + dropped);
    Ok(())
}

/// `CACHE.FLUSH` → how many entries of this database are gone. Keys of other types stay.
pub(crate) fn flush(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(0, &mut storage)?;
    let at_ms = match words {
        [] => None,
        [word, at] if word.eq_ignore_ascii_case(b"AT") && access::may_replay(ctx) => {
            Some(Cursor::new(&[at]).next_in(0..=MAX_TIME_MS)?)
        }
        _ => return Err(Error::WrongArity),
    };
    let (dropped, at) = run(ctx, Invalidation::Everything, at_ms);
    waiting::restart(ctx, ctx.db());
    let text = at.to_string();
    let stamped: [&[u8]; 2] = [b"AT", text.as_bytes()];
    replicate(ctx, "CACHE.FLUSH", (at_ms, at), &stamped, &[]);
    finish(ctx, dropped);
    Ok(())
}

/// Takes off an empty first tag and the time after it, `@` and unix ms, which a primary or a log puts in front of tags.
/// Anything else there is a tag, and an empty tag is an error.
pub(super) fn split_time<'w>(
    ctx: &Context<'_>,
    words: &'w [&'w [u8]],
) -> (Option<u64>, &'w [&'w [u8]]) {
    if let [b"", at, tags @ ..] = words
        && !tags.is_empty()
        && let Some(number) = at.strip_prefix(b"@")
        && let Ok(at_ms) = Cursor::new(&[number]).next_in(0..=MAX_TIME_MS)
        && access::may_replay(ctx)
    {
        return (Some(at_ms), tags);
    }
    (None, words)
}

/// Propagates a command on tags, with its time in the form of [`split_time`].
pub(super) fn replicate_tags(
    ctx: &Context<'_>,
    command: &str,
    given_ms: Option<u64>,
    at_ms: u64,
    tags: &[&[u8]],
) {
    let at = format!("@{at_ms}");
    let stamped = [&[b"", at.as_bytes()], tags].concat();
    replicate(ctx, command, (given_ms, at_ms), &stamped, tags);
}

/// Propagates a command with the time when it happened, or as it came if it had that time, and forwards it to the nodes
/// that hash slots migrate to.
fn replicate(
    ctx: &Context<'_>,
    command: &str,
    (given_ms, at_ms): (Option<u64>, u64),
    stamped: &[&[u8]],
    words: &[&[u8]],
) {
    let is_given = given_ms.is_some();
    if propagation::forward(ctx, at_ms, command, words, is_given) {
        return;
    }
    if is_given || propagation::is_alone() {
        ctx.replicate_verbatim();
    } else {
        ctx.replicate_words(command, stamped);
    }
}

/// Executes a command that the old node of arriving hash slots forwards, at the time of that node's clock, which also
/// stamped the entries that arrive.
pub(super) fn forwarded(
    ctx: &Context<'_>,
    at_ms: u64,
    command: &[u8],
    words: &[&[u8]],
) -> Result<(), Error> {
    let tags = || Cursor::new(words).rest_as_tags();
    let what = match command {
        b"CACHE.INVALIDATE" => Invalidation::Tags(Effect::Gone, tags()?),
        b"CACHE.REVALIDATE" => Invalidation::Tags(Effect::Stale, tags()?),
        b"CACHE.INVALIDATEWHERE" => parse_where(words)?.what(),
        b"CACHE.FLUSH" if words.is_empty() => Invalidation::Everything,
        b"CACHE.HOLD" => {
            hold::until(ctx, at_ms, tags()?);
            return Ok(());
        }
        _ => return Err(Error::Syntax),
    };
    change(ctx, what, |state, now, monotonic| {
        let at_ms = at_ms.min(state.stamps_at(now, || monotonic).now_ms(now));
        if propagation::decides() {
            // A write here in the same millisecond gets a later stamp.
            state.stamps.follow(at_ms);
        }
        at_ms
    });
    if matches!(what, Invalidation::Everything) {
        waiting::restart(ctx, ctx.db());
    }
    // A timer does this, unless a log is loaded: keys of other hash slots cannot be reached here.
    reclaim::after_invalidation(ctx, 0);
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct WhereArgs<'a> {
    condition: Condition<'a>,
    effect: Effect,
    /// The longest time that entries may be stale.
    limit_ms: Option<u64>,
    is_dry_run: bool,
    /// When it happened, from a primary or a log.
    at_ms: Option<u64>,
}

fn parse_where<'a>(words: &'a [&'a [u8]]) -> Result<WhereArgs<'a>, Error> {
    let mut condition = Condition::default();
    let (mut soft, mut limit_ms, mut dry_run, mut at_ms) = (None, None, None, None);
    let mut cursor = Cursor::new(words);
    while let Some(word) = cursor.next_option() {
        if word.is(b"ALL") {
            set_once(&mut condition.all, cursor.next_tags(1)?)?;
        } else if word.is(b"ANY") {
            set_once(&mut condition.any, cursor.next_tags(1)?)?;
        } else if word.is(b"NONE") {
            set_once(&mut condition.none, cursor.next_tags(1)?)?;
        } else if word.is(b"SOFT") {
            set_once(&mut soft, ())?;
        } else if word.is(b"GRACE") {
            set_once(&mut limit_ms, cursor.next_in(0..=MAX_SPAN_MS)?)?;
        } else if word.is(b"DRYRUN") {
            set_once(&mut dry_run, ())?;
        } else if word.is(b"AT") {
            set_once(&mut at_ms, cursor.next_in(0..=MAX_TIME_MS)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    if condition.all.or(condition.any).or(condition.none).is_none()
        || (limit_ms.is_some() && soft.is_none())
    {
        return Err(Error::Syntax);
    }
    Ok(WhereArgs {
        condition,
        effect: soft.map_or(Effect::Gone, |()| Effect::Stale),
        limit_ms,
        is_dry_run: dry_run.is_some(),
        at_ms,
    })
}

impl<'a> WhereArgs<'a> {
    fn what(&self) -> Invalidation<'a> {
        let limit_ms = self.limit_ms.unwrap_or(u64::MAX);
        Invalidation::Where(self.effect, self.condition, limit_ms)
    }

    /// All given tags, with the access that the caller needs to each.
    fn tags(&self) -> impl Iterator<Item = (&'a [u8], Access)> {
        let write = if self.is_dry_run {
            Access::Read
        } else {
            Access::Write
        };
        let clauses = [
            (self.condition.all, write),
            (self.condition.any, write),
            (self.condition.none, Access::Read),
        ];
        clauses.into_iter().flat_map(|(tags, access)| {
            let tags = tags.unwrap_or_default().iter();
            tags.map(move |tag| (*tag, access))
        })
    }
}

/// `CACHE.INVALIDATEWHERE clause [clause ...] [SOFT [GRACE ms]] [DRYRUN]` → how many entries are dropped. A clause is
/// `ALL | ANY | NONE count tag [tag ...]`, each at most once.
pub(crate) fn invalidatewhere(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(3, &mut storage)?;
    let asked = parse_where(words)?;
    if asked.at_ms.is_some() && !access::may_replay(ctx) {
        return Err(Error::Syntax);
    }
    let condition = asked.condition;
    let reach = if condition.all.or(condition.any).is_some() {
        Reach::Tags
    } else {
        Reach::Everything
    };
    access::check_pairs(ctx, args, asked.tags(), reach)?;
    if asked.at_ms.is_none() {
        let tags = [condition.all, condition.any].into_iter().flatten();
        reclaim::meet_expired(ctx, tags.flatten().copied());
    }
    if asked.is_dry_run {
        let db = ctx.db();
        let count = state::index(db, |index| index.select(condition).len());
        ctx.reply_integer(count as i64);
        return Ok(());
    }
    let (dropped, at) = run(ctx, asked.what(), asked.at_ms);
    let text = at.to_string();
    let stamped = [words, &[b"AT", text.as_bytes()]].concat();
    let times = (asked.at_ms, at);
    replicate(ctx, "CACHE.INVALIDATEWHERE", times, &stamped, words);
    finish(ctx, dropped);
    Ok(())
}

/// Invalidates, now or at the time from a primary or a log. Returns how much was dropped, and the stamp.
fn run(ctx: &Context<'_>, what: Invalidation<'_>, given_ms: Option<u64>) -> (u64, u64) {
    let is_replay = ctx.is_replay();
    change(ctx, what, |state, now, monotonic| match given_ms {
        Some(at) if is_replay => state.follow_invalidation(at),
        Some(at) => at,
        None => {
            // Notices at once if the clock was set back: entries written before must not seem younger.
            state.watch_clock(now, monotonic);
            state.stamps_at(now, || monotonic).of_invalidation(now)
        }
    })
}

/// Invalidates at the time that `at` computes from the clocks' readings, and notifies local tiers.
fn change(
    ctx: &Context<'_>,
    what: Invalidation<'_>,
    at: impl FnOnce(&mut State, u64, u64) -> u64 + Send,
) -> (u64, u64) {
    let (db, now, monotonic) = (ctx.db(), now_ms(), monotonic_ms());
    let (dropped, clock, at) = store::change(db, || {
        state::with(|state| {
            let at = at(state, now, monotonic);
            let database = state.database(db);
            (database.invalidate(what, at, now), database.clock, at)
        })
    });
    channel::publish(ctx, db, clock, what);
    (dropped, at)
}

/// The end of every command that invalidates: reclaims, and replies.
fn finish(ctx: &Context<'_>, dropped: u64) {
    reclaim::after_invalidation(ctx, dropped);
    ctx.reply_integer(dropped as i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_clause_is_accepted_once_in_any_order() {
        let words: [&[u8]; 9] = [
            b"none", b"1", b"x", b"soft", b"ALL", b"2", b"SOFT", b"b", b"DryRun",
        ];
        let asked = parse_where(&words).expect("good");
        assert_eq!(asked.condition.all, Some(&[&b"SOFT"[..], b"b"][..]));
        assert_eq!(asked.condition.none, Some(&[&b"x"[..]][..]));
        assert!(asked.condition.any.is_none());
        assert_eq!((asked.effect, asked.is_dry_run), (Effect::Stale, true));
        for words in [
            &[&b"SOFT"[..], b"DRYRUN"][..],
            &[b"ALL", b"1", b"a", b"ALL", b"1", b"b"],
            &[b"ANY", b"1", b"a", b"SOFT", b"SOFT"],
            &[b"ANY", b"2", b"a"],
            &[b"SOME", b"1", b"a"],
        ] {
            assert_eq!(parse_where(words).unwrap_err(), Error::Syntax, "{words:?}");
        }
    }
}
