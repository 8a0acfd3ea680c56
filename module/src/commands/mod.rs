//! One file per command or small family. The reference of each command is its page in `docs/src/commands`.

pub(crate) mod clock;
pub(crate) mod del;
pub(crate) mod fetch;
pub(crate) mod get;
pub(crate) mod hits;
pub(crate) mod hold;
pub(crate) mod inspect;
pub(crate) mod invalidate;
mod largest;
pub(crate) mod mset;
#[cfg(feature = "panic-on-demand")]
pub(crate) mod panic;
pub(crate) mod replay;
pub(crate) mod retag;
pub(crate) mod set;
pub(crate) mod stats;
pub(crate) mod taginfo;
pub(crate) mod tagscan;
pub(crate) mod tagtop;
pub(crate) mod top;
pub(crate) mod touch;
mod write;

use crate::engine::{Database, Freshness, Index, Outcome, Slot};
use crate::entry::{Entry, Handle};
use crate::error::Error;
use crate::redis::key::Deadline;
use crate::redis::state::{self, State, entry_in};
use crate::redis::store::{self, Found};
use crate::redis::{Args, Context, Held, Key, Mode, Str, monotonic_ms, now_ms};

/// Opens a key, unless it holds another type.
#[inline(always)]
pub(crate) fn open(ctx: &Context<'_>, name: Str<'_>, mode: Mode) -> Result<Key, Error> {
    let key = ctx.open(name, mode);
    if key.entry().is_none() && !key.is_empty() {
        return Err(Error::WrongType);
    }
    Ok(key)
}

/// Replies for each key as the command does for that key alone, and nil where it fails. Here that is no error, and
/// counts as a miss.
pub(crate) fn for_each_key(
    ctx: &Context<'_>,
    args: Args<'_>,
    command: fn(&Context<'_>, Args<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    if args.len() == 0 {
        return Err(Error::WrongArity);
    }
    ctx.reply_array(args.len());
    for only in args.each() {
        if command(ctx, only).is_err() {
            let db = ctx.db();
            state::database(db, |database| database.counters.misses += 1);
            ctx.reply_null();
        }
    }
    Ok(())
}

/// The visible entry of an open key, to be changed. A change from a primary or a log applies even if the entry is no
/// longer visible by this node's clock.
pub(crate) fn visible<'k>(
    ctx: &Context<'_>,
    db: u32,
    key: &'k Key,
    now_ms: u64,
) -> Option<Found<'k>> {
    let checked_at = if ctx.is_replay() {
        store::accept(db, key);
        0
    } else {
        now_ms
    };
    store::look(db, key, || checked_at)
}

/// The slot of an entry, and its freshness. Only for reads: this does not check that the slot is this entry's, because
/// a slot of another database would at most count a hit for another entry. Changes use `store::look`.
#[inline(always)]
pub(crate) fn read(
    database: &Database<Handle>,
    (entry, deadline): Held<'_>,
) -> Option<(Slot, Freshness)> {
    let slot = entry.slot()?;
    let (handle, grace_ms) = (entry.handle(), entry.grace_ms());
    let index = &database.index;
    let freshness = index.freshness(slot, handle, grace_ms, || deadline.ms(), now_ms);
    Some((slot, freshness))
}

/// The tags of an indexed entry, in the order in which they were given.
pub(crate) fn tags_of(db: u32, slot: Slot) -> Vec<Vec<u8>> {
    state::index(db, |index| index.tags(slot).map(<[u8]>::to_vec).collect())
}

/// The effect that past invalidations would have on an indexed entry if it had carried these tags since it was written.
/// O(tags).
pub(crate) fn outcome<'t>(
    state: &mut State,
    db: u32,
    entry: Entry<'_>,
    slot: Slot,
    tags: impl Iterator<Item = &'t [u8]>,
) -> Outcome {
    let now = now_ms();
    let is_foreign = state.database(db).index.marks.foreign.contains(slot.0);
    let stamps = state.stamps_at(now, monotonic_ms);
    let stamps_now = stamps.now_ms(now);
    let since_ms = stamps.written_since_ms(entry.created_ms(), is_foreign, stamps_now);
    state.database(db).history.of_entry(tags, since_ms)
}

/// Whether the entry in a used slot is visible by the index alone: it was not invalidated, or its grace is not over.
pub(crate) fn is_visible(index: &Index<Handle>, slot: Slot, now_ms: u64) -> bool {
    let (entry, no_deadline) = (entry_in(index, slot), || None);
    let (handle, grace_ms) = (entry.handle(), entry.grace_ms());
    index.freshness(slot, handle, grace_ms, no_deadline, || now_ms) != Freshness::Gone
}

/// Milliseconds until an entry's logical expiry, 0 if that is past, -1 if there is none.
#[inline(always)]
pub(crate) fn logical_pttl(deadline: Deadline<'_>, entry: Entry<'_>, now_ms: u64) -> i64 {
    deadline.ms().map_or(-1, |deadline| {
        deadline
            .saturating_sub(entry.grace_ms())
            .saturating_sub(now_ms) as i64
    })
}
