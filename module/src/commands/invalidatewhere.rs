use crate::args::{Cursor, set_once};
use crate::config::Config;
use crate::engine::{Condition, Effect};
use crate::error::Error;
use crate::redis::access::{self, Access, Reach};
use crate::redis::channel::{self, News};
use crate::redis::context::now_ms;
use crate::redis::string::Words;
use crate::redis::{Args, Context, OwnedStr, Str, reclaim, state};

/// What CACHE.INVALIDATEWHERE was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WhereArgs<'a> {
    pub(crate) condition: Condition<'a>,
    effect: Effect,
    is_dry_run: bool,
}

pub(crate) fn parse<'a>(words: &'a [&'a [u8]], config: &Config) -> Result<WhereArgs<'a>, Error> {
    let mut condition = Condition::default();
    let (mut soft, mut dry_run) = (None, None);
    let mut cursor = Cursor::new(words);
    while let Some(word) = cursor.next_option() {
        if word.eq_ignore_ascii_case(b"ALL") {
            set_once(&mut condition.all, cursor.next_tags("ALL", config)?)?;
        } else if word.eq_ignore_ascii_case(b"ANY") {
            set_once(&mut condition.any, cursor.next_tags("ANY", config)?)?;
        } else if word.eq_ignore_ascii_case(b"NONE") {
            set_once(&mut condition.none, cursor.next_tags("NONE", config)?)?;
        } else if word.eq_ignore_ascii_case(b"SOFT") {
            set_once(&mut soft, ())?;
        } else if word.eq_ignore_ascii_case(b"DRYRUN") {
            set_once(&mut dry_run, ())?;
        } else {
            return Err(Error::Syntax);
        }
    }
    if condition.all.or(condition.any).or(condition.none).is_none() {
        return Err(Error::Syntax);
    }
    Ok(WhereArgs {
        condition,
        effect: soft.map_or(Effect::Gone, |()| Effect::Stale),
        is_dry_run: dry_run.is_some(),
    })
}

impl<'a> WhereArgs<'a> {
    /// All tags that were given, with what the caller must be allowed to do with them.
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

/// `CACHE.INVALIDATEWHERE clause [clause ...] [SOFT] [DRYRUN]` → how many entries are dropped. A clause is
/// `ALL | ANY | NONE count tag [tag ...]`, each at most once.
///
/// Drops the entries that carry all of these, at least one of those, none of these tags; several clauses must all be met.
/// All of them are gone for every command when it answers, and memory is given back as by CACHE.INVALIDATE; entries that
/// are written afterwards are untouched. SOFT: stale instead of gone, as CACHE.REVALIDATE. DRYRUN: counts and changes
/// nothing.
///
/// A user needs write permission for keys of the names of the tags in ALL and ANY, and read permission for those in NONE
/// and, with DRYRUN, for all; NONE alone concerns entries of any tag, so it needs all keys (`~*`). Else `NOPERM`.
///
/// O(tags given + entries / 64): the tags' sets of entries are intersected and united as bitmaps. Raises the clock by
/// one, replicates as one command, and publishes one message (see `redis/channel.rs`); clients that track keys learn of
/// each as it is reclaimed or, with SOFT, soon after.
pub(crate) fn invalidatewhere(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(3, &mut storage)?;
    let config = state::with(|state| state.config);
    let asked = match parse(words, &config) {
        Err(error) if error.is_limit() && ctx.is_replay() => {
            parse(words, &config.without_limits())?
        }
        parsed => parsed?,
    };
    let reach = if asked.condition.all.or(asked.condition.any).is_some() {
        Reach::Tags
    } else {
        Reach::Everything
    };
    access::check_pairs(ctx, args, asked.tags(), reach)?;
    let db = ctx.db();
    if asked.is_dry_run {
        let count = state::with(|state| state.database(db).index.count_where(asked.condition));
        ctx.reply_integer(count as i64);
        return Ok(());
    }
    let now = now_ms();
    let dropped = invalidate_now(ctx, asked.condition, asked.effect, now);
    match asked.effect {
        Effect::Gone => ctx.replicate_verbatim(),
        Effect::Stale => {
            let (word, at) = (
                OwnedStr::new(b"INVALIDATEWHERE"),
                OwnedStr::from_number(now as i64),
            );
            let parts: Vec<Str<'_>> = [word.as_str(), at.as_str()]
                .into_iter()
                .chain(args.iter())
                .collect();
            ctx.replicate(c"CACHE.REPLAY", &parts);
        }
    }
    reclaim::after_invalidation(ctx, dropped);
    ctx.reply_integer(dropped as i64);
    Ok(())
}

/// Invalidates, and tells local tiers. The caller replicates, and then reclaims.
pub(crate) fn invalidate_now(
    ctx: &Context<'_>,
    condition: Condition<'_>,
    effect: Effect,
    now_ms: u64,
) -> u64 {
    let db = ctx.db();
    let (dropped, clock) = state::with(|state| {
        let lease_max_ms = state.config.lease_max_ms;
        let database = state.database(db);
        let dropped = database.invalidate_where(condition, effect, now_ms, lease_max_ms);
        (dropped, database.clock.reading())
    });
    channel::publish(ctx, db, clock, News::Where(effect, condition));
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_come_once_and_in_any_order() {
        let words: [&[u8]; 9] = [
            b"none", b"1", b"x", b"soft", b"ALL", b"2", b"SOFT", b"b", b"DryRun",
        ];
        let asked = parse(&words, &Config::default()).expect("good");
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
            assert_eq!(
                parse(words, &Config::default()).unwrap_err(),
                Error::Syntax,
                "{words:?}"
            );
        }
    }
}
