use crate::args::{Cursor, TagLimits, Ttl, next_grace_ms, set_once, with_grace};
use crate::engine::{Freshness, Written};
use crate::error::Error;
use crate::redis::access;
use crate::redis::context::{self, Mode, monotonic_ms, now_ms};
use crate::redis::store::{self, Content, Found};
use crate::redis::string::Words;
use crate::redis::{
    Args, Context, Key, Kind, OwnedStr, Str, cluster, propagation, reclaim, state, waiting,
};

const COMMAND: &str = "cache.set";

/// What an entry has room for.
const MAX_TIME_MS: u64 = (1 << 48) - 1;

/// Which keys a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// NX: only where no entry is fresh.
    Absent,
    /// XX: only where an entry is fresh.
    Present,
}

/// What CACHE.SET was asked, as far as its words go.
#[derive(Debug, Default)]
struct SetArgs<'a> {
    value: &'a [u8],
    ttl: Option<Ttl>,
    grace_ms: Option<u64>,
    condition: Option<Condition>,
    /// The lease under which the value was loaded.
    token: Option<i64>,
    tags: &'a [&'a [u8]],
    /// Where the tags stand among the arguments.
    tags_at: usize,
    /// From an append-only file: when it was written first, its hits until then, and since when it is stale.
    created_ms: Option<u64>,
    hits: Option<u32>,
    soft_since_ms: Option<u64>,
}

impl SetArgs<'_> {
    /// Whether it says what only an append-only file may say.
    const fn is_rewritten(&self) -> bool {
        self.created_ms.is_some() || self.hits.is_some() || self.soft_since_ms.is_some()
    }
}

