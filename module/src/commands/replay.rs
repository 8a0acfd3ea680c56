use crate::args::{Cursor, Ttl};
use crate::commands::invalidate::invalidate_now;
use crate::commands::invalidatewhere;
use crate::engine::Effect;
use crate::entry::{NewEntry, Parts};
use crate::error::Error;
use crate::redis::context::{Mode, now_ms};
use crate::redis::sizes::cost;
use crate::redis::state::Decision;
use crate::redis::string::Words;
use crate::redis::{Args, Context, Kind, Str, reclaim, state};

/// More databases than any server has.
const MAX_DATABASES: u32 = 1 << 20;

/// `CACHE.REPLAY GONE key [PXAT unix-ms]`, `DROP key`, `REFUSE key [unix-ms]`, `CLOCK db reading [db reading ...]`,
/// `REVALIDATE unix-ms tag [tag ...]` and `INVALIDATEWHERE unix-ms clause [clause ...]` → OK. Internal: only a primary's
/// stream and an append-only file may say it.
///
/// GONE: the command that follows met a gone entry under this key, which this node may have reclaimed already. The key
/// gets a gone entry back, so that the command does here what it did there. Needed for native commands inside
/// MULTI: they were queued before they could see that the key is gone (see `redis/filter.rs`).
///
/// DROP: the commands that follow were run by a script, before which a gone entry under this key was removed.
///
/// REFUSE: the entry that arrives next under this key, by RESTORE, is gone, or stale since then: one of its tags was
/// invalidated just before.
///
/// CLOCK: readings of the databases' clocks, from an append-only file that was rewritten without RDB preamble.
///
/// REVALIDATE and INVALIDATEWHERE (the soft form): the commands of these names, with the time at which they happened.
pub(crate) fn replay(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    if !ctx.is_replay() {
        return Err(Error::OnlyReplayed);
    }
    if words[0].eq_ignore_ascii_case(b"GONE") {
        let [_, name] = args.first::<2>()?;
        let mut cursor = Cursor::new(&words[2..]);
        let deadline = match cursor.next_option() {
            None => None,
            Some(word) => Ttl::parse(word, &mut cursor)?
                .ok_or(Error::Syntax)?
                .deadline_ms(now_ms(), "cache.replay")?,
        };
        hold_gone(ctx, name, deadline);
    } else if words[0].eq_ignore_ascii_case(b"DROP") {
        let [_, name] = args.exactly::<2>()?;
        reclaim::reclaim_if_gone(ctx, name);
    } else if words[0].eq_ignore_ascii_case(b"REFUSE") {
        let [_, name] = args.first::<2>()?;
        let mut cursor = Cursor::new(&words[2..]);
        let decision = match cursor.left() {
            0 => Decision::Gone,
            _ => Decision::StaleSince(cursor.next_in(0..=u64::MAX)?),
        };
        let db = ctx.db();
        state::with(|state| state.decided = Some((db, name.bytes().to_vec(), decision)));
    } else if words[0].eq_ignore_ascii_case(b"CLOCK") {
        let mut cursor = Cursor::new(&words[1..]);
        while cursor.left() > 0 {
            let db = u32::try_from(cursor.next_i64()?)
                .ok()
                .filter(|&db| db < MAX_DATABASES);
            let db = db.ok_or(Error::NotAnInteger)?;
            let reading = u64::try_from(cursor.next_i64()?).map_err(|_| Error::NotAnInteger)?;
            state::with(|state| state.database(db).clock.restore(reading));
        }
    } else if words[0].eq_ignore_ascii_case(b"REVALIDATE") {
        let mut cursor = Cursor::new(&words[1..]);
        let at = cursor.next_in(0..=u64::MAX)?;
        let dropped = invalidate_now(ctx, cursor.rest(), Effect::Stale, at);
        reclaim::after_invalidation(ctx, dropped);
    } else if words[0].eq_ignore_ascii_case(b"INVALIDATEWHERE") {
        let mut cursor = Cursor::new(&words[1..]);
        let at = cursor.next_in(0..=u64::MAX)?;
        let config = state::with(|state| state.config.without_limits());
        let asked = invalidatewhere::parse(cursor.rest(), &config)?;
        let dropped = invalidatewhere::invalidate_now(ctx, asked.condition, Effect::Stale, at);
        reclaim::after_invalidation(ctx, dropped);
    } else {
        return Err(Error::Syntax);
    }
    ctx.replicate_verbatim();
    ctx.reply_ok();
    Ok(())
}

fn hold_gone(ctx: &Context<'_>, name: Str<'_>, deadline: Option<u64>) {
    let mut key = ctx.open(name, Mode::Upkeep);
    if !matches!(key.kind(), Kind::Empty) {
        return; // Not reclaimed yet.
    }
    let parts = Parts {
        key: name.bytes(),
        value: &[],
        created_ms: now_ms(),
        has_ttl: deadline.is_some(),
        grace_ms: 0,
    };
    let entry = key.create(NewEntry::new(parts));
    let db = ctx.db();
    let slot = state::with(|state| {
        state
            .database(db)
            .index
            .insert_gone(entry.handle(), cost(entry))
    });
    entry.set_indexed(slot.0);
    if deadline.is_some() {
        key.set_deadline_ms(deadline);
    }
    drop(key);
    reclaim::arm(ctx);
}
