use crate::args::{Cursor, Ttl, set_once};
use crate::commands::own_slot;
use crate::config::Config;
use crate::entry::{NewEntry, Parts};
use crate::error::Error;
use crate::redis::context::{self, Mode, now_ms};
use crate::redis::sizes::cost;
use crate::redis::string::Words;
use crate::redis::{Args, Context, Key, Kind, OwnedStr, Str, propagation, reclaim, state};

const COMMAND: &str = "cache.set";

/// Which keys a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// NX: only where nothing is visible.
    Absent,
    /// XX: only where an entry is visible.
    Present,
}

/// What CACHE.SET was asked, as far as its words go.
#[derive(Debug, Default)]
struct SetArgs<'a> {
    value: &'a [u8],
    ttl: Option<Ttl>,
    condition: Option<Condition>,
    tags: &'a [&'a [u8]],
    /// Where the tags stand among the arguments.
    tags_at: usize,
    /// From an append-only file: when it was written first, and its hits until then.
    created_ms: Option<u64>,
    hits: Option<u32>,
}

fn parse<'a>(words: &'a [&'a [u8]], config: &Config) -> Result<SetArgs<'a>, Error> {
    let (&[_key, value], options) = words.split_first_chunk().ok_or(Error::WrongArity)?;
    let mut args = SetArgs {
        value,
        ..SetArgs::default()
    };
    let mut tags = None;
    let mut cursor = Cursor::new(options);
    while let Some(word) = cursor.next_option() {
        if let Some(ttl) = Ttl::parse(word, &mut cursor)? {
            set_once(&mut args.ttl, ttl)?;
        } else if word.eq_ignore_ascii_case(b"KEEPTTL") {
            set_once(&mut args.ttl, Ttl::Keep)?;
        } else if word.eq_ignore_ascii_case(b"NX") {
            set_once(&mut args.condition, Condition::Absent)?;
        } else if word.eq_ignore_ascii_case(b"XX") {
            set_once(&mut args.condition, Condition::Present)?;
        } else if word.eq_ignore_ascii_case(b"TAGS") {
            let given = cursor.next_tags(config)?;
            args.tags_at = words.len() - cursor.left() - given.len();
            set_once(&mut tags, given)?;
        } else if word.eq_ignore_ascii_case(b"CREATED") {
            set_once(
                &mut args.created_ms,
                u64::try_from(cursor.next_i64()?).map_err(|_| Error::Syntax)?,
            )?;
        } else if word.eq_ignore_ascii_case(b"HITS") {
            set_once(
                &mut args.hits,
                u32::try_from(cursor.next_i64()?).map_err(|_| Error::Syntax)?,
            )?;
        } else if word.eq_ignore_ascii_case(b"GRACE") {
            return Err(Error::NotYet { option: "GRACE" });
        } else if word.eq_ignore_ascii_case(b"LEASE") {
            return Err(Error::NotYet { option: "LEASE" });
        } else {
            return Err(Error::Syntax);
        }
    }
    args.tags = tags.unwrap_or_default();
    Ok(args)
}

/// `CACHE.SET key value [EX s | PX ms | EXAT unix-s | PXAT unix-ms | KEEPTTL] [NX | XX] [TAGS count tag [tag ...]]`
/// → OK; nil when NX or XX is not met.
///
/// Replaces value, tags and TTL of an entry, and keeps its hit count. NX and XX look at visible entries: one that was
/// invalidated counts as absent. A key that holds another type: `WRONGTYPE`, and nothing is lost. A tag given twice is
/// stored once. Without a TTL option `tagcache.default-ttl-ms` applies; EXAT and PXAT may lie in the past: the entry
/// is expired at once. O(tags).
///
/// Replicates as what happened: TTLs as PXAT, conditions dropped, a refused write not at all.
pub(crate) fn set(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let words = args.words(2, &mut storage)?;
    let config = state::with(|state| state.config);
    let asked = match parse(words, &config) {
        Err(error) if error.is_limit() && ctx.is_replay() => {
            parse(words, &config.without_limits())?
        }
        parsed => parsed?,
    };
    let times = times(ctx, &asked, config.default_ttl_ms)?;
    let [name] = args.first::<1>()?;
    let mut key = ctx.open(name, Mode::Write);
    let Some(deadline) = store(ctx, &mut key, name, &asked, times)? else {
        ctx.reply_null();
        return Ok(());
    };
    drop(key);
    ctx.signal_modified(name);
    ctx.notify(c"cache.set", name);
    replicate(ctx, args, &asked, times, deadline);
    ctx.reply_ok();
    reclaim::help(ctx);
    Ok(())
}

/// When a write happens, and when what it writes expires.
#[derive(Debug, Clone, Copy)]
struct Times {
    now_ms: u64,
    deadline_ms: Option<u64>,
    /// The deadline comes from the configuration.
    is_default: bool,
}

fn times(ctx: &Context<'_>, asked: &SetArgs<'_>, default_ttl_ms: u64) -> Result<Times, Error> {
    let now_ms = now_ms();
    if (asked.created_ms.is_some() || asked.hits.is_some()) && !ctx.is_replay() {
        return Err(Error::Syntax);
    }
    let Some(ttl) = asked.ttl else {
        // What a primary or a log says is complete: a default of this node's own must not be added to it.
        let is_default = default_ttl_ms > 0 && !ctx.is_replay();
        return Ok(Times {
            now_ms,
            deadline_ms: is_default.then_some(now_ms + default_ttl_ms),
            is_default,
        });
    };
    Ok(Times {
        now_ms,
        deadline_ms: ttl.deadline_ms(now_ms, COMMAND)?,
        is_default: false,
    })
}

/// Puts the entry into keyspace and index, and returns when it expires; `None`, and nothing done, where NX or XX is
/// not met.
#[allow(
    clippy::option_option,
    reason = "written or not, and with or without a deadline"
)]
fn store(
    ctx: &Context<'_>,
    key: &mut Key,
    name: Str<'_>,
    asked: &SetArgs<'_>,
    times: Times,
) -> Result<Option<Option<u64>>, Error> {
    let db = ctx.db();
    let held = match key.kind() {
        Kind::Other => return Err(Error::WrongType),
        Kind::Empty => None,
        Kind::Entry(entry) => Some(entry),
    };
    let visible = held.and_then(|entry| state::with(|state| own_slot(state.database(db), entry)));
    let unmet = if visible.is_some() {
        Condition::Absent
    } else {
        Condition::Present
    };
    if asked.condition == Some(unmet) {
        return Ok(None);
    }
    let deadline = if asked.ttl == Some(Ttl::Keep) && visible.is_some() {
        key.deadline_ms()
    } else {
        times.deadline_ms
    };

    let new = NewEntry::new(Parts {
        key: name.bytes(),
        value: asked.value,
        created_ms: asked.created_ms.unwrap_or(times.now_ms),
        has_ttl: deadline.is_some(),
    });
    let bytes = cost(new.as_entry());
    let hits = asked.hits.unwrap_or(0);
    if let Some(old) = held {
        let old_bytes = cost(old);
        let slot = state::with(|state| {
            state.database(db).counters.sets += 1;
            if let Some(slot) = visible {
                let index = &mut state.database(db).index;
                return index.replace(slot, new.handle(), asked.tags, old_bytes, bytes);
            }
            if let Some((holder, gone)) = state.database_of(old, Some(db)) {
                let database = state.database(holder);
                database.index.remove(gone, old_bytes);
                database.counters.reclaimed += 1;
            }
            let index = &mut state.database(db).index;
            index.insert(new.handle(), asked.tags, bytes, hits)
        });
        new.as_entry().set_indexed(slot.0);
        key.replace(new);
        key.set_deadline_ms(deadline);
    } else {
        // First the keyspace: whoever comes from the index must find the key.
        let entry = key.create(new);
        let slot = state::with(|state| {
            let database = state.database(db);
            database.counters.sets += 1;
            database
                .index
                .insert(entry.handle(), asked.tags, bytes, hits)
        });
        entry.set_indexed(slot.0);
        if deadline.is_some() {
            key.set_deadline_ms(deadline);
        }
    }
    Ok(Some(deadline))
}

