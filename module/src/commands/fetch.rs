use crate::args::{Cursor, set_once};
use crate::commands::{logical_pttl, read};
use crate::engine::{Database, Freshness, Grant, Slot, Token, Waiter};
use crate::entry::{Entry, Handle};
use crate::error::Error;
use crate::redis::context::{Mode, monotonic_ms, now_ms};
use crate::redis::string::Words;
use crate::redis::waiting::{self, Answer};
use crate::redis::{Args, Context, Key, Kind, Str, state};

/// What CACHE.FETCH was asked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct FetchArgs {
    lease_ms: Option<u64>,
    wait_ms: Option<u64>,
}

/// The longest wait, about 35 years: what is beyond would overflow the server's clock.
const MAX_WAIT_MS: u64 = 1 << 40;

fn parse(words: &[&[u8]]) -> Result<FetchArgs, Error> {
    let mut args = FetchArgs::default();
    let mut cursor = Cursor::new(words.get(1..).unwrap_or_default());
    while let Some(word) = cursor.next_option() {
        if word.eq_ignore_ascii_case(b"LEASE") {
            set_once(&mut args.lease_ms, cursor.next_in(1..=u64::MAX >> 1)?)?;
        } else if word.eq_ignore_ascii_case(b"WAIT") {
            set_once(&mut args.wait_ms, cursor.next_in(0..=MAX_WAIT_MS)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok(args)
}

/// `CACHE.FETCH key [LEASE ms] [WAIT ms]` → `[state, value, pttl, token, tags]`
///
/// | state | value | pttl | token | tags |
/// |---|---|---|---|---|
/// | `HIT` | the value | ms to logical expiry, -1: none | 0 | the entry's tags |
/// | `STALE` | the stale value | 0 | positive if this caller holds the lease now, else 0 | the entry's tags |
/// | `MISS` | nil | -2 | positive if this caller holds the lease now, else 0 | empty |
///
/// LEASE asks for the right to load the value, for so many ms, at most `tagcache.lease-max-ms`. One caller at a time
/// holds it. The holder loads the value and writes it with CACHE.SET … LEASE, or gives up with CACHE.RELEASE.
///
/// WAIT: if another caller holds the lease of a missing key, wait up to so many ms. The answer is HIT as soon as the
/// entry is set; MISS with a token as soon as the lease is released or has run out, if LEASE was given too and this
/// caller is next in line; MISS with token 0 at the time-out. Inside MULTI and scripts nobody waits, and replicas grant
/// no leases.
///
/// Counts a hit, a stale hit or a miss. A key that holds another type: `WRONGTYPE`. O(tags).
pub(crate) fn fetch(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(1, &mut storage)?;
    let asked = parse(words)?;
    let [name] = args.first::<1>()?;
    let key = ctx.open(name, Mode::Read);
    if matches!(key.kind(), Kind::Other) {
        return Err(Error::WrongType);
    }
    if answer_hit(ctx, &key) {
        return Ok(());
    }
    let db = ctx.db();
    let lease_ms = asked.lease_ms.filter(|_| !ctx.is_replica());
    let token = lease_ms.and_then(|lease_ms| ask(ctx, db, name, lease_ms));
    if answer_stale(ctx, &key, token) {
        return Ok(());
    }
    drop(key);
    let may_wait = token.is_none() && !ctx.is_replica() && ctx.may_block();
    if let Some(wait_ms) = asked.wait_ms.filter(|&ms| ms > 0 && may_wait)
        && waiting::block(ctx, name, wait_ms, lease_ms)
    {
        return Ok(());
    }
    answer_miss(ctx, token);
    Ok(())
}

/// Answers a caller that waited, now that something happened to its key; says how the waiting goes on.
pub(crate) fn answer_waiter(ctx: &Context<'_>, name: Str<'_>, waiter: Waiter) -> Answer {
    let db = ctx.db();
    let key = ctx.open(name, Mode::Read);
    if answer_hit(ctx, &key) {
        return Answer::Given;
    }
    // What was set is gone or stale by now. If nobody loads the key, this caller is the next, or whoever behind it wants
    // to load.
    let lease_ms = state::with(|state| {
        let lease_ms = state.waiters.lease_ms(waiter);
        let leases = &state.database(db).leases;
        let is_held = leases.is_held(name.bytes(), monotonic_ms());
        let goes_on = is_held || (lease_ms.is_none() && leases.has_heir(name.bytes()));
        (!goes_on).then_some(lease_ms)
    });
    let Some(lease_ms) = lease_ms else {
        return Answer::NotYet;
    };
    let token = lease_ms.and_then(|lease_ms| ask(ctx, db, name, lease_ms));
    if !answer_stale(ctx, &key, token) {
        answer_miss(ctx, token);
    }
    Answer::Given
}

/// Asks for the lease of a key.
fn ask(ctx: &Context<'_>, db: u32, name: Str<'_>, lease_ms: u64) -> Option<Token> {
    let now = monotonic_ms();
    let token = state::with(|state| {
        let lease_ms = lease_ms.min(state.config.lease_max_ms);
        let database = state.database(db);
        let clock = database.clock.reading();
        match database.leases.ask(name.bytes(), clock, now, lease_ms) {
            Grant::Lease(token) => Some(token),
            Grant::Taken | Grant::Refused => None,
        }
    });
    if token.is_some() {
        waiting::watch(ctx);
    }
    token
}

/// Answers HIT if the entry is fresh.
fn answer_hit(ctx: &Context<'_>, key: &Key) -> bool {
    let Kind::Entry(entry) = key.kind() else {
        return false;
    };
    let db = ctx.db();
    let now = now_ms();
    state::with(|state| {
        let database = state.database(db);
        let Some((slot, Freshness::Fresh)) = read(database, key, entry, || now) else {
            return false;
        };
        database.counters.hits += 1;
        answer_value(
            ctx,
            database,
            slot,
            entry,
            State::Hit(logical_pttl(key, entry, now)),
        );
        true
    })
}

/// Answers STALE if the entry may still be served as stale.
fn answer_stale(ctx: &Context<'_>, key: &Key, token: Option<Token>) -> bool {
    let Kind::Entry(entry) = key.kind() else {
        return false;
    };
    let db = ctx.db();
    state::with(|state| {
        let database = state.database(db);
        let Some((slot, Freshness::Stale)) = read(database, key, entry, now_ms) else {
            return false;
        };
        database.counters.stale_hits += 1;
        answer_value(ctx, database, slot, entry, State::Stale(token));
        true
    })
}

/// What is said of a value: ms to its expiry, or who may load it.
#[derive(Debug, Clone, Copy)]
enum State {
    Hit(i64),
    Stale(Option<Token>),
}

fn answer_value(
    ctx: &Context<'_>,
    database: &mut Database<Handle>,
    slot: Slot,
    entry: Entry<'_>,
    state: State,
) {
    database.index.hit(slot);
    let (word, pttl, token) = match state {
        State::Hit(pttl) => (&b"HIT"[..], pttl, None),
        State::Stale(token) => (&b"STALE"[..], 0, token),
    };
    ctx.reply_array(5);
    ctx.reply_bytes(word);
    ctx.reply_bytes(entry.value());
    ctx.reply_integer(pttl);
    ctx.reply_integer(token.unwrap_or(0) as i64);
    let tags = || database.index.tags(slot);
    ctx.reply_array(tags().count());
    for tag in tags() {
        ctx.reply_bytes(tag);
    }
}

/// Answers MISS.
pub(crate) fn answer_miss(ctx: &Context<'_>, token: Option<Token>) {
    let db = ctx.db();
    state::with(|state| state.database(db).counters.misses += 1);
    ctx.reply_array(5);
    ctx.reply_bytes(b"MISS");
    ctx.reply_null();
    ctx.reply_integer(-2);
    ctx.reply_integer(token.unwrap_or(0) as i64);
    ctx.reply_array(0);
}

/// `CACHE.RELEASE key token` → 1 if that lease was held, else 0.
///
/// What a loader calls that failed: the next caller that waits gets the lease. A lease that has run out is not held any
/// more, and cannot be used afterwards either. O(1).
pub(crate) fn release(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let [name, token] = args.exactly::<2>()?;
    let token = crate::args::parse_i64(token.bytes()).ok_or(Error::NotAnInteger)?;
    let db = ctx.db();
    let now = monotonic_ms();
    let was_held = state::with(|state| {
        let leases = &mut state.database(db).leases;
        leases.release(name.bytes(), token as u64, now)
    });
    waiting::pass_on(ctx, db, name.bytes());
    ctx.reply_integer(was_held.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order_and_checked() {
        let parsed = |options: &[&'static [u8]]| parse(&[&[&b"k"[..]], options].concat());
        let both = FetchArgs {
            lease_ms: Some(5),
            wait_ms: Some(0),
        };
        assert_eq!(parsed(&[b"wait", b"0", b"Lease", b"5"]), Ok(both));
        assert_eq!(parsed(&[]), Ok(FetchArgs::default()));
        for (options, error) in [
            (&[&b"LEASE"[..]][..], Error::Syntax),
            (&[b"LEASE", b"1", b"LEASE", b"1"], Error::Syntax),
            (&[b"NOW"], Error::Syntax),
            (&[b"LEASE", b"0"], Error::NotAnInteger),
            (&[b"LEASE", b"-1"], Error::NotAnInteger),
            (&[b"LEASE", b"x"], Error::NotAnInteger),
            (&[b"WAIT", b"-1"], Error::NotAnInteger),
            (&[b"WAIT", b"9223372036854775807"], Error::NotAnInteger),
        ] {
            assert_eq!(parsed(options), Err(error), "{options:?}");
        }
    }
}
