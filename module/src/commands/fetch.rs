use crate::args::{Cursor, set_once};
use crate::commands::{for_each_key, logical_pttl, open, outcome, read};
use crate::engine::{
    Answer, Ask, Caller, Database, Freshness, Leases, Outcome, Terms, Token, Waiter,
};
use crate::entry::Handle;
use crate::error::Error;
use crate::redis::access::{self, Access};
use crate::redis::state::CallsNothingBack;
use crate::redis::{
    Args, Context, Held, Key, Mode, Place, Str, Undo, Words, cluster, monotonic_ms, now_ms,
    panic_point, state, waiting,
};

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct FetchArgs<'a> {
    lease: Option<Ask>,
    /// Only the lease that the caller has is asked for, whatever the key holds.
    is_renewal: bool,
    /// A lease is asked for even if the value is fresh.
    is_early: bool,
    wait_ms: Option<u64>,
    /// Tags that the entry is checked against, in addition to its own.
    tags: &'a [&'a [u8]],
}

/// The largest token that a caller may choose: an integer of the protocol.
const MAX_TOKEN: Token = i64::MAX as Token;

/// The longest wait, about 35 years: a longer one would overflow the server's clock.
const MAX_WAIT_MS: u64 = 1 << 40;

fn parse<'a>(words: &'a [&'a [u8]]) -> Result<FetchArgs<'a>, Error> {
    let (mut lease_ms, mut token, mut renew, mut early) = (None, None, None, None);
    let (mut wait_ms, mut tags) = (None, None);
    let mut cursor = Cursor::new(words);
    while let Some(word) = cursor.next_option() {
        if word.is(b"LEASE") {
            set_once(&mut lease_ms, cursor.next_in(1..=u64::MAX >> 1)?)?;
        } else if word.is(b"TOKEN") {
            set_once(&mut token, cursor.next_in(1..=MAX_TOKEN)?)?;
        } else if word.is(b"RENEW") {
            set_once(&mut renew, ())?;
        } else if word.is(b"EARLY") {
            set_once(&mut early, ())?;
        } else if word.is(b"WAIT") {
            set_once(&mut wait_ms, cursor.next_in(0..=MAX_WAIT_MS)?)?;
        } else if word.is(b"WITHTAGS") {
            set_once(&mut tags, cursor.next_tags(0)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    if lease_ms.is_none() && (token.is_some() || early.is_some())
        || renew.is_some() && (token.is_none() || wait_ms.is_some())
    {
        return Err(Error::Syntax);
    }
    Ok(FetchArgs {
        lease: lease_ms.map(|ms| Ask { ms, token }),
        is_renewal: renew.is_some(),
        is_early: early.or(renew).is_some(),
        wait_ms,
        tags: tags.unwrap_or_default(),
    })
}

/// `CACHE.FETCH key [LEASE ms [TOKEN n [RENEW]] [EARLY]] [WAIT ms] [WITHTAGS count tag [tag ...]]` →
/// `[state, value, pttl, token, tags]`
#[inline(always)]
pub(crate) fn fetch(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    // By far the most common form.
    if let Ok(name) = args.only() {
        look_up(ctx, name)
    } else {
        fetch_as_asked(ctx, args)
    }
}

/// [`fetch`] with options. Kept apart, so that a command without options does not pay for this function's stack.
#[inline(never)]
fn fetch_as_asked(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let (name, rest) = args.split_first()?;
    let mut storage = Words::new();
    let asked = parse(rest.words(0, &mut storage)?)?;
    if !asked.tags.is_empty() {
        access::check_tags(ctx, args, asked.tags, Access::Read)?;
    }
    let key = open(ctx, name, Mode::Read)?;
    let db = ctx.db();
    let found = found(db, &key, asked.tags);
    if found == Freshness::Fresh && !asked.is_early {
        reply(ctx, db, Some(&key), Answer::Hit(None));
        return Ok(());
    }
    let is_replica = ctx.is_replica();
    let wait_ms = asked.wait_ms.filter(|&ms| ms > 0 && !is_replica);
    let caller = Caller {
        client: ctx.client_id(),
        ask: asked.lease.filter(|_| !is_replica),
        is_renewal: asked.is_renewal,
        is_early: asked.is_early,
        may_wait: wait_ms.is_some() && ctx.may_block(),
    };
    if caller.ask.is_some() {
        cluster::watch(ctx);
    }
    let answer = decide(ctx, name, |leases, name, terms| {
        leases.fetch(name, found, caller, terms)
    });
    let _undo = give_back_on_panic(ctx, name, answer);
    panic_point(Place::Fetch);
    if answer == Answer::Wait {
        drop(key);
        if !waiting::block(ctx, name, wait_ms.unwrap_or(0), caller) {
            reply(ctx, db, None, Answer::Miss(None));
        }
    } else {
        reply(ctx, db, Some(&key), answer);
    }
    Ok(())
}

/// Ends the lease that was granted if the caller does not learn its token because of a panic.
fn give_back_on_panic(ctx: &Context<'_>, name: Str<'_>, answer: Answer) -> Undo<impl FnMut()> {
    Undo(move || {
        if let Answer::Hit(Some(token)) | Answer::Stale(Some(token)) | Answer::Miss(Some(token)) =
            answer
        {
            give_back(ctx, name, token);
        }
    })
}

/// Lets the leases of the database decide.
fn decide(
    ctx: &Context<'_>,
    name: Str<'_>,
    decide: impl FnOnce(&mut Leases, &[u8], Terms) -> Answer + Send,
) -> Answer {
    let (db, now) = (ctx.db(), monotonic_ms());
    let (answer, is_awaited) = state::with(|state| {
        let terms = state.lease_terms(db, now);
        let leases = &mut state.database(db).leases;
        (decide(leases, name.bytes(), terms), leases.waiting() > 0)
    });
    if is_awaited {
        waiting::watch(ctx);
    }
    answer
}

/// Replies to a waiting client with what its key holds now. Returns false, without a reply, if the wait goes on.
pub(crate) fn look_again(ctx: &Context<'_>, name: Str<'_>, rest: Args<'_>, waiter: Waiter) -> bool {
    let mut storage = Words::new();
    let words = rest.words(0, &mut storage);
    let asked = words.and_then(parse).unwrap_or_default();
    let key = match open(ctx, name, Mode::Read) {
        Ok(key) => key,
        Err(error) => {
            ctx.reply_error(&error);
            return true;
        }
    };
    let db = ctx.db();
    let found = found(db, &key, asked.tags);
    let answer = decide(ctx, name, |leases, name, terms| {
        leases.serve(name, waiter, found, terms)
    });
    let _undo = give_back_on_panic(ctx, name, answer);
    reply(ctx, db, Some(&key), answer);
    answer != Answer::Wait
}

/// Replies MISS to a waiting client, with the lease that was granted to it.
pub(crate) fn miss(ctx: &Context<'_>, token: Option<Token>) {
    reply(ctx, ctx.db(), None, Answer::Miss(token));
}

/// `CACHE.MFETCH key [key ...]` → for each key the reply of CACHE.FETCH without options, or nil if it holds another
/// type.
pub(crate) fn mfetch(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    for_each_key(ctx, args, fetch)
}

/// Replies with what a key holds, and looks at no leases.
fn look_up(ctx: &Context<'_>, name: Str<'_>) -> Result<(), Error> {
    let key = open(ctx, name, Mode::Read)?;
    let (db, held, sender) = (ctx.db(), key.held(), ctx.sender());
    state::database(db, |database| {
        let answer = match held.and_then(|held| read(database, held)) {
            Some((_, Freshness::Fresh)) => Answer::Hit(None),
            Some((_, Freshness::Stale)) => Answer::Stale(None),
            Some((_, Freshness::Gone)) | None => Answer::Miss(None),
        };
        send(sender, database, held, answer);
    });
    Ok(())
}

/// The freshness of what a key holds, by these tags and the entry's own.
fn found(db: u32, key: &Key, tags: &[&[u8]]) -> Freshness {
    let Some(held) = key.held() else {
        return Freshness::Gone;
    };
    state::with(|state| {
        let Some((slot, freshness)) = read(state.database(db), held) else {
            return Freshness::Gone;
        };
        if tags.is_empty() || freshness == Freshness::Gone {
            return freshness;
        }
        let (now, entry) = (now_ms(), held.0);
        match outcome(state, db, entry, slot, tags.iter().copied()) {
            Outcome::Untouched => freshness,
            Outcome::Softened { since_ms, ends_ms }
                // The stamp may be ahead of the present.
                if now < since_ms.min(now).saturating_add(entry.grace_ms())
                    && (ends_ms == 0 || now < ends_ms) =>
            {
                Freshness::Stale
            }
            Outcome::Softened { .. } | Outcome::Dropped => Freshness::Gone,
        }
    })
}

/// Sends the reply that was decided, with the value of the key if it is open.
fn reply(ctx: &Context<'_>, db: u32, key: Option<&Key>, answer: Answer) {
    let (held, sender) = (key.and_then(Key::held), ctx.sender());
    state::with(|state| send(sender, state.database(db), held, answer));
}

/// [`reply`] for callers that have borrowed the database.
#[inline(always)]
fn send(
    sender: CallsNothingBack<&Context<'_>>,
    database: &mut Database<Handle>,
    held: Option<Held<'_>>,
    answer: Answer,
) {
    let ctx = sender.get();
    let (held, token) = match answer {
        Answer::Hit(token) | Answer::Stale(token) => (held, token),
        Answer::Miss(token) => (None, token),
        Answer::Wait => return,
    };
    ctx.reply_array(5);
    let slot = match held {
        Some((entry, deadline)) if matches!(answer, Answer::Hit(_)) => {
            database.counters.hits += 1;
            ctx.reply_hit();
            ctx.reply_bytes(entry.value());
            ctx.reply_integer(logical_pttl(deadline, entry, now_ms()));
            entry.slot()
        }
        Some((entry, _)) => {
            database.counters.stale_hits += 1;
            ctx.reply_bytes(b"STALE");
            ctx.reply_bytes(entry.value());
            ctx.reply_integer(0);
            entry.slot()
        }
        None => {
            database.counters.misses += 1;
            ctx.reply_bytes(b"MISS");
            ctx.reply_null();
            ctx.reply_integer(-2);
            None
        }
    };
    ctx.reply_integer(token.unwrap_or(0) as i64);
    let Some(slot) = slot else {
        return ctx.reply_array(0);
    };
    database.index.hit(slot);
    ctx.reply_list(database.index.tags(slot));
}

/// `CACHE.RELEASE key token` → 1 if that lease was held, else 0.
pub(crate) fn release(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let [name, token] = args.exactly::<2>()?;
    let token = crate::args::parse_i64(token.bytes()).ok_or(Error::NotAnInteger)?;
    ctx.reply_integer(give_back(ctx, name, token as u64).into());
    Ok(())
}

/// Gives a lease back, to the next caller that waits. Returns whether it was held.
fn give_back(ctx: &Context<'_>, name: Str<'_>, token: Token) -> bool {
    let (db, now) = (ctx.db(), monotonic_ms());
    let was_held = state::database(db, |Database { leases, .. }| {
        leases.settle(name.bytes(), token);
        leases.release(name.bytes(), token, now)
    });
    waiting::pass_on(ctx, db, name.bytes());
    was_held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order_and_checked() {
        let check = |options: &[&'static [u8]], expected| {
            assert_eq!(parse(options), expected, "{options:?}");
        };
        let ask = |token| Ask { ms: 5, token };
        let both = FetchArgs {
            lease: Some(ask(None)),
            wait_ms: Some(0),
            ..FetchArgs::default()
        };
        check(&[b"wait", b"0", b"Lease", b"5"], Ok(both));
        let tags: &[&[u8]] = &[b"WAIT", b"early"];
        let chosen = FetchArgs {
            lease: Some(ask(Some(MAX_TOKEN))),
            is_early: true,
            tags,
            ..FetchArgs::default()
        };
        let largest = b"9223372036854775807";
        let words: &[&[u8]] = &[b"Token", largest, b"EARLY", b"LEASE", b"5"];
        check(&[words, &[b"WithTags", b"2"], tags].concat(), Ok(chosen));
        let renewed = FetchArgs {
            lease: Some(ask(Some(7))),
            is_renewal: true,
            is_early: true,
            ..FetchArgs::default()
        };
        let words: &[&[u8]] = &[b"LEASE", b"5", b"renew", b"TOKEN", b"7"];
        check(words, Ok(renewed));
        check(&[words, &[b"WAIT", b"1"]].concat(), Err(Error::Syntax));
        check(&[], Ok(FetchArgs::default()));
        for (options, error) in [
            (&[&b"LEASE"[..]][..], Error::Syntax),
            (&[b"LEASE", b"1", b"LEASE", b"1"], Error::Syntax),
            (&[b"NOW"], Error::Syntax),
            (&[b"LEASE", b"0"], Error::NotAnInteger),
            (&[b"LEASE", b"-1"], Error::NotAnInteger),
            (&[b"LEASE", b"x"], Error::NotAnInteger),
            (&[b"TOKEN", b"1"], Error::Syntax),
            (&[b"EARLY"], Error::Syntax),
            (&[b"LEASE", b"1", b"RENEW"], Error::Syntax),
            (&[b"TOKEN", b"1", b"RENEW"], Error::Syntax),
            (&[b"WITHTAGS", b"2", b"a"], Error::Syntax),
            (
                &[b"LEASE", b"1", b"TOKEN", b"1", b"TOKEN", b"1"],
                Error::Syntax,
            ),
            (&[b"LEASE", b"1", b"TOKEN", b"0"], Error::NotAnInteger),
            (
                &[b"LEASE", b"1", b"TOKEN", b"9223372036854775808"],
                Error::NotAnInteger,
            ),
            (&[b"WAIT", b"-1"], Error::NotAnInteger),
            (&[b"WAIT", b"9223372036854775807"], Error::NotAnInteger),
        ] {
            check(options, Err(error));
        }
    }
}
