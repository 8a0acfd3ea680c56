use crate::args::{Cursor, Ttl, next_grace_ms, set_once, with_grace};
use crate::commands::{Freshness, freshness, own_slot};
use crate::engine::{Incoming, Slot};
use crate::entry::{Entry, NewEntry, Parts};
use crate::error::Error;
use crate::redis::context::{Mode, now_ms};
use crate::redis::sizes::cost;
use crate::redis::string::Words;
use crate::redis::{Args, Context, Key, Kind, OwnedStr, Str, reclaim, state};

const COMMAND: &str = "cache.touch";

fn parse(words: &[&[u8]]) -> Result<(Ttl, Option<u64>), Error> {
    let mut cursor = Cursor::new(words.get(1..).unwrap_or_default());
    let (mut ttl, mut grace_ms) = (None, None);
    while let Some(word) = cursor.next_option() {
        if let Some(given) = Ttl::parse(word, &mut cursor)? {
            set_once(&mut ttl, given)?;
        } else if word.eq_ignore_ascii_case(b"PERSIST") {
            set_once(&mut ttl, Ttl::Never)?;
        } else if word.eq_ignore_ascii_case(b"GRACE") {
            set_once(&mut grace_ms, next_grace_ms(&mut cursor)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok((ttl.ok_or(Error::Syntax)?, grace_ms))
}

/// `CACHE.TOUCH key EX s | PX ms | EXAT unix-s | PXAT unix-ms | PERSIST [GRACE ms]` → 1, or 0 when there is no visible
/// entry.
///
/// Changes when an entry expires, and its grace if GRACE is given. EXAT and PXAT may lie in the past: the entry is stale
/// at once, or expired if it has no grace. An entry that was soft-invalidated stays stale, and for no longer than its
/// grace. A key that holds another type: `WRONGTYPE`. O(tags), since the tags' byte counts include what a TTL costs.
/// Replicates with absolute times.
pub(crate) fn touch(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let (ttl, given_grace_ms) = parse(words)?;
    let now = now_ms();
    let expires_ms = ttl.deadline_ms(now, COMMAND)?;
    let [name] = args.first::<1>()?;
    let mut key = ctx.open(name, Mode::Write);
    let entry = match key.kind() {
        Kind::Other => return Err(Error::WrongType),
        Kind::Empty => {
            ctx.reply_integer(0);
            return Ok(());
        }
        Kind::Entry(entry) => entry,
    };
    let grace_ms = given_grace_ms.unwrap_or(entry.grace_ms());
    let deadline = with_grace(expires_ms, grace_ms, COMMAND)?;
    let Some(soft_since_ms) = visible(ctx, &key, entry, now) else {
        ctx.reply_integer(0);
        return Ok(());
    };
    change(ctx, &mut key, deadline.is_some(), grace_ms, soft_since_ms);
    key.set_deadline_ms(deadline);
    drop(key);
    if soft_since_ms.is_some() && grace_ms == 0 {
        reclaim::arm(ctx); // It lost the grace that kept it: it is gone.
    }
    ctx.signal_modified(name);
    ctx.notify(c"cache.touch", name);
    replicate(ctx, name, expires_ms, given_grace_ms);
    ctx.reply_integer(1);
    Ok(())
}

/// Since when a visible entry is stale by a soft invalidation, if it is; `None` if it is not visible.
///
/// What a primary or a log says happened to a visible entry, also where this node's time says otherwise.
#[allow(clippy::option_option, reason = "visible or not, and stale or not")]
fn visible(ctx: &Context<'_>, key: &Key, entry: Entry<'_>, now: u64) -> Option<Option<u64>> {
    let db = ctx.db();
    let (fresh, soft_since_ms) = state::with(|state| {
        let database = state.database(db);
        let slot = own_slot(database, entry)?;
        let index = &database.index;
        Some((
            freshness(index, slot, key, entry, || now),
            index.soft_since_ms(slot),
        ))
    })?;
    (fresh != Freshness::Over || ctx.is_replay()).then_some(soft_since_ms)
}

/// Changes what the entry itself knows of its times. The grace is a part of its allocation, so it is built anew for
/// another.
fn change(
    ctx: &Context<'_>,
    key: &mut Key,
    has_ttl: bool,
    grace_ms: u64,
    soft_since_ms: Option<u64>,
) {
    let Kind::Entry(entry) = key.kind() else {
        return;
    };
    let db = ctx.db();
    let before = cost(entry);
    if entry.grace_ms() == grace_ms {
        entry.set_has_ttl(has_ttl);
        state::with(|state| {
            let database = state.database(db);
            if let Some(slot) = own_slot(database, entry) {
                database.index.resize(slot, before, cost(entry));
            }
        });
        return;
    }
    let new = NewEntry::new(Parts {
        key: entry.key(),
        value: entry.value(),
        created_ms: entry.created_ms(),
        has_ttl,
        grace_ms,
    });
    let slot = state::with(|state| {
        let index = &mut state.database(db).index;
        let slot = Slot(entry.slot()?);
        let tags: Vec<Vec<u8>> = index.tags(slot).map(<[u8]>::to_vec).collect();
        let tags: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
        let incoming = Incoming {
            entry: new.handle(),
            tags: &tags,
            bytes: cost(new.as_entry()),
            hits: 0,
            has_grace: grace_ms > 0,
            soft_since_ms,
        };
        let slot = index.replace(slot, before, incoming);
        if soft_since_ms.is_some() && grace_ms == 0 {
            index.condemn(slot);
        }
        Some(slot)
    });
    if let Some(slot) = slot {
        new.as_entry().set_indexed(slot.0);
        key.replace(new);
    }
}

fn replicate(ctx: &Context<'_>, name: Str<'_>, expires_ms: Option<u64>, grace_ms: Option<u64>) {
    let number = |ms: u64| OwnedStr::from_number(ms as i64);
    let mut words = Vec::new();
    match expires_ms {
        Some(ms) => words.extend([OwnedStr::new(b"PXAT"), number(ms)]),
        None => words.push(OwnedStr::new(b"PERSIST")),
    }
    if let Some(ms) = grace_ms {
        words.extend([OwnedStr::new(b"GRACE"), number(ms)]);
    }
    let words = words.iter().map(OwnedStr::as_str);
    let parts: Vec<Str<'_>> = std::iter::once(name).chain(words).collect();
    ctx.replicate(c"CACHE.TOUCH", &parts);
}
