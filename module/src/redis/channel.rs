//! The message about an invalidation, for local tiers.
//!
//! `docs/src/messages.md` describes its form, version 2.

use super::{Context, OwnedStr, state};
use crate::engine::{Effect, Invalidation};

const VERSION: u8 = 2;

/// Publishes an invalidation in a database, unless data is being loaded. In a cluster the server passes a message on to
/// all nodes, replicas included, so there only the primary that executed the command publishes. Elsewhere a replica
/// publishes to its own subscribers.
pub(crate) fn publish(ctx: &Context<'_>, db: u32, clock: u64, what: Invalidation<'_>) {
    if ctx.is_loading() || (ctx.is_cluster() && ctx.is_replica()) {
        return;
    }
    let lineage = state::with(|state| state.lineage);
    let channel = format!("__cache@{db}__:invalidate");
    let channel = OwnedStr::new(channel.as_bytes());
    let message = OwnedStr::new(&encode(lineage, clock, what));
    ctx.publish(channel.as_str(), message.as_str());
}

fn encode(lineage: u64, clock: u64, what: Invalidation<'_>) -> Vec<u8> {
    let kind = match what {
        Invalidation::Tags(Effect::Gone, _) => b'I',
        Invalidation::Tags(Effect::Stale, _) => b'R',
        Invalidation::Where(Effect::Gone, ..) => b'W',
        Invalidation::Where(Effect::Stale, ..) => b'w',
        Invalidation::Everything => b'F',
    };
    // Room for most messages, so that the vector need not grow.
    let mut message = Vec::with_capacity(128);
    message.extend([VERSION, kind]);
    message.extend(lineage.to_be_bytes());
    message.extend(clock.to_be_bytes());
    let number = |message: &mut Vec<u8>, n: usize| message.extend((n as u32).to_be_bytes());
    let push_tags = |message: &mut Vec<u8>, tags: &[&[u8]]| {
        for tag in tags {
            number(message, tag.len());
            message.extend_from_slice(tag);
        }
    };
    match what {
        Invalidation::Everything => {}
        Invalidation::Tags(_, tags) => push_tags(&mut message, tags),
        Invalidation::Where(_, condition, _) => {
            let clauses = [
                (b'A', condition.all),
                (b'O', condition.any),
                (b'N', condition.none),
            ];
            for (word, tags) in clauses {
                let Some(tags) = tags else { continue };
                message.push(word);
                number(&mut message, tags.len());
                push_tags(&mut message, tags);
            }
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Condition;

    #[test]
    fn a_message_has_the_documented_form() {
        let tags: [&[u8]; 2] = [b"a", b"\0\r\n"];
        assert_eq!(
            encode(515, 258, Invalidation::Tags(Effect::Gone, &tags)),
            b"\x02I\0\0\0\0\0\0\x02\x03\0\0\0\0\0\0\x01\x02\0\0\0\x01a\0\0\0\x03\0\r\n"
        );
        assert_eq!(
            encode(0, 1, Invalidation::Everything),
            b"\x02F\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
        );
        let condition = Condition {
            all: Some(&tags[..1]),
            any: None,
            none: Some(&tags[..1]),
        };
        let message = encode(0, 1, Invalidation::Where(Effect::Stale, condition, 0));
        assert_eq!(message[..2], *b"\x02w");
        assert_eq!(
            message[18..],
            *b"A\0\0\0\x01\0\0\0\x01aN\0\0\0\x01\0\0\0\x01a"
        );
    }
}
