use crate::commands::{logical_pttl, open};
use crate::engine::{Freshness, Slot};
use crate::error::Error;
use crate::redis::sizes::cost;
use crate::redis::{Args, Context, Mode, now_ms, state, store};

/// `CACHE.INSPECT key` → what is known about an entry, as a map; nil if none is visible.
pub(crate) fn inspect(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let key = open(ctx, args.only()?, Mode::Peek)?;
    let db = ctx.db();
    let now = now_ms();
    let known = store::look(db, &key, || now).and_then(|found| {
        let word = match found.freshness {
            Freshness::Fresh => &b"fresh"[..],
            Freshness::Stale => b"stale",
            Freshness::Gone => return None,
        };
        let slot = Slot(found.entry.slot()?);
        state::index(db, |index| {
            let tags: Vec<Vec<u8>> = index.tags(slot).map(<[u8]>::to_vec).collect();
            Some((found.entry, word, tags, index.hits(slot)))
        })
    });
    let Some((entry, word, tags, hits)) = known else {
        ctx.reply_null();
        return Ok(());
    };
    let pttl = if word == b"stale" {
        0
    } else {
        logical_pttl(key.deadline(), entry, now)
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
