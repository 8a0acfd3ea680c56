//! Messages of the module: the invalidation channel and keyspace notifications.

mod channel;
mod notifications;

use tagcache_tests::{RawClient, Reply};

/// The channel and the payload of the next message to a subscriber that speaks RESP3.
fn message(subscriber: &mut RawClient) -> (String, Vec<u8>) {
    let push = subscriber.take_push();
    match &push[..] {
        [kind, channel, payload] if kind.text() == "message" => {
            (channel.text(), payload.bytes().to_vec())
        }
        [kind, _, channel, payload] if kind.text() == "pmessage" => {
            (channel.text(), payload.bytes().to_vec())
        }
        _ => panic!("no message: {push:?}"),
    }
}

/// Subscribes to a pattern.
fn subscribe(client: &mut RawClient, pattern: &str) {
    client.send(&["PSUBSCRIBE", pattern]);
    let push = client.take_push();
    assert_eq!(push[0], Reply::bulk("psubscribe"), "{push:?}");
}
