use crate::commands::{logical_pttl, open, tags_of};
use crate::engine::Freshness;
use crate::error::Error;
use crate::redis::sizes::cost;
use crate::redis::{Args, Context, Mode, now_ms, state, store};

/// `CACHE.INSPECT key` → what is known about an entry, as a map; nil if none is visible.
pub(crate) fn inspect(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = open(ctx, args.only()?, Mode::Peek)?;
    let (db, now) = (ctx.db(), now_ms());
    let found = store::look(db, &key, || now);
    let visible = found.filter(|found| found.freshness != Freshness::Gone);
    let Some((slot, found)) = visible.and_then(|found| Some((found.slot?, found))) else {
        ctx.reply_null();
        return Ok(());
    };
    let (entry, tags) = (found.entry, tags_of(db, found.entry));
    let hits = state::index(db, |index| index.hits(slot));
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
    ctx.reply_array(tags.len());
    for tag in &tags {
        ctx.reply_bytes(tag);
    }
    for (name, number) in [
        (&b"hits"[..], i64::from(hits)),
        (b"bytes", entry.value().len() as i64),
        (b"memory", cost(entry) as i64),
        (b"pttl", pttl),
        (b"grace", entry.grace_ms() as i64),
        (b"age", age_ms as i64),
    ] {
        ctx.reply_bytes(name);
        ctx.reply_integer(number);
    }
    Ok(())
}
