use crate::args::{Cursor, MAX_TAG_BYTES, check_tag};
use crate::commands::invalidate::{self, MAX_TIME_MS};
use crate::engine::Effect;
use crate::error::Error;
use crate::redis::channel::News;
use crate::redis::context::now_ms;
use crate::redis::{Args, Context, reclaim, state};

/// What version 0.1.0 wrote into its stream and logs by CACHE.REPLAY and is written otherwise today: replicas are upgraded
/// before their primary, and a log outlives an upgrade. `DROP key`, `REFUSE key [unix-ms]`, `CLOCK db reading [db reading
/// ...]`, `REVALIDATE unix-ms tag [tag ...]` and `INVALIDATEWHERE unix-ms clause [clause ...]`.
pub(super) fn replay(ctx: &Context<'_>, args: Args<'_>, words: &[&[u8]]) -> Result<(), Error> {
    let mut cursor = Cursor::new(&words[1..]);
    if words[0].eq_ignore_ascii_case(b"DROP") {
        let [_, name] = args.exactly::<2>()?;
        reclaim::reclaim_if_gone(ctx, name);
    } else if words[0].eq_ignore_ascii_case(b"REFUSE") {
        // Which arrival is too late, this node sees for itself: it remembers more than that one did.
        check_tag(cursor.next()?, MAX_TAG_BYTES)?;
    } else if words[0].eq_ignore_ascii_case(b"CLOCK") {
        while cursor.left() > 0 {
            let db = cursor.next_in(0..=super::replay::MAX_DATABASES)? as u32;
            let reading = cursor.next_in(0..=u64::MAX)?;
            state::with(|state| {
                let clock = &mut state.database(db).clock;
                *clock = reading.max(*clock);
            });
        }
    } else if words[0].eq_ignore_ascii_case(b"REVALIDATE") {
        let (at, now) = (next_time(ctx, &mut cursor)?, now_ms());
        let tags = cursor.rest_as_tags()?;
        let dropped = invalidate::run(ctx, News::Tags(Effect::Stale, tags), |database| {
            database.invalidate(tags, Effect::Stale, at, now)
        });
        reclaim::after_invalidation(ctx, dropped);
    } else if words[0].eq_ignore_ascii_case(b"INVALIDATEWHERE") {
        let (at, now) = (next_time(ctx, &mut cursor)?, now_ms());
        let condition = invalidate::parse_where(&words[2..])?.condition;
        let dropped = invalidate::run(ctx, News::Where(Effect::Stale, condition), |database| {
            database.invalidate_where(condition, Effect::Stale, u64::MAX, at, now)
        });
        reclaim::after_invalidation(ctx, dropped);
    } else {
        return Err(Error::Syntax);
    }
    Ok(())
}

/// When it happened; this node's own stamps go on after it.
fn next_time(ctx: &Context<'_>, cursor: &mut Cursor<'_>) -> Result<u64, Error> {
    let at = cursor.next_in(0..=MAX_TIME_MS)?;
    if ctx.is_replay() {
        let (db, now) = (ctx.db(), now_ms());
        state::with(|state| state.follow(db, at, now));
    }
    Ok(at)
}
