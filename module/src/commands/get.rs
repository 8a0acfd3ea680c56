use crate::commands::visible_slot;
use crate::error::Error;
use crate::redis::context::Mode;
use crate::redis::{Args, Context, Key, Kind, Str, state};

/// `CACHE.GET key` → the value if the entry is fresh, else nil.
///
/// Counts a hit or a miss. A key that holds another type: `WRONGTYPE`. O(1).
pub(crate) fn get(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    match look_up(ctx, args.only()?) {
        Found::Fresh(key) => reply_value(ctx, &key),
        Found::Nothing => ctx.reply_null(),
        Found::Other => return Err(Error::WrongType),
    }
    Ok(())
}

/// `CACHE.MGET key [key ...]` → for each key the value if the entry is fresh, else nil.
///
/// Counts a hit or a miss for each key. Keys that hold another type are nil, as in MGET. O(keys).
pub(crate) fn mget(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len() == 0 {
        return Err(Error::WrongArity);
    }
    ctx.reply_array(args.len());
    for name in args.iter() {
        match look_up(ctx, name) {
            Found::Fresh(key) => reply_value(ctx, &key),
            Found::Nothing | Found::Other => ctx.reply_null(),
        }
    }
    Ok(())
}

enum Found {
    Fresh(Key),
    Nothing,
    Other,
}

fn look_up(ctx: &Context<'_>, name: Str<'_>) -> Found {
    let key = ctx.open(name, Mode::Read);
    let entry = match key.kind() {
        Kind::Entry(entry) => Some(entry),
        Kind::Empty => None,
        Kind::Other => return Found::Other,
    };
    let db = ctx.db();
    let is_fresh = state::with(|state| {
        let slot = entry.and_then(|entry| visible_slot(state, db, entry));
        let database = state.database(db);
        match slot {
            Some(slot) => {
                database.index.hit(slot);
                database.counters.hits += 1;
            }
            None => database.counters.misses += 1,
        }
        slot.is_some()
    });
    if is_fresh {
        Found::Fresh(key)
    } else {
        Found::Nothing
    }
}

fn reply_value(ctx: &Context<'_>, key: &Key) {
    match key.kind() {
        Kind::Entry(entry) => ctx.reply_bytes(entry.value()),
        Kind::Empty | Kind::Other => ctx.reply_null(),
    }
}
