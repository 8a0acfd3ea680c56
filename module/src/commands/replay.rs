use crate::args::Cursor;
use crate::commands::invalidate;
use crate::error::Error;
use crate::record::MAX_TIME_MS;
use crate::redis::state::State;
use crate::redis::{Args, Context, Words, own, reclaim, state, store};

/// The highest clock that a client may send: the clock's next readings must have room, and are saved and loaded again.
const MAX_CLOCK: u64 = 1 << 48;

/// `CACHE.REPLAY EMPTY db`, `HISTORY bytes [TAKEN]`, `SELECTED` and `SLOT unix-ms command key node …` → OK. Internal:
/// the part of a primary's stream or an append-only file that is not commands on the data. An administrator may send
/// what a log contains.
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
        // A migrating hash slot brings the history of another node, whose clocks are not this one's. Replicas of the new
        // node receive the slot as it is, so they accept from their primary only a history that it has taken.
        let is_from_elsewhere = ctx.is_replay() && !ctx.is_loading() && !is_taken;
        if !is_from_elsewhere {
            // First into an empty state, so that a damaged history changes nothing.
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
        // For a client, the filter has seen the COPY itself, and another client's command may come in between.
        let db = Some(ctx.db()).filter(|_| ctx.is_replay());
        state::with(|state| state.selected = db);
    } else if words[0].eq_ignore_ascii_case(b"SLOT") {
        let at_ms = cursor.next_in(0..=MAX_TIME_MS)?;
        let (command, _key, node) = (cursor.next()?, cursor.next()?, cursor.next()?);
        // That node and its replicas have executed it already. If they must execute it too, no node is named.
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
