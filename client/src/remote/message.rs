//! Messages that a server sends unasked: tracking pushes and the invalidation channel.

use std::time::Instant;

use redis::{PushInfo, PushKind, Value};

use super::command::Invalidation;

/// Reads a message of the channel `__cache@<db>__:invalidate`: version, kind, from version 2 on the node's lineage (8
/// bytes), clock (8 bytes), then the data of the kind.
pub(crate) fn decode(message: &[u8]) -> Push<'_> {
    let (kind, rest) = match message {
        [1, kind, rest @ ..] => (kind, rest.get(8..)),
        [2, kind, rest @ ..] => (kind, rest.get(16..)),
        _ => return Push::Everything,
    };
    let tags = match (kind, rest) {
        (b'I' | b'R', Some(rest)) => tags(rest),
        (b'W' | b'w', Some(rest)) => of_clauses(rest),
        _ => None,
    };
    let kind = if matches!(kind, b'R' | b'w') {
        Invalidation::Soft
    } else {
        Invalidation::Hard
    };
    tags.map_or(Push::Everything, |tags| Push::Tags(kind, tags))
}

/// Tags of which every entry that meets the clauses carries at least one: dropping by these drops too much rather than
/// too little. `None`: any entry may meet the clauses.
fn of_clauses(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut all, mut any) = (None, None);
    while let [word, after @ ..] = rest {
        let (count, after) = after.split_first_chunk::<4>()?;
        rest = after;
        let mut tags = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            tags.push(tag(&mut rest)?);
        }
        match word {
            // One of them is enough.
            b'A' => all = tags.first().map(|first| vec![*first]),
            b'O' => any = Some(tags),
            b'N' => {}
            _ => return None,
        }
    }
    all.or(any)
}

fn tags(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut tags = Vec::new();
    while !rest.is_empty() {
        tags.push(tag(&mut rest)?);
    }
    Some(tags)
}

/// A length in 4 bytes, then that many bytes.
fn tag<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, after) = rest.split_first_chunk::<4>()?;
    let (tag, after) = after.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *rest = after;
    Some(tag)
}

/// The channel on which the module of a server announces invalidations in this database.
pub(crate) fn channel(db: i64) -> String {
    format!("__cache@{db}__:invalidate")
}

