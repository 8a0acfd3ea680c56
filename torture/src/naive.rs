//! A client without the protections of this project's client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tagcache_tests::DEADLINE;

/// A local tier as it is often built, without the ordering rule: after the await it keeps the value that was read,
/// whatever was pushed meanwhile.
#[derive(Clone)]
pub(crate) struct Naive {
    pause: Duration,
    held: Arc<Mutex<Held>>,
    connection: redis::aio::MultiplexedConnection,
}

/// Values and their tags by key.
type Held = HashMap<String, (String, Vec<String>)>;

impl Naive {
    pub(crate) async fn start(port: &str, pause: Duration) -> Self {
        let held: Arc<Mutex<Held>> = Arc::default();
        let pushed = Arc::clone(&held);
        let apply = move |push: redis::PushInfo| {
            apply(&push, &mut pushed.lock().expect("no test panics here"));
            Ok::<_, redis::aio::SendError>(())
        };
        // The default, half a second, is too short for a busy machine.
        let config = redis::AsyncConnectionConfig::new()
            .set_push_sender(apply)
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let url = format!("redis://127.0.0.1:{port}/?protocol=resp3");
        let client = redis::Client::open(url).expect("an address");
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .expect("a server that answers");
        let tracking = redis::cmd("CLIENT").arg("TRACKING").arg("ON").to_owned();
        tracking
            .exec_async(&mut connection)
            .await
            .expect("tracking");
        connection
            .subscribe("__cache@0__:invalidate")
            .await
            .expect("a subscription");
        Self {
            pause,
            held,
            connection,
        }
    }

    pub(crate) fn held_value(&self, key: &str) -> Option<String> {
        self.held().get(key).map(|(value, _)| value.clone())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no test panics here")
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        if let Some((value, _)) = self.held().get(key) {
            return Some(value.clone());
        }
        let mut connection = self.connection.clone();
        let found: (String, Option<String>, i64, u64, Vec<String>) = redis::cmd("CACHE.FETCH")
            .arg(key)
            .query_async(&mut connection)
            .await
            .expect("a server that answers");
        // Long enough for some reads to be overtaken, even on a busy machine.
        tokio::time::sleep(self.pause).await;
        let value: String = serde_json::from_str(&found.1?).expect("JSON");
        self.held().insert(key.to_owned(), (value.clone(), found.4));
        Some(value)
    }
}

fn apply(push: &redis::PushInfo, held: &mut Held) {
    use redis::{PushKind, Value};
    match (&push.kind, push.data.as_slice()) {
        (PushKind::Invalidate, [Value::Array(keys)]) => {
            for key in keys {
                if let Value::BulkString(key) = key {
                    held.remove(std::str::from_utf8(key).expect("our keys"));
                }
            }
        }
        (PushKind::Message, [_, Value::BulkString(message)]) => {
            let head = if message[0] == 1 { 10 } else { 18 };
            let (kind, mut rest) = (message[1], &message[head..]);
            if !matches!(kind, b'I' | b'R') {
                return held.clear();
            }
            while let Some((len, after)) = rest.split_first_chunk::<4>() {
                let (tag, after) = after.split_at(u32::from_be_bytes(*len) as usize);
                held.retain(|_, (_, tags)| !tags.iter().any(|held| held.as_bytes() == tag));
                rest = after;
            }
        }
        (PushKind::Invalidate, _) => held.clear(),
        _ => {}
    }
}
