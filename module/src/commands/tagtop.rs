use crate::args::{Cursor, set_once};
use crate::commands::largest::Largest;
use crate::engine::TagFigures;
use crate::error::Error;
use crate::redis::{Args, Context, Words, slices, state};

const DEFAULT_LIMIT: u64 = 10;
const MAX_LIMIT: u64 = 10_000;

/// Numbers of tags that one step looks at: few, because a look at a large tag of which some entries are gone takes
/// O(entries).
const STEP: u32 = 8;

/// The figure by which tags are ordered.
type Measure = fn(&TagFigures) -> u64;

fn parse(words: &[&[u8]]) -> Result<(Measure, u64), Error> {
    let (mut measure, mut limit) = (None, None);
    let mut cursor = Cursor::new(words);
    while let Some(word) = cursor.next_option() {
        if word.is(b"BY") {
            let given: Measure = match cursor.next()? {
                word if word.eq_ignore_ascii_case(b"ENTRIES") => |info| info.entries,
                word if word.eq_ignore_ascii_case(b"BYTES") => |info| info.bytes,
                _ => return Err(Error::Syntax),
            };
            set_once(&mut measure, given)?;
        } else if word.is(b"LIMIT") {
            set_once(&mut limit, cursor.next_in(1..=MAX_LIMIT)?)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok((
        measure.unwrap_or(|info| info.entries),
        limit.unwrap_or(DEFAULT_LIMIT),
    ))
}

/// `CACHE.TAGTOP [BY ENTRIES | BYTES] [LIMIT n]` → `[[tag, entries, bytes], ...]`: the largest tags, largest first.
pub(crate) fn tagtop(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut storage = Words::new();
    let (measure, limit) = parse(args.words(0, &mut storage)?)?;
    let (mut next, mut found) = (Some(0), Largest::new(limit as usize));
    let db = ctx.db();
    let step = move || {
        let from = next?;
        next = state::index(db, |index| {
            index.visit_tags(from, STEP, |tag, info| {
                let size = measure(&info);
                if size > found.least() {
                    found.add(size, tag);
                }
            })
        });
        next.is_none().then(|| rows(db, measure, &mut found))
    };
    slices::run(ctx, step, reply);
    Ok(())
}

/// The tags that were found, with their present figures.
fn rows(db: u32, measure: Measure, found: &mut Largest) -> Vec<(Box<[u8]>, TagFigures)> {
    let mut rows: Vec<(Box<[u8]>, TagFigures)> = state::index(db, |index| {
        let known = found.take().filter_map(|(_, tag)| {
            let info = index.tag_figures(&tag);
            (info.entries > 0).then_some((tag, info))
        });
        known.collect()
    });
    rows.sort_unstable_by(|(a, a_info), (b, b_info)| {
        let sizes = measure(b_info).cmp(&measure(a_info));
        sizes.then_with(|| a.cmp(b))
    });
    rows
}

fn reply(ctx: &Context<'_>, rows: Vec<(Box<[u8]>, TagFigures)>) {
    ctx.reply_array(rows.len());
    for (tag, info) in rows {
        ctx.reply_array(3);
        ctx.reply_bytes(&tag);
        ctx.reply_integer(info.entries as i64);
        ctx.reply_integer(info.bytes as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order_and_checked() {
        let info = TagFigures {
            entries: 1,
            bytes: 2,
        };
        let parsed = |words: &[&[u8]]| parse(words).map(|(measure, limit)| (measure(&info), limit));
        assert_eq!(parsed(&[]), Ok((1, 10)));
        assert_eq!(parsed(&[b"limit", b"3", b"by", b"Bytes"]), Ok((2, 3)));
        assert_eq!(parsed(&[b"BY", b"ENTRIES"]), Ok((1, 10)));
        for (words, error) in [
            (&[&b"BY"[..]][..], Error::Syntax),
            (&[b"BY", b"SIZE"], Error::Syntax),
            (&[b"BY", b"BYTES", b"BY", b"BYTES"], Error::Syntax),
            (&[b"LIMIT", b"0"], Error::NotAnInteger),
            (&[b"LIMIT", b"10001"], Error::NotAnInteger),
            (&[b"5"], Error::Syntax),
        ] {
            assert_eq!(parsed(words), Err(error), "{words:?}");
        }
    }
}
