use crate::args::Cursor;
use crate::commands::is_visible;
use crate::commands::largest::{Largest, Named};
use crate::error::Error;
use crate::redis::state::entry_key;
use crate::redis::{Args, Context, OwnedStr, now_ms, slices, state};

const DEFAULT_COUNT: u64 = 10;

/// So many expired entries are looked past.
const MANY: usize = 1_024;

/// `CACHE.TOP [count]` → `[[key, hits], ...]`: the entries that answered most reads, most first.
pub(crate) fn top(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut given = args.iter();
    let count = match (given.next(), given.next()) {
        (None, _) => DEFAULT_COUNT,
        (Some(count), None) => Cursor::new(&[count.bytes()]).next_in(0..=u64::MAX)?,
        _ => return Err(Error::WrongArity),
    };
    let db = ctx.db();
    let most = state::with(|state| state.config.top_keys);
    let count = count.min(most) as usize;
    let (mut next, mut found) = (Some(0), Largest::new(count + MANY));
    let step = move || {
        let (page, now) = (next?, now_ms());
        next = state::index(db, |index| {
            index.visit_hits(page, |index, hits, slot| {
                if found.has_room_for(hits.into()) && is_visible(index, slot, now) {
                    found.add(hits.into(), entry_key(index, slot));
                }
            })
        });
        next.is_none().then(|| (count, found.take().collect()))
    };
    slices::run(ctx, step, reply);
    Ok(())
}

/// Entries whose time is over are still in the index until the server removes them; nobody sees them.
fn reply(ctx: &Context<'_>, (count, found): (usize, Vec<Named>)) {
    let exists = |(_, name): &Named| ctx.exists(OwnedStr::new(name).as_str());
    let rows: Vec<_> = found.into_iter().filter(exists).take(count).collect();
    ctx.reply_array(rows.len());
    for (hits, name) in rows {
        ctx.reply_array(2);
        ctx.reply_bytes(&name);
        ctx.reply_integer(hits as i64);
    }
}
