use crate::commands::open;
use crate::engine::Freshness;
use crate::error::Error;
use crate::redis::{Args, Context, Key, Mode, Str, now_ms, state, store, waiting};

/// `CACHE.DEL key [key ...]` → how many visible entries were removed.
pub(crate) fn del(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    for name in args.iter() {
        open(ctx, name, Mode::Peek)?;
    }
    let db = ctx.db();
    let (mut removed, mut any) = (0, false);
    for name in args.iter() {
        let was = take(ctx, db, ctx.open(name, Mode::Write), name);
        removed += i64::from(was == Some(true));
        any |= was.is_some();
    }
    waiting::removed(ctx, db, args.iter());
    // Also if the keys held only gone entries: a replica may not have reclaimed them yet, and the next commands of a
    // MULTI block must find the same there.
    if any {
        ctx.replicate_verbatim();
    }
    ctx.reply_integer(removed);
    Ok(())
}

/// Takes out the entry of an open key, if it holds one. Returns whether the entry was visible.
fn take(ctx: &Context<'_>, db: u32, mut key: Key, name: Str<'_>) -> Option<bool> {
    key.entry()?;
    let was_visible = store::look(db, &key, now_ms).is_some();
    store::take(db, &mut key);
    key.close_modified();
    if was_visible {
        ctx.notify(c"cache.del", name);
        state::database(db, |database| database.counters.deletes += 1);
    }
    Some(was_visible)
}

/// The same, propagated as CACHE.DEL. Also ends the key's lease.
pub(super) fn remove(ctx: &Context<'_>, db: u32, key: Key, name: Str<'_>) {
    let was = take(ctx, db, key, name);
    waiting::removed(ctx, db, std::iter::once(name));
    if was.is_some() {
        ctx.replicate(c"CACHE.DEL", &[name]);
    }
}

/// `CACHE.GETDEL key` → the value if the entry is fresh, else nil; the entry is removed either way.
pub(crate) fn getdel(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let name = args.only()?;
    let db = ctx.db();
    let key = open(ctx, name, Mode::Write)?;
    let found = store::look(db, &key, now_ms);
    let fresh = found.filter(|found| found.freshness == Freshness::Fresh);
    match fresh {
        Some(found) => ctx.reply_bytes(found.entry.value()),
        None => ctx.reply_null(),
    }
    let is_hit = fresh.is_some();
    state::database(db, |database| {
        let counters = &mut database.counters;
        counters.hits += u64::from(is_hit);
        counters.misses += u64::from(!is_hit);
    });
    remove(ctx, db, key, name);
    Ok(())
}
