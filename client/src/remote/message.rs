//! What the server says unasked: tracking pushes and the invalidation channel.

use redis::{PushInfo, PushKind, Value};

/// Bytes between version and kind and what was invalidated: in version 1 the clock, in version 2 the node as well.
const FIELDS: [usize; 2] = [8, 16];

/// A message of the channel `__cache@<db>__:invalidate`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// Entries with one of these tags are gone or stale.
    Tags(Vec<&'a [u8]>),
    /// Everything of the database is gone, or the message is one that this version cannot read: the only safe
    /// thing to do is the same.
    Everything,
}

/// Reads a message of version 1 or 2: version, kind, from version 2 on the node (8 bytes), clock (8 bytes), then length
/// (4 bytes) and bytes of each tag.
pub(crate) fn decode(message: &[u8]) -> Message<'_> {
    let read = match message {
        [version @ 1..=2, b'I' | b'R', rest @ ..] => {
            rest.get(FIELDS[usize::from(version - 1)]..).and_then(tags)
        }
        _ => None,
    };
    read.map_or(Message::Everything, Message::Tags)
}

fn tags(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut tags = Vec::new();
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let (tag, after) = after.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        tags.push(tag);
        rest = after;
    }
    Some(tags)
}

/// The channel on which the module of a server announces invalidations in this database.
pub(crate) fn channel(db: i64) -> String {
    format!("__cache@{db}__:invalidate")
}

/// What a push means for the local tier.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Push<'a> {
    /// These keys changed.
    Keys(Vec<&'a [u8]>),
    /// Entries with one of these tags changed.
    Tags(Vec<&'a [u8]>),
    /// Anything may have changed.
    Everything,
    /// The connection is gone.
    Lost,
    /// Nothing, such as the confirmation of a subscription.
    Nothing,
}

/// Reads a push. Whatever might be an invalidation and cannot be read counts as one of everything.
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
                match bytes(message).map(decode) {
                    Some(Message::Tags(tags)) => Push::Tags(tags),
                    _ => Push::Everything,
                }
            }
            _ => Push::Nothing,
        },
        PushKind::Disconnection | PushKind::Unsubscribe => Push::Lost,
        // "tracking-redir-broken" and whatever else may come to say that tracking has ended.
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
        message_of(2, kind, tags)
    }

    fn message_of(version: u8, kind: u8, tags: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![version, kind];
        for _ in 0..version {
            message.extend_from_slice(&7_u64.to_be_bytes());
        }
        for tag in tags {
            message.extend_from_slice(&(tag.len() as u32).to_be_bytes());
            message.extend_from_slice(tag);
        }
        message
    }

    #[test]
    fn tags_of_hard_and_soft_messages_are_read_whatever_bytes_they_hold() {
        for kind in [b'I', b'R'] {
            let tags: &[&[u8]] = &[b"tenant:7", b"\x00\xff"];
            for version in [1, 2] {
                let message = message_of(version, kind, tags);
                assert_eq!(decode(&message), Message::Tags(tags.to_vec()));
            }
        }
    }

    #[test]
    fn what_cannot_be_read_drops_everything() {
        let good = message(b'I', &[b"tenant:7"]);
        assert_eq!(decode(&message(b'F', &[])), Message::Everything);
        assert_eq!(decode(&message(b'X', &[b"tag"])), Message::Everything);
        assert_eq!(decode(&[3, b'I']), Message::Everything);
        assert_eq!(decode(&message_of(3, b'I', &[b"tag"])), Message::Everything);
        assert_eq!(decode(&[]), Message::Everything);
        for cut in (0..18).chain(19..good.len()) {
            assert_eq!(decode(&good[..cut]), Message::Everything, "cut at {cut}");
        }
    }

    #[test]
    fn pushes_are_read_and_unreadable_ones_err_on_the_safe_side() {
        let channel = channel(0);
        let push = |kind, data| PushInfo { kind, data };
        let bulk = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
        let keys = push(
            PushKind::Invalidate,
            vec![Value::Array(vec![bulk(b"a"), bulk(b"\xff")])],
        );
        assert_eq!(read(&keys, &channel), Push::Keys(vec![b"a", b"\xff"]));
        // FLUSHALL's.
        assert_eq!(
            read(&push(PushKind::Invalidate, vec![Value::Nil]), &channel),
            Push::Everything
        );
        assert_eq!(
            read(&push(PushKind::Invalidate, vec![]), &channel),
            Push::Everything
        );
        let said = |text: &[u8]| {
            push(
                PushKind::Message,
                vec![bulk(channel.as_bytes()), bulk(text)],
            )
        };
        let tagged = said(&message(b'I', &[b"t"]));
        assert_eq!(read(&tagged, &channel), Push::Tags(vec![b"t"]));
        assert_eq!(read(&said(b"?"), &channel), Push::Everything);
        assert_eq!(
            read(&push(PushKind::Disconnection, vec![]), &channel),
            Push::Lost
        );
        // It would hear of no tag any more.
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
}
