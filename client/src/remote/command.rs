//! The commands as functions, their replies as types.

use std::fmt::Debug;
use std::time::Duration;

use redis::{Cmd, Value};

use super::error::Error;

/// The server takes times up to 2^47 ms: a value with this TTL never expires.
pub(crate) const LONGEST: Duration = Duration::from_millis(1 << 46);

/// The longest grace, and the longest hold of a tag, that the server takes: some 34 years.
pub(crate) const LONGEST_GRACE: Duration = Duration::from_millis(1 << 40);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) state: State,
    pub(crate) token: u64,
    /// `None` if one of them is not UTF-8: this crate did not set it, and it cannot be tracked here.
    pub(crate) tags: Option<Vec<String>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A fresh value and how long it stays fresh; `None`: as long as it exists.
    Hit {
        value: Vec<u8>,
        ttl: Option<Duration>,
    },
    Stale {
        value: Vec<u8>,
    },
    Miss,
}

pub(crate) fn fetch(key: &str) -> Cmd {
    of_key("CACHE.FETCH", key)
}

/// Keys of one slot.
pub(crate) fn mfetch(keys: &[&str]) -> Cmd {
    let mut cmd = redis::cmd("CACHE.MFETCH");
    cmd.arg(keys);
    cmd
}

/// `token`: the token of the lease.
pub(crate) fn fetch_lease(key: &str, lease: Duration, token: u64) -> Cmd {
    let mut cmd = fetch(key);
    cmd.arg("LEASE").arg(millis(lease));
    cmd.arg("TOKEN").arg(token);
    cmd
}

/// Reads `[state, value, pttl, token, tags]`. A reply outside the contract is an error, which is formatted only then:
/// the reply may be large.
pub(crate) fn fetched(answer: Value) -> Result<Fetched, Error> {
    let odd = |answer: &dyn Debug| Error::unexpected("server", "CACHE.FETCH", answer);
    let Value::Array(parts) = answer else {
        return Err(odd(&answer));
    };
    let parts = <[Value; 5]>::try_from(parts).map_err(|parts| odd(&parts))?;
    let [state, value, pttl, token, tags] = parts;
    let (Value::Int(pttl), Value::Int(token)) = (&pttl, &token) else {
        return Err(odd(&[state, pttl, token]));
    };
    let (Value::Array(tags) | Value::Set(tags)) = tags else {
        return Err(odd(&[state, tags]));
    };
    let tags = tags.into_iter().map(text).collect::<Option<Vec<_>>>();
    let (pttl, token) = (*pttl, *token);
    let state = match (text_of(&state).unwrap_or_default(), value) {
        ("HIT", Value::BulkString(value)) => State::Hit {
            value,
            ttl: u64::try_from(pttl).ok().map(Duration::from_millis),
        },
        ("STALE", Value::BulkString(value)) => State::Stale { value },
        ("MISS", Value::Nil) => State::Miss,
        (_, value) => return Err(odd(&[state, value])),
    };
    let token = u64::try_from(token).map_err(|_| odd(&token))?;
    Ok(Fetched { state, token, tags })
}

/// How long a value is fresh and how long it stays beyond that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// `None`: never expires.
    pub(crate) ttl: Option<Duration>,
    pub(crate) grace: Duration,
}

pub(crate) fn set(key: &str, value: &[u8], times: Times, tags: &[String]) -> Cmd {
    let mut cmd = of_key("CACHE.SET", key);
    cmd.arg(value);
    with_times_and_tags(cmd, times, tags)
}

/// Values of one slot.
pub(crate) fn mset(values: &[(&str, &[u8])], times: Times, tags: &[String]) -> Cmd {
    let mut cmd = redis::cmd("CACHE.MSET");
    cmd.arg(values.len()).arg(values);
    with_times_and_tags(cmd, times, tags)
}

fn with_times_and_tags(mut cmd: Cmd, times: Times, tags: &[String]) -> Cmd {
    // Without a TTL the server's default would apply.
    cmd.arg("PX").arg(millis(times.ttl.unwrap_or(LONGEST)));
    if !times.grace.is_zero() {
        cmd.arg("GRACE").arg(millis(times.grace));
    }
    if !tags.is_empty() {
        cmd.arg("TAGS").arg(tags.len()).arg(tags);
    }
    cmd
}

pub(crate) fn touch(key: &str, ttl: Option<Duration>, grace: Duration) -> Cmd {
    let mut cmd = of_key("CACHE.TOUCH", key);
    match ttl {
        Some(ttl) => cmd.arg("PX").arg(millis(ttl)),
        None => cmd.arg("PERSIST"),
    };
    cmd.arg("GRACE").arg(grace.as_millis());
    cmd
}

