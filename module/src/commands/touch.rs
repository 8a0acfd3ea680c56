use crate::args::{Cursor, Ttl, set_once};
use crate::commands::own_slot;
use crate::error::Error;
use crate::redis::context::{Mode, now_ms};
use crate::redis::sizes::cost;
use crate::redis::string::Words;
use crate::redis::{Args, Context, Kind, OwnedStr, state};

const COMMAND: &str = "cache.touch";

fn parse(words: &[&[u8]]) -> Result<Ttl, Error> {
    let mut cursor = Cursor::new(words.get(1..).unwrap_or_default());
    let mut ttl = None;
    while let Some(word) = cursor.next_option() {
        if let Some(given) = Ttl::parse(word, &mut cursor)? {
            set_once(&mut ttl, given)?;
        } else if word.eq_ignore_ascii_case(b"PERSIST") {
            set_once(&mut ttl, Ttl::Never)?;
        } else if word.eq_ignore_ascii_case(b"GRACE") {
            return Err(Error::NotYet { option: "GRACE" });
        } else {
            return Err(Error::Syntax);
        }
    }
    ttl.ok_or(Error::Syntax)
}

/// `CACHE.TOUCH key EX s | PX ms | EXAT unix-s | PXAT unix-ms | PERSIST` → 1, or 0 when there is no visible entry.
///
/// Changes when an entry expires. EXAT and PXAT may lie in the past: the entry is expired at once. A key that holds
/// another type: `WRONGTYPE`. O(tags), since the tags' byte counts include what a TTL costs. Replicates as PXAT.
pub(crate) fn touch(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let deadline = parse(words)?.deadline_ms(now_ms(), COMMAND)?;
    let [name] = args.first::<1>()?;
    let db = ctx.db();
    let mut key = ctx.open(name, Mode::Write);
    let entry = match key.kind() {
        Kind::Other => return Err(Error::WrongType),
        Kind::Empty => None,
        Kind::Entry(entry) => Some(entry),
    };
    let touched = state::with(|state| {
        let database = state.database(db);
        let visible = entry.and_then(|entry| Some((entry, own_slot(database, entry)?)));
        if let Some((entry, slot)) = visible {
            let before = cost(entry);
            entry.set_has_ttl(deadline.is_some());
            database.index.resize(slot, before, cost(entry));
        }
        visible.is_some()
    });
    if !touched {
        ctx.reply_integer(0);
        return Ok(());
    }
    key.set_deadline_ms(deadline);
    drop(key);
    ctx.signal_modified(name);
    ctx.notify(c"cache.touch", name);
    match deadline {
        Some(ms) => {
            let (word, ms) = (OwnedStr::new(b"PXAT"), OwnedStr::from_number(ms as i64));
            ctx.replicate(c"CACHE.TOUCH", &[name, word.as_str(), ms.as_str()]);
        }
        None => ctx.replicate_verbatim(),
    }
    ctx.reply_integer(1);
    Ok(())
}
