use crate::args::Cursor;
use crate::commands::is_visible;
use crate::error::Error;
use crate::redis::state::entry_key;
use crate::redis::{Args, Context, OwnedStr, now_ms, state};

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

    // Entries whose time is over are still in the index until the server removes them; nobody sees them, so more are
    // asked for until enough are left.
    let mut asked = count;
    let now = now_ms();
    let rows = loop {
        let found = state::index(db, |index| {
            let top = index.top(asked);
            let is_all = top.len() < asked;
            let visible = top
                .into_iter()
                .filter(|&(_, slot)| is_visible(index, slot, now));
            let rows = visible.map(|(hits, slot)| (hits, OwnedStr::new(entry_key(index, slot))));
            (rows.collect::<Vec<_>>(), is_all)
        });
        let (mut rows, is_all) = found;
        rows.retain(|(_, name)| ctx.exists(name.as_str()));
        rows.truncate(count);
        if is_all || rows.len() == count || asked >= count + MANY {
            break rows;
        }
        asked = (asked * 2).min(count + MANY);
    };
    ctx.reply_array(rows.len());
    for (hits, name) in &rows {
        ctx.reply_array(2);
        ctx.reply_bytes(name.as_str().bytes());
        ctx.reply_integer((*hits).into());
    }
    Ok(())
}