fn parse<'a>(words: &'a [&'a [u8]], limits: TagLimits) -> Result<SetArgs<'a>, Error> {
    let (&[_key, value], options) = words.split_first_chunk().ok_or(Error::WrongArity)?;
    let mut args = SetArgs {
        value,
        ..SetArgs::default()
    };
    let mut tags = None;
    let mut cursor = Cursor::new(options);
    while let Some(word) = cursor.next_option() {
        if let Some(ttl) = Ttl::parse(word, &mut cursor)? {
            set_once(&mut args.ttl, ttl)?;
        } else if word.eq_ignore_ascii_case(b"KEEPTTL") {
            set_once(&mut args.ttl, Ttl::Keep)?;
        } else if word.eq_ignore_ascii_case(b"NX") {
            set_once(&mut args.condition, Condition::Absent)?;
        } else if word.eq_ignore_ascii_case(b"XX") {
            set_once(&mut args.condition, Condition::Present)?;
        } else if word.eq_ignore_ascii_case(b"TAGS") {
            let given = cursor.next_stored_tags("TAGS", limits)?;
            args.tags_at = words.len() - cursor.left() - given.len();
            set_once(&mut tags, given)?;
        } else if word.eq_ignore_ascii_case(b"GRACE") {
            set_once(&mut args.grace_ms, next_grace_ms(&mut cursor)?)?;
        } else if word.eq_ignore_ascii_case(b"LEASE") {
            set_once(&mut args.token, cursor.next_i64()?)?;
        } else if word.eq_ignore_ascii_case(b"CREATED") {
            set_once(&mut args.created_ms, cursor.next_in(0..=MAX_TIME_MS)?)?;
        } else if word.eq_ignore_ascii_case(b"HITS") {
            let hits = cursor.next_in(0..=u32::MAX.into())?;
            set_once(&mut args.hits, hits as u32)?;
        } else if word.eq_ignore_ascii_case(b"SOFT") {
            set_once(&mut args.soft_since_ms, cursor.next_in(1..=MAX_TIME_MS)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    args.tags = tags.unwrap_or_default();
    Ok(args)
}

/// `CACHE.SET key value [EX s | PX ms | EXAT unix-s | PXAT unix-ms | KEEPTTL] [GRACE ms] [NX | XX] [LEASE token]
/// [TAGS count tag [tag ...]]` → OK; nil when NX or XX is not met, or when the lease was lost.
///
/// Replaces value, tags and times of an entry, and keeps its hit count. NX and XX look at fresh entries: one that is stale
/// or was invalidated counts as absent, as what expired does in Redis. TAGS 0: no tags. A key that holds another type: `WRONGTYPE`, and nothing is lost. A
/// tag given twice is stored once. Without a TTL option `tagcache.default-ttl-ms` applies; EXAT and PXAT may lie in the
/// past: the entry is stale at once, or expired if it has no grace. KEEPTTL keeps the grace as well, unless GRACE is given. O(tags).
///
/// GRACE: how long after its expiry, or after CACHE.REVALIDATE of one of its tags, CACHE.FETCH may serve the value as
/// stale. The TTL that native commands see is the sum of both.
///
/// LEASE: the value was loaded under this lease of CACHE.FETCH. It is written only if no other lease was granted for the
/// key since, nothing else was written to it, it was not removed by CACHE.DEL, DEL, UNLINK or a flush, and none of the
/// given tags was invalidated, hard or soft. The lease is over then.
///
/// Replicates as what happened: TTLs as PXAT, conditions and lease dropped, the time of the write as CREATED; a refused
/// write not at all. An administrator may send what a log contains: CREATED, HITS and SOFT.
pub(crate) fn set(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let config = state::with(|state| state.config);
    // What a primary or a log says was accepted there.
    let limits = if ctx.is_replay() {
        TagLimits::WIDEST
    } else {
        TagLimits::of(&config)
    };
    let asked = parse(words, limits)?;
    if asked.is_rewritten() && !access::may_replay(ctx) {
        return Err(Error::Syntax);
    }
    let times = times(ctx, &asked, config.default_ttl_ms)?;
    let [name] = args.first::<1>()?;
    let mut key = ctx.open(name, Mode::Write);
    let db = ctx.db();
    let Some(written) = store(ctx, db, &mut key, name, &asked, times)? else {
        ctx.reply_null();
        return Ok(());
    };
    waiting::written(ctx, db, name);
    waiting::serve_trackers(db, name);
    ctx.close_modified(key);
    ctx.notify(c"cache.set", name);
    replicate(ctx, args, &asked, written);
    ctx.reply_ok();
    reclaim::help(ctx);
    Ok(())
}

/// When a write happens, and when what it writes expires.
#[derive(Debug, Clone, Copy)]
struct Times {
    now_ms: u64,
    /// The logical expiry.
    expires_ms: Option<u64>,
}

fn times(ctx: &Context<'_>, asked: &SetArgs<'_>, default_ttl_ms: u64) -> Result<Times, Error> {
    let now_ms = now_ms();
    let expires_ms = match asked.ttl {
        Some(ttl) => ttl.deadline_ms(now_ms, COMMAND)?,
        // What a primary or a log says is complete: a default of this node's own must not be added to it.
        None if default_ttl_ms > 0 && !ctx.is_replay() && !asked.is_rewritten() => {
            Some(now_ms + default_ttl_ms)
        }
        None => None,
    };
    Ok(Times { now_ms, expires_ms })
}

/// Whether the write may happen. A lease under which it may not is over.
fn is_allowed(
    ctx: &Context<'_>,
    db: u32,
    name: Str<'_>,
    asked: &SetArgs<'_>,
    is_fresh: bool,
) -> bool {
    let is_met = match asked.condition {
        None => true,
        Some(Condition::Absent) => !is_fresh,
        Some(Condition::Present) => is_fresh,
    };
    let Some(token) = asked.token else {
        return is_met;
    };
    cluster::end_if_slots_moved(ctx);
    let now = monotonic_ms();
    let is_allowed = state::with(|state| {
        let tags = asked.tags.iter().copied();
        state
            .database(db)
            .decide_write(name.bytes(), token as u64, tags, is_met, now)
    });
    if !is_allowed {
        waiting::refused(ctx, db, name, is_fresh);
    }
    is_allowed
}

/// The times that an entry is written with.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_field_names, reason = "the unit is a part of the name")]
struct Plan {
    created_ms: u64,
    expires_ms: Option<u64>,
    grace_ms: u64,
    /// What the server sees: expiry and grace.
    deadline_ms: Option<u64>,
}

/// The times that KEEPTTL keeps.
#[derive(Debug, Clone, Copy)]
struct Kept {
    expires_ms: Option<u64>,
    grace_ms: u64,
}

impl Kept {
    fn of(key: &Key, found: Found<'_>) -> Self {
        let grace_ms = found.entry.grace_ms();
        let deadline = key.deadline_ms();
        Self {
            // After a native EXPIRE to less than the grace, that is no time at all; 0 could not be sent to a replica.
            expires_ms: deadline.map(|deadline| deadline.saturating_sub(grace_ms).max(1)),
            grace_ms,
        }
    }
}

fn plan(
    asked: &SetArgs<'_>,
    times: Times,
    kept: Option<Kept>,
    created_ms: u64,
) -> Result<Plan, Error> {
    let expires_ms = kept.map_or(times.expires_ms, |kept| kept.expires_ms);
    let grace_ms = asked
        .grace_ms
        .unwrap_or(kept.map_or(0, |kept| kept.grace_ms));
    Ok(Plan {
        created_ms,
        expires_ms,
        grace_ms,
        deadline_ms: with_grace(expires_ms, grace_ms, COMMAND)?,
    })
}

/// Puts the entry into keyspace and index; `None`, and nothing done, where it may not be written.
fn store(
    ctx: &Context<'_>,
    db: u32,
    key: &mut Key,
    name: Str<'_>,
    asked: &SetArgs<'_>,
    times: Times,
) -> Result<Option<Plan>, Error> {
    if matches!(key.kind(), Kind::Other) {
        return Err(Error::WrongType);
    }
    let found = store::look(db, key, || times.now_ms);
    let is_fresh = found.is_some_and(|found| found.freshness == Freshness::Fresh);
    if !is_allowed(ctx, db, name, asked, is_fresh) {
        return Ok(None);
    }
    let kept = found
        .filter(|found| found.freshness != Freshness::Gone && asked.ttl == Some(Ttl::Keep))
        .map(|found| Kept::of(key, found));
    let (created_ms, is_outdated) = stamp(ctx, db, asked, times.now_ms);
    let plan = plan(asked, times, kept, created_ms)?;
    let content = Content {
        value: asked.value,
        tags: asked.tags,
        created_ms,
        grace_ms: plan.grace_ms,
        deadline_ms: plan.deadline_ms,
        hits: asked.hits.unwrap_or(0),
        soft_since_ms: asked.soft_since_ms,
    };
    store::put(db, key, name.bytes(), &content);
    state::with(|state| state.database(db).counters.sets += 1);
    if is_outdated {
        store::refuse(ctx, db, key, name);
    }
    Ok(Some(plan))
}

/// When the entry was written, and whether it arrives too late: one of its tags was invalidated here since.
fn stamp(ctx: &Context<'_>, db: u32, asked: &SetArgs<'_>, now_ms: u64) -> (u64, bool) {
    let Some(created_ms) = asked.created_ms else {
        let stamp = state::with(|state| state.stamps_at(now_ms, monotonic_ms).of_write(now_ms));
        return (stamp, false);
    };
    // It comes from another node's slot, or out of a log, if not from this node's own primary or log.
    let is_arrival = ctx.is_import() || !ctx.is_replay();
    state::with(|state| {
        let written = Written {
            at_ms: created_ms,
            is_local: false,
            is_stale: asked.soft_since_ms.is_some(),
        };
        let tags = asked.tags.iter().copied();
        let now_ms = state.stamps_at(now_ms, monotonic_ms).now_ms(now_ms);
        let history = &state.database(db).history;
        (
            created_ms,
            is_arrival && history.outdates(tags, written, now_ms),
        )
    })
}

/// Propagates what happened.
fn replicate(ctx: &Context<'_>, args: Args<'_>, asked: &SetArgs<'_>, written: Plan) {
    if ctx.is_replay() || !propagation::has_receivers(ctx) {
        ctx.replicate_verbatim();
        return;
    }
    let option = |word: &[u8], ms: u64| (OwnedStr::new(word), OwnedStr::from_number(ms as i64));
    let at = written.expires_ms.map(|ms| option(b"PXAT", ms));
    let grace = (written.grace_ms > 0).then(|| option(b"GRACE", written.grace_ms));
    let created = option(b"CREATED", written.created_ms);
    let hits = asked.hits.map(|hits| option(b"HITS", hits.into()));
    let soft = asked.soft_since_ms.map(|ms| option(b"SOFT", ms));
    let mut parts: context::Parts<'_> = args.iter().take(2).collect();
    let options = at.iter().chain(&grace).chain([&created]);
    for (word, ms) in options.chain(&hits).chain(&soft) {
        parts.extend([word.as_str(), ms.as_str()]);
    }
    if !asked.tags.is_empty() {
        // The word and the count stand before the tags.
        parts.extend(
            args.iter()
                .skip(asked.tags_at - 2)
                .take(asked.tags.len() + 2),
        );
    }
    ctx.replicate(c"CACHE.SET", &parts);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parsed<'a>(words: &'a [&'a [u8]]) -> Result<SetArgs<'a>, Error> {
        parse(words, TagLimits::of(&Config::default()))
    }

    #[test]
    fn options_come_in_any_order_and_case() {
        let words: [&[u8]; 9] = [b"k", b"v", b"tags", b"2", b"a", b"b", b"Px", b"5", b"nX"];
        let args = parsed(&words).expect("good");
        assert_eq!(
            (args.value, args.tags, args.tags_at),
            (&b"v"[..], &[&b"a"[..], b"b"][..], 4)
        );
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
