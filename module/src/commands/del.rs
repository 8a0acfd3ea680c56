use crate::engine::Freshness;
use crate::error::Error;
use crate::redis::context::{Mode, now_ms};
use crate::redis::{Args, Context, Kind, state, store, waiting};

/// `CACHE.DEL key [key ...]` → how many visible entries were removed.
pub(crate) fn del(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len() == 0 {
        return Err(Error::WrongArity);
    }
    for name in args.iter() {
        if matches!(ctx.open(name, Mode::Peek).kind(), Kind::Other) {
            return Err(Error::WrongType);
        }
    }
    let db = ctx.db();
    let mut removed = 0;
    let mut any = false;
    for name in args.iter() {
        let mut key = ctx.open(name, Mode::Write);
        let Some(found) = store::look(db, &key, now_ms) else {
            continue;
        };
        let was_visible = found.freshness != Freshness::Gone;
        store::take(db, &mut key);
        any = true;
        ctx.close_modified(key);
        if was_visible {
            ctx.notify(c"cache.del", name);
            removed += 1;
        }
    }
    state::with(|state| state.database(db).counters.deletes += removed);
    waiting::removed(ctx, db, args.iter());
    // Also where only gone entries were there: a replica may not have reclaimed them yet, and what follows in a MULTI
    // block must find the same there.
    if any {
        ctx.replicate_verbatim();
    }
    ctx.reply_integer(removed as i64);
    Ok(())
}

/// `CACHE.GETDEL key` → the value if the entry is fresh, else nil; the entry is removed either way.
pub(crate) fn getdel(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let name = args.only()?;
    let db = ctx.db();
    let mut key = ctx.open(name, Mode::Write);
    if matches!(key.kind(), Kind::Other) {
        return Err(Error::WrongType);
    }
    let found = store::look(db, &key, now_ms);
    let freshness = found.map(|found| found.freshness);
    match found.filter(|found| found.freshness == Freshness::Fresh) {
        Some(found) => ctx.reply_bytes(found.entry.value()),
        None => ctx.reply_null(),
    }
    let is_visible = freshness.is_some_and(|freshness| freshness != Freshness::Gone);
    state::with(|state| {
        let counters = &mut state.database(db).counters;
        match freshness {
            Some(Freshness::Fresh) => counters.hits += 1,
            _ => counters.misses += 1,
        }
        counters.deletes += u64::from(is_visible);
    });
    if freshness.is_some() {
        store::take(db, &mut key);
        ctx.close_modified(key);
        if is_visible {
            ctx.notify(c"cache.del", name);
        }
        ctx.replicate(c"CACHE.DEL", &[name]);
    }
    waiting::removed(ctx, db, std::iter::once(name));
    Ok(())
}
