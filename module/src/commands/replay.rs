use crate::args::{Cursor, MAX_TAG_BYTES, Ttl, check_tag};
use crate::commands::older;
use crate::engine::Past;
use crate::error::Error;
use crate::redis::context::{Mode, now_ms};
use crate::redis::string::Words;
use crate::redis::{Args, Context, Kind, Str, reclaim, state, store};

/// The word, the database, the reading, and two pasts.
const CLOCK_WORDS: usize = 3 + 2 * 7;

/// More databases than any server has.
pub(super) const MAX_DATABASES: u64 = 1 << 20;

/// `CACHE.REPLAY GONE key [PXAT unix-ms]`, `EMPTY db`, `CLOCK db reading floor everything` and `TAG db tag past` → OK. Internal: what
/// a primary's stream and an append-only file say beside the commands of the data itself. An administrator may send what
/// a log contains. What version 0.1.0 wrote is understood as well (`commands/older.rs`).
pub(crate) fn replay(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let mut cursor = Cursor::new(&words[1..]);
    if words[0].eq_ignore_ascii_case(b"GONE") {
        let (name, _) = args.split_first()?.1.split_first()?;
        cursor.next()?;
        let deadline = match cursor.next_option() {
            None => None,
            Some(word) => Ttl::parse(word, &mut cursor)?
                .ok_or(Error::Syntax)?
                .deadline_ms(now_ms(), "cache.replay")?,
        };
        hold_gone(ctx, name, deadline);
    } else if words[0].eq_ignore_ascii_case(b"EMPTY") {
        store::empty(cursor.next_in(0..=MAX_DATABASES)? as u32);
        reclaim::arm_if_needed(ctx);
    } else if words[0].eq_ignore_ascii_case(b"CLOCK") && words.len() == CLOCK_WORDS {
        let db = cursor.next_in(0..=MAX_DATABASES)? as u32;
        let reading = cursor.next_in(0..=u64::MAX)?;
        let (floor, everything) = (next_past(&mut cursor)?, next_past(&mut cursor)?);
        if is_for_this_node(ctx) {
            state::with(|state| {
                let database = state.database(db);
                database.clock = database.clock.max(reading);
                database.history.load_floors(&floor, &everything);
            });
        }
    } else if words[0].eq_ignore_ascii_case(b"TAG") {
        let db = cursor.next_in(0..=MAX_DATABASES)? as u32;
        let tag = check_tag(cursor.next()?, MAX_TAG_BYTES)?;
        let past = next_past(&mut cursor)?;
        if is_for_this_node(ctx) {
            state::with(|state| state.database(db).history.load(tag, &past));
        }
    } else {
        older::replay(ctx, args, words)?;
    }
    ctx.replicate_verbatim();
    ctx.reply_ok();
    Ok(())
}

/// A slot that migrates brings what another node's log would contain: that node's clocks are not this one's.
fn is_for_this_node(ctx: &Context<'_>) -> bool {
    !ctx.is_import()
}

fn next_past(cursor: &mut Cursor<'_>) -> Result<Past, Error> {
    Past::read(|max| cursor.next_in(0..=max))
}

fn hold_gone(ctx: &Context<'_>, name: Str<'_>, deadline: Option<u64>) {
    let db = ctx.db();
    let mut key = ctx.open(name, Mode::Upkeep);
    match key.kind() {
        Kind::Empty => store::put_gone(db, &mut key, name, deadline),
        // Not reclaimed yet, or it was refused there when it arrived, and is not known to be gone here.
        Kind::Entry(_) => store::drop_entry(db, &key),
        Kind::Other => return,
    }
    drop(key);
    reclaim::arm(ctx);
}
