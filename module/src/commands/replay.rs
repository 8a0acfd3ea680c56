use crate::args::Cursor;
use crate::commands::invalidate;
use crate::error::Error;
use crate::record::MAX_TIME_MS;
use crate::redis::state::State;
use crate::redis::{Args, Context, Words, own, reclaim, state, store};

/// A clock that somebody made up must have room: its next readings are saved, and loaded again.
const MAX_CLOCK: u64 = 1 << 48;

/// `CACHE.REPLAY EMPTY db`, `HISTORY bytes [TAKEN]`, `SELECTED` and `SLOT unix-ms command key node …` → OK. Internal: what a primary's
/// stream and an append-only file say beside the commands of the data itself. An administrator may send what a log contains.
pub(crate) fn replay(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(1, &mut storage)?;
    let mut cursor = Cursor::new(&words[1..]);
    if words[0].eq_ignore_ascii_case(b"EMPTY") {
        let db = cursor.next_in(0..=u32::MAX.into())? as u32;
        cursor.end()?;
        if state::with(|state| state.numbers()).contains(&db) {
            store::empty(db);
            let ctx = own();
            ctx.select(db);
            reclaim::go_on(&ctx);
        }
    } else if words[0].eq_ignore_ascii_case(b"HISTORY") {
        let histories = cursor.next()?;
        let is_taken = match cursor.next_option() {
            None => false,
            Some(word) if word.is(b"TAKEN") => true,
            Some(_) => return Err(Error::Syntax),
        };
        cursor.end()?;
        // A slot that migrates brings that of another node, whose clocks are not this one's. Replicas of the node that it comes
        // to are sent the slot as it is, so they take from their primary only what that has taken.
        let is_from_elsewhere = ctx.is_replay() && !ctx.is_loading() && !is_taken;
        if !is_from_elsewhere {
            // First into nothing, so that one that is damaged changes nothing.
            let mut checked = State::default();
            let loaded = checked.load_histories(histories, State::database);
            loaded.ok_or(Error::Syntax)?;
            let is_too_high = checked.databases().any(|(_, db)| db.clock > MAX_CLOCK);
            if is_too_high && !ctx.is_replay() {
                return Err(Error::NotAnInteger);
            }
            state::with(|state| state.load_histories(histories, State::database));
            ctx.replicate_words("CACHE.REPLAY", &[b"HISTORY", histories, b"TAKEN"]);
        }
        ctx.reply_ok();
        return Ok(());
    } else if words[0].eq_ignore_ascii_case(b"SELECTED") {
        cursor.end()?;
        // Of a client the filter has seen the COPY itself, and another one's may come in between.
        let db = Some(ctx.db()).filter(|_| ctx.is_replay());
        state::with(|state| state.selected = db);
    } else if words[0].eq_ignore_ascii_case(b"SLOT") {
        let at_ms = cursor.next_in(0..=MAX_TIME_MS)?;
        let (command, _key, node) = (cursor.next()?, cursor.next()?, cursor.next()?);
        // That node, and its replicas, have done it already. It names none if they are told so as well.
        let names = ctx.cluster_names();
        let mut names = names
            .into_iter()
            .flat_map(|(own, primary)| [Some(own), primary]);
        if !names.any(|name| name.is_some_and(|name| name == node)) {
            invalidate::forwarded(ctx, at_ms, command, &words[5..])?;
        }
    } else {
        return Err(Error::Syntax);
    }
    ctx.replicate_verbatim();
    ctx.reply_ok();
    Ok(())
}