/// A command whose only argument is a key.
pub(crate) fn of_key(name: &str, key: &str) -> Cmd {
    let mut cmd = redis::cmd(name);
    cmd.arg(key);
    cmd
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Invalidation {
    /// Entries are gone.
    Hard,
    /// Entries are stale for their grace.
    Soft,
}

pub(crate) fn invalidate(kind: Invalidation, tags: &[String]) -> Cmd {
    let mut cmd = redis::cmd(match kind {
        Invalidation::Hard => "CACHE.INVALIDATE",
        Invalidation::Soft => "CACHE.REVALIDATE",
    });
    cmd.arg(tags);
    cmd
}

pub(crate) fn hits<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> Cmd {
    let mut cmd = redis::cmd("CACHE.HITS");
    for (key, count) in counts {
        cmd.arg(key).arg(count);
    }
    cmd
}

/// Drops entries that carry all of `all`, one of `any` and none of `none`; an empty clause does not restrict.
pub(crate) fn invalidate_where(
    kind: Invalidation,
    stale_for: Option<Duration>,
    all: &[String],
    any: &[String],
    none: &[String],
) -> Cmd {
    let mut cmd = redis::cmd("CACHE.INVALIDATEWHERE");
    for (clause, tags) in [("ALL", all), ("ANY", any), ("NONE", none)] {
        if !tags.is_empty() {
            cmd.arg(clause).arg(tags.len()).arg(tags);
        }
    }
    if kind == Invalidation::Soft {
        cmd.arg("SOFT");
    }
    if let Some(limit) = stale_for {
        let limit = limit.min(LONGEST_GRACE);
        cmd.arg("GRACE").arg(limit.as_millis() as u64);
    }
    cmd
}

pub(crate) fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    match map {
        Value::Map(pairs) => {
            let found = pairs.iter().find(|(key, _)| text_of(key) == Some(name));
            found.map(|(_, value)| value)
        }
        // Servers send the modules as flat arrays inside the map, whatever the protocol.
        Value::Array(items) => {
            let mut pairs = items.chunks_exact(2);
            let found = pairs.find(|pair| text_of(&pair[0]) == Some(name));
            found.map(|pair| &pair[1])
        }
        _ => None,
    }
}

/// A field that is a number, zero or above.
pub(crate) fn number(map: &Value, name: &str) -> Option<u64> {
    number_of(field(map, name)?)
}

pub(crate) fn number_of(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// The items of a list; none if it is no list.
pub(crate) fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        _ => &[],
    }
}

/// At least 1: the server refuses zero.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(crate) fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn hit_stale_and_miss_replies_are_parsed() {
        let answer = |state, value, pttl, token, tags: &[&str]| {
            fetched(Value::Array(vec![
                bulk(state),
                value,
                Value::Int(pttl),
                Value::Int(token),
                Value::Array(tags.iter().map(|tag| bulk(tag)).collect()),
            ]))
        };
        let hit = answer("HIT", bulk("v"), 1500, 0, &["a", "b"]).expect("a hit");
        let ttl = Some(Duration::from_millis(1500));
        assert_eq!(
            hit.state,
            State::Hit {
                value: b"v".to_vec(),
                ttl
            }
        );
        assert_eq!(hit.tags, Some(vec!["a".to_owned(), "b".to_owned()]));
        let eternal = answer("HIT", bulk("v"), -1, 0, &[]).expect("a hit");
        assert_eq!(
            eternal.state,
            State::Hit {
                value: b"v".to_vec(),
                ttl: None
            }
        );
        let stale = answer("STALE", bulk("v"), 0, 9, &[]).expect("a stale value");
        assert_eq!(
            (stale.state, stale.token),
            (
                State::Stale {
                    value: b"v".to_vec()
                },
                9
            )
        );
        let miss = answer("MISS", Value::Nil, -2, 7, &[]).expect("a miss");
        assert_eq!((miss.state, miss.token), (State::Miss, 7));
    }

    #[test]
    fn unknown_replies_are_refused() {
        assert!(fetched(Value::Nil).is_err());
        assert!(fetched(Value::Array(vec![bulk("HIT")])).is_err());
        let no_tags = Value::Array(vec![]);
        let odd = Value::Array(vec![
            bulk("WARM"),
            bulk("v"),
            Value::Int(1),
            Value::Int(0),
            no_tags,
        ]);
        assert!(fetched(odd).is_err());
    }

    #[test]
    fn tags_that_are_not_utf8_are_unknown_not_empty() {
        let tags = Value::Array(vec![Value::BulkString(vec![0xff])]);
        let answer = Value::Array(vec![
            bulk("HIT"),
            bulk("v"),
            Value::Int(1),
            Value::Int(0),
            tags,
        ]);
        assert_eq!(fetched(answer).expect("a hit").tags, None);
    }
}