/// Sends on what happened.
fn replicate(
    ctx: &Context<'_>,
    args: Args<'_>,
    asked: &SetArgs<'_>,
    times: Times,
    deadline: Option<u64>,
) {
    let as_given = asked.condition.is_none()
        && !times.is_default
        && match asked.ttl {
            None | Some(Ttl::At { .. } | Ttl::Never) => true,
            Some(Ttl::In { .. }) => !propagation::has_receivers(),
            Some(Ttl::Keep) => false,
        };
    if as_given {
        ctx.replicate_verbatim();
        return;
    }
    let at = deadline.map(|ms| (OwnedStr::new(b"PXAT"), OwnedStr::from_number(ms as i64)));
    let mut parts: context::Parts<'_> = args.iter().take(2).collect();
    if let Some((word, ms)) = &at {
        parts.extend([word.as_str(), ms.as_str()]);
    }
    if !asked.tags.is_empty() {
        // The word and the count stand before the tags.
        parts.extend(
            args.iter()
                .skip(asked.tags_at - 2)
                .take(asked.tags.len() + 2),
        );
    }
    ctx.replicate(c"CACHE.SET", &parts);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed<'a>(words: &'a [&'a [u8]]) -> Result<SetArgs<'a>, Error> {
        parse(words, &Config::default())
    }

    #[test]
    fn options_come_in_any_order_and_case() {
        let words: [&[u8]; 9] = [b"k", b"v", b"tags", b"2", b"a", b"b", b"Px", b"5", b"nX"];
        let args = parsed(&words).expect("good");
        assert_eq!(
            (args.value, args.tags, args.tags_at),
            (&b"v"[..], &[&b"a"[..], b"b"][..], 4)
        );
        assert_eq!(
            args.ttl,
            Some(Ttl::In {
                amount: 5,
                unit_ms: 1
            })
        );
        assert_eq!(args.condition, Some(Condition::Absent));
    }

    #[test]
    fn a_tag_may_be_any_word() {
        let words: [&[u8]; 7] = [b"k", b"v", b"TAGS", b"2", b"NX", b"TAGS", b"XX"];
        let args = parsed(&words).expect("good");
        assert_eq!(
            (args.tags, args.condition),
            (&[&b"NX"[..], b"TAGS"][..], Some(Condition::Present))
        );
    }

    #[test]
    fn what_contradicts_itself_is_a_syntax_error() {
        for options in [
            &[&b"NX"[..], b"XX"][..],
            &[b"NX", b"NX"],
            &[b"PX", b"1", b"EX", b"1"],
            &[b"KEEPTTL", b"PXAT", b"1"],
            &[b"TAGS", b"1", b"a", b"TAGS", b"1", b"b"],
            &[b"TAGS", b"2", b"a"],
            &[b"PX"],
            &[b"TAGS"],
            &[b"nonsense"],
            &[b""],
        ] {
            let words: Vec<&[u8]> = [&b"k"[..], b"v"]
                .into_iter()
                .chain(options.iter().copied())
                .collect();
            assert_eq!(parsed(&words).unwrap_err(), Error::Syntax, "{options:?}");
        }
    }
}
