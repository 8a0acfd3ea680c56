use crate::error::Error;
use crate::redis::{Args, Context, Mode, Str, now_ms, state, store};

/// `CACHE.HITS key count [key count ...]` → how many entries were updated.
pub(crate) fn hits(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len() == 0 || !args.len().is_multiple_of(2) {
        return Err(Error::WrongArity);
    }
    for (_, count) in pairs(args) {
        count?;
    }
    let db = ctx.db();
    let mut updated = 0;
    for (name, count) in pairs(args) {
        let key = ctx.open(name, Mode::Peek);
        let found = store::look(db, &key, now_ms);
        if let (Some(found), Ok(count)) = (found, count) {
            state::index(db, |index| index.add_hits(found.slot, count));
            updated += 1;
        }
    }
    ctx.reply_integer(updated);
    Ok(())
}

fn pairs(args: Args<'_>) -> impl Iterator<Item = (Str<'_>, Result<u32, Error>)> {
    let names = args.iter().step_by(2);
    let counts = args.iter().skip(1).step_by(2).map(|count| {
        let count = crate::args::parse_i64(count.bytes());
        let count = count.and_then(|count| u32::try_from(count).ok());
        count.ok_or(Error::NotAnInteger)
    });
    names.zip(counts)
}
