use crate::commands::{for_each_key, open, read};
use crate::engine::Freshness;
use crate::error::Error;
use crate::redis::{Args, Context, Mode, Str, now_ms, state, store};

/// `CACHE.GET key` → the value if the entry is fresh, else nil.
#[inline(always)]
pub(crate) fn get(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = open(ctx, args.only()?, Mode::Read)?;
    let (db, held) = (ctx.db(), key.held());
    let fresh = state::database(db, |database| {
        if let Some(held) = held
            && let Some((slot, Freshness::Fresh)) = read(database, held)
        {
            database.index.hit(slot);
            database.counters.hits += 1;
            return Some(held.0);
        }
        database.counters.misses += 1;
        None
    });
    match fresh {
        Some(entry) => ctx.reply_bytes(entry.value()),
        None => ctx.reply_null(),
    }
    Ok(())
}

/// `CACHE.MGET key [key ...]` → for each key the value if the entry is fresh, else nil.
pub(crate) fn mget(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    for_each_key(ctx, args, get)
}

/// `CACHE.EXISTS key [key ...]` → how many of these keys hold a fresh entry.
pub(crate) fn exists(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len() == 0 {
        return Err(Error::WrongArity);
    }
    let db = ctx.db();
    let is_fresh = |name: &Str<'_>| {
        let found =
            store::look(db, &ctx.open(*name, Mode::Peek), now_ms).map(|found| found.freshness);
        found == Some(Freshness::Fresh)
    };
    ctx.reply_integer(args.iter().filter(is_fresh).count() as i64);
    Ok(())
}
