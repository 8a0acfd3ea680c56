use crate::args::{Cursor, parse_i64};
use crate::commands::is_visible;
use crate::error::Error;
use crate::redis::access::{self, Access};
use crate::redis::state::entry_key;
use crate::redis::{Args, Context, OwnedStr, Words, now_ms, state};

const DEFAULT_COUNT: u64 = 10;

fn parse<'a>(words: &'a [&'a [u8]]) -> Result<(&'a [u8], u64, u64), Error> {
    let mut cursor = Cursor::new(words);
    let tag = cursor.next()?;
    let from = parse_i64(cursor.next()?)
        .and_then(|n| u64::try_from(n).ok())
        .ok_or(Error::InvalidCursor)?;
    let mut count = None;
    while let Some(word) = cursor.next_option() {
        if !word.is(b"COUNT") {
            return Err(Error::Syntax);
        }
        let number = u64::try_from(cursor.next_i64()?).unwrap_or(0);
        if number == 0 || count.replace(number).is_some() {
            return Err(Error::Syntax);
        }
    }
    Ok((tag, from, count.unwrap_or(DEFAULT_COUNT)))
}

/// `CACHE.TAGSCAN tag cursor [COUNT n]` → `[next cursor, [key ...]]`: the keys of the entries that carry a tag.
pub(crate) fn tagscan(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    access::check_tags(ctx, args, &words[..1], Access::Read)?;
    let (tag, from, count) = parse(words)?;
    Cursor::new(&[tag]).rest_as_tags()?;
    let db = ctx.db();
    let now = now_ms();
    let (next, mut names) = state::index(db, |index| {
        let mut names = Vec::new();
        let next = index.scan_tag(tag, from, count, |slot| {
            if is_visible(index, slot, now) {
                names.push(OwnedStr::new(entry_key(index, slot)));
            }
        });
        (next, names)
    });
    // Expired entries stay in the index until the server removes them. As in SCAN, they are not shown.
    names.retain(|name: &OwnedStr| ctx.exists(name.as_str()));
    ctx.reply_array(2);
    ctx.reply_bytes(next.to_string().as_bytes());
    ctx.reply_list(names.iter().map(|name| name.as_str().bytes()));
    Ok(())
}
