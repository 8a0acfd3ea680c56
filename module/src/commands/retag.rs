use std::collections::HashSet;

use crate::args::{Cursor, with_grace};
use crate::commands::del::remove;
use crate::commands::{open, outcome, tags_of, touch, visible, write};
use crate::engine::Freshness;
use crate::error::Error;
use crate::redis::store::{self, Found};
use crate::redis::{Args, Context, Mode, Words, now_ms, reclaim, state};

/// `CACHE.RETAG key TAGS count [tag ...]` → 1, or 0 when there is no visible entry.
pub(crate) fn retag(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let (name, rest) = args.split_first()?;
    let mut cursor = Cursor::new(rest.words(0, &mut storage)?);
    if !cursor.next()?.eq_ignore_ascii_case(b"TAGS") {
        return Err(Error::Syntax);
    }
    let tags = cursor.next_stored_tags(write::limits(ctx))?;
    cursor.end()?;
    let db = ctx.db();
    let mut key = open(ctx, name, Mode::Write)?;
    let now = now_ms();
    let Some(found) = visible(ctx, db, &key, now) else {
        ctx.reply_integer(0);
        return Ok(());
    };
    let is_replay = ctx.is_replay();
    let is_late = (!is_replay || ctx.is_cluster()) && is_too_late(db, found, tags);
    if is_late && !is_replay {
        remove(ctx, db, key, name);
        ctx.reply_integer(1);
        return Ok(());
    }
    let before = (
        write::kept_expiry(key.deadline(), found.entry),
        found.entry.grace_ms(),
    );
    store::retag(db, &key, tags);
    ctx.replicate_verbatim();
    let (expires_ms, grace_ms) = write::within_holds(ctx, db, found.entry, before.0, before.1, now);
    if (expires_ms, grace_ms) != before {
        let deadline_ms = with_grace(expires_ms, grace_ms, "cache.retag")?;
        store::retime(db, &mut key, grace_ms, deadline_ms);
        touch::replicate(ctx, name, expires_ms, Some(grace_ms));
    }
    if is_late {
        // The command came with a migrating hash slot, from a node that executed the invalidation later.
        if ctx.is_import() {
            store::refuse(ctx, db, &key, name);
        } else {
            store::doubt(db, &key);
        }
    }
    key.close_modified();
    ctx.notify(c"cache.retag", name);
    ctx.reply_integer(1);
    reclaim::help(ctx, db);
    Ok(())
}

/// Whether the entry would be gone if it had carried one of these tags from the beginning, as with one that arrives.
fn is_too_late(db: u32, found: Found<'_>, tags: &[&[u8]]) -> bool {
    let carried: HashSet<Vec<u8>> = tags_of(db, found.slot).into_iter().collect();
    let is_new = |tag: &&&[u8]| !carried.contains(**tag);
    state::with(|state| {
        let new = tags.iter().filter(is_new).copied();
        let is_stale = found.freshness == Freshness::Stale;
        outcome(state, db, found.entry, found.slot, new).is_too_late(is_stale)
    })
}
