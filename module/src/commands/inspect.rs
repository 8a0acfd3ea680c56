use crate::commands::{logical_pttl, open, tags_of};
use crate::engine::Freshness;
use crate::error::Error;
use crate::redis::sizes::cost;
use crate::redis::{Args, Context, Mode, now_ms, state, store};

/// `CACHE.INSPECT key` → the properties of an entry, as a map; nil if none is visible.
pub(crate) fn inspect(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = open(ctx, args.only()?, Mode::Peek)?;
    let (db, now) = (ctx.db(), now_ms());
    let found = store::look(db, &key, || now);
    let Some(found) = found else {
        ctx.reply_null();
        return Ok(());
    };
    let (entry, tags) = (found.entry, tags_of(db, found.slot));
    let hits = state::index(db, |index| index.hits(found.slot));
    let (word, pttl) = if found.freshness == Freshness::Stale {
        (&b"stale"[..], 0)
    } else {
        (&b"fresh"[..], logical_pttl(key.deadline(), entry, now))
    };
    // 0: not known.
    let age_ms = match entry.created_ms() {
        0 => 0,
        ms => now.saturating_sub(ms),
    };
    ctx.reply_map(8);
    ctx.reply_bytes(b"state");
    ctx.reply_bytes(word);
    ctx.reply_bytes(b"tags");
    ctx.reply_list(tags.iter().map(Vec::as_slice));
    ctx.reply_fields(&[
        ("hits", hits.into()),
        ("bytes", entry.value().len() as u64),
        ("memory", cost(entry)),
        ("pttl", pttl as u64),
        ("grace", entry.grace_ms()),
        ("age", age_ms),
    ]);
    Ok(())
}
