use crate::args::Cursor;
use crate::commands::is_visible;
use crate::commands::largest::{Largest, Named};
use crate::error::Error;
use crate::redis::state::entry_key;
use crate::redis::{Args, Context, OwnedStr, now_ms, own, slices, state};

const DEFAULT_COUNT: u64 = 10;

/// How many expired entries are skipped at most.
const MANY: usize = 1_024;

/// `CACHE.TOP [count]` → `[[key, hits], ...]`: the entries with most hits, most first.
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
    // Expired entries stay in the index until the server removes them. They are not shown, so the search goes on until
    // enough others are found.
    let exists = move |name: &[u8]| {
        let own = own();
        own.select(db);
        own.exists(OwnedStr::new(name).as_str())
    };
    let mut most = count.max(1);
    let (mut next, mut found) = (Some(0), Largest::new(most));
    let step = move || {
        if let Some(page) = next {
            let now = now_ms();
            next = state::index(db, |index| {
                index.visit_hits(page, found.least() as u32, |index, hits, slot| {
                    if u64::from(hits) > found.least() && is_visible(index, slot, now) {
                        found.add(hits.into(), entry_key(index, slot));
                    }
                })
            });
            return None;
        }
        let mut rows: Vec<Named> = found.take().collect();
        let is_all = rows.len() < most;
        rows.retain(|(_, name)| exists(name));
        rows.truncate(count);
        if is_all || rows.len() == count || most >= count + MANY {
            return Some(rows);
        }
        most = (most * 2).min(count + MANY);
        (next, found) = (Some(0), Largest::new(most));
        None
    };
    slices::run(ctx, step, reply);
    Ok(())
}

fn reply(ctx: &Context<'_>, rows: Vec<Named>) {
    ctx.reply_array(rows.len());
    for (hits, name) in rows {
        ctx.reply_array(2);
        ctx.reply_bytes(&name);
        ctx.reply_integer(hits as i64);
    }
}