/// A message to the local tier.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Push<'a> {
    /// These keys changed.
    Keys(Vec<&'a [u8]>),
    /// Entries with one of these tags changed.
    Tags(Invalidation, Vec<&'a [u8]>),
    /// Anything may have changed, or this version cannot read the message, and must therefore drop everything.
    Everything,
    /// The connection is lost: values that came through it are no longer kept up to date.
    Lost,
    /// A server can be reached again.
    Restored,
    /// All pushes that the server had sent by then have been applied.
    CaughtUp(Instant),
    /// Nothing, such as the confirmation of a subscription.
    Nothing,
}

/// Reads a push. One that might be an invalidation and cannot be read counts as an invalidation of everything.
pub(crate) fn read<'a>(push: &'a PushInfo, channel: &str) -> Push<'a> {
    match push.kind {
        PushKind::Invalidate => match push.data.first() {
            Some(Value::Array(keys)) => {
                let names: Option<Vec<_>> = keys.iter().map(bytes).collect();
                names.map_or(Push::Everything, Push::Keys)
            }
            _ => Push::Everything,
        },
        PushKind::Message => match push.data.as_slice() {
            [on, message] if bytes(on) == Some(channel.as_bytes()) => {
                bytes(message).map_or(Push::Everything, decode)
            }
            _ => Push::Nothing,
        },
        PushKind::Disconnection | PushKind::Unsubscribe => Push::Lost,
        // "tracking-redir-broken", and any other kind that reports the end of tracking.
        PushKind::Other(ref kind) if kind.starts_with("tracking") => Push::Everything,
        _ => Push::Nothing,
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, tags: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![1, kind];
        message.extend_from_slice(&7_u64.to_be_bytes());
        for tag in tags {
            message.extend_from_slice(&(tag.len() as u32).to_be_bytes());
            message.extend_from_slice(tag);
        }
        message
    }

    /// However a message is damaged, only what it contains is read, in the form in which a sender would send it.
    #[test]
    fn fuzzed_messages_drop_everything_or_only_tags_they_contain() {
        let mut by_condition = message(b'W', &[]);
        by_condition.extend(
            b"A\0\0\0\x02\0\0\0\x01a\0\0\0\x01bO\0\0\0\x01\0\0\0\x01cN\0\0\0\x01\0\0\0\x01d",
        );
        let mut second = message(b'w', &[]);
        second[0] = 2;
        second.extend([0; 8]);
        second.extend_from_slice(&by_condition[10..]);
        let corpus = [
            message(b'I', &[b"tenant:7", b"\0\xff"]),
            message(b'R', &[b"a"]),
            message(b'F', &[]),
            by_condition,
            second,
        ];
        tagcache_tests::fuzz::fuzz("channel messages", 20_000, &corpus, |bytes| {
            let Push::Tags(kind, tags) = decode(bytes) else {
                return;
            };
            let within = bytes.as_ptr_range();
            for tag in &tags {
                let tag = tag.as_ptr_range();
                assert!(within.start <= tag.start && tag.end <= within.end);
            }
            let stored: usize = tags.iter().map(|tag| 4 + tag.len()).sum();
            assert!(10 + stored <= bytes.len());
            if matches!(bytes[1], b'I' | b'R') {
                let mut again = message(bytes[1], &tags);
                if bytes[0] == 2 {
                    again[0] = 2;
                    again.splice(10..10, [0; 8]);
                }
                assert_eq!(again.len(), bytes.len(), "every byte is one of a tag");
                assert_eq!(decode(&again), Push::Tags(kind, tags));
            }
        });
    }

    /// The same through the form in which redis-rs returns a push.
    #[test]
    fn fuzzed_pushes_are_parsed_or_drop_everything() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let corpus = [message(b'I', &[b"tenant:7"]), b"invalidate".to_vec()];
        let kinds = [
            PushKind::Invalidate,
            PushKind::Message,
            PushKind::Unsubscribe,
        ];
        let mut n = 0;
        tagcache_tests::fuzz::fuzz("pushes", 5_000, &corpus, |bytes| {
            n += 1;
            let bulk = Value::BulkString(bytes.to_vec());
            let data = match n % 6 {
                0 => vec![],
                1 => vec![bulk],
                2 => vec![Value::Array(vec![bulk.clone(), bulk])],
                3 => vec![text(&channel(0)), bulk],
                4 => vec![Value::Nil, bulk, Value::Int(1)],
                _ => vec![Value::Array(vec![bulk, Value::Int(3)])],
            };
            let kind = if n % 7 == 0 {
                PushKind::Other(String::from_utf8_lossy(bytes).into_owned())
            } else {
                kinds[n % 3].clone()
            };
            let is_invalidation = kind == PushKind::Invalidate;
            let push = PushInfo { kind, data };
            let read = read(&push, &channel(0));
            // A push that reports a change is never ignored.
            assert!(!is_invalidation || !matches!(read, Push::Nothing | Push::Lost));
        });
    }

    #[test]
    fn tags_of_any_bytes_are_parsed_from_hard_and_soft_messages() {
        for (kind, effect) in [(b'I', Invalidation::Hard), (b'R', Invalidation::Soft)] {
            let tags: &[&[u8]] = &[b"tenant:7", b"\x00\xff"];
            let expected = Push::Tags(effect, tags.to_vec());
            let first = message(kind, tags);
            assert_eq!(decode(&first), expected);
            // Version 2 has the node's lineage before the clock.
            let second = [&[2, kind], [9; 8].as_slice(), &first[2..]].concat();
            assert_eq!(decode(&second), expected);
        }
    }

    #[test]
    fn condition_messages_yield_a_tag_of_every_matching_entry() {
        let clause = |word: u8, tags: &[&[u8]]| {
            let count = (tags.len() as u32).to_be_bytes();
            [&[word], count.as_slice(), &message(b'W', tags)[10..]].concat()
        };
        let published = |clauses: &[Vec<u8>]| [message(b'W', &[]), clauses.concat()].concat();
        let (all, any, none) = (
            clause(b'A', &[b"a", b"b"]),
            clause(b'O', &[b"c", b"d"]),
            clause(b'N', &[b"e"]),
        );
        let tags = |tags: &[&'static [u8]]| Push::Tags(Invalidation::Hard, tags.to_vec());
        let both = published(&[all.clone(), any.clone(), none.clone()]);
        assert_eq!(decode(&both), tags(&[b"a"]));
        let any = published(&[any, none.clone()]);
        assert_eq!(decode(&any), tags(&[b"c", b"d"]));
        assert_eq!(decode(&published(&[none])), Push::Everything);
        for cut in 11..both.len() {
            let cut = decode(&both[..cut]);
            assert!(cut == tags(&[b"a"]) || cut == Push::Everything);
        }
    }

    #[test]
    fn unreadable_messages_drop_everything() {
        let good = message(b'I', &[b"tenant:7"]);
        assert_eq!(decode(&message(b'F', &[])), Push::Everything);
        assert_eq!(decode(&message(b'X', &[b"tag"])), Push::Everything);
        assert_eq!(decode(&[2, b'I']), Push::Everything);
        assert_eq!(decode(&[]), Push::Everything);
        for cut in (0..10).chain(11..good.len()) {
            assert_eq!(decode(&good[..cut]), Push::Everything, "cut at {cut}");
        }
    }

    #[test]
    fn pushes_are_parsed_and_unreadable_ones_drop_everything() {
        let channel = channel(0);
        let push = |kind, data| PushInfo { kind, data };
        let bulk = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
        let keys = push(
            PushKind::Invalidate,
            vec![Value::Array(vec![bulk(b"a"), bulk(b"\xff")])],
        );
        assert_eq!(read(&keys, &channel), Push::Keys(vec![b"a", b"\xff"]));
        // The push of FLUSHALL.
        assert_eq!(
            read(&push(PushKind::Invalidate, vec![Value::Nil]), &channel),
            Push::Everything
        );
        assert_eq!(
            read(&push(PushKind::Invalidate, vec![]), &channel),
            Push::Everything
        );
        let published = |text: &[u8]| {
            push(
                PushKind::Message,
                vec![bulk(channel.as_bytes()), bulk(text)],
            )
        };
        let tagged = published(&message(b'I', &[b"t"]));
        assert_eq!(
            read(&tagged, &channel),
            Push::Tags(Invalidation::Hard, vec![b"t"])
        );
        assert_eq!(read(&published(b"?"), &channel), Push::Everything);
        assert_eq!(
            read(&push(PushKind::Disconnection, vec![]), &channel),
            Push::Lost
        );
        // No tag would be announced any more.
        assert_eq!(
            read(&push(PushKind::Unsubscribe, vec![]), &channel),
            Push::Lost
        );
        let other = PushKind::Other("tracking-redir-broken".to_owned());
        assert_eq!(read(&push(other, vec![]), &channel), Push::Everything);
        assert_eq!(
            read(&push(PushKind::Subscribe, vec![]), &channel),
            Push::Nothing
        );
    }

    #[test]
    fn messages_of_other_channels_and_kinds_are_ignored() {
        assert_eq!(channel(3), "__cache@3__:invalidate");
        let text = |text: &str| Value::SimpleString(text.to_owned());
        let (kind, message) = (PushKind::Message, "\u{1}F12345678");
        let data = vec![text(&channel(3)), text(message)];
        let published = PushInfo { kind, data };
        assert_eq!(read(&published, &channel(3)), Push::Everything);
        assert_eq!(read(&published, &channel(4)), Push::Nothing);
        let (kind, data) = (PushKind::Other("client-info".to_owned()), vec![]);
        assert_eq!(read(&PushInfo { kind, data }, &channel(3)), Push::Nothing);
    }
}
