//! Look-up of a key or a tag: the details of the entry, and the tag's entries page by page.
//!
//! Names are bytes. In a query they are percent-encoded; a response contains each as text for people, and as `query`
//! for the next request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use redis::{FromRedisValue, RedisResult};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::admin::Admin;
use super::control::blocking;
use super::problem::Problem;
use crate::memory::Server;

/// Entries that one page of a tag looks at.
const PAGE: &[u8] = b"50";
/// Longest wait for the look-ups in progress.
const WAIT: Duration = Duration::from_secs(5);

/// One look-up at a time: if the server does not reply, look-ups must not pile up, and the monitor's samples behind
/// them.
pub(super) struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

type Answer = Result<Json<Value>, Problem>;

/// `?key=`: CACHE.INSPECT, which does not count as a read.
pub(super) async fn entry(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Answer {
    let key = needed(query.as_deref(), "key")?;
    look(&admin, move |server| {
        let known: Option<Fields> = server.command("CACHE.INSPECT", &[&key])?;
        known.map(|fields| inspected(&key, &fields)).transpose()
    })
    .await?
    .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "There is no entry of this key"))
}

/// `?tag=`, and `cursor=` for a page after the first: CACHE.TAGINFO and CACHE.TAGSCAN.
pub(super) async fn tag(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Answer {
    let tag = needed(query.as_deref(), "tag")?;
    let cursor = parameter(query.as_deref(), "cursor").unwrap_or_else(|| b"0".to_vec());
    look(&admin, move |server| {
        let known: Option<Fields> = server.command("CACHE.TAGINFO", &[&tag])?;
        let Some(fields) = known else {
            return Ok(None);
        };
        let (next, keys): (String, Vec<Vec<u8>>) =
            server.command("CACHE.TAGSCAN", &[&tag, &cursor, b"COUNT", PAGE])?;
        let number = |name| number(&fields, name);
        let last = Some(number("last_invalidated")?).filter(|&ms| ms > 0);
        Ok(Some(Json(json!({
            "tag": named(&tag),
            "entries": number("entries")?,
            "bytes": number("bytes")?,
            "invalidations": number("invalidations")?,
            "lastInvalidated": last.and_then(time),
            "keys": keys.iter().map(|key| named(key)).collect::<Vec<_>>(),
            "cursor": (next != "0").then_some(next),
        }))))
    })
    .await?
    .ok_or_else(|| {
        let why = "No entry carries this tag, and no late invalidation of it is known";
        Problem::new(StatusCode::NOT_FOUND, why)
    })
}

type Fields = HashMap<String, redis::Value>;

fn inspected(key: &[u8], fields: &Fields) -> RedisResult<Json<Value>> {
    let number = |name| number(fields, name);
    let tags: Vec<Vec<u8>> = field(fields, "tags")?;
    // -1: the entry does not expire.
    let pttl = number("pttl")?;
    Ok(Json(json!({
        "key": named(key),
        "state": field::<String>(fields, "state")?,
        "tags": tags.iter().map(|tag| named(tag)).collect::<Vec<_>>(),
        "hits": number("hits")?,
        "bytes": number("bytes")?,
        "memory": number("memory")?,
        "ttlMs": (pttl >= 0).then_some(pttl),
        "graceMs": number("grace")?,
        "ageMs": number("age")?,
    })))
}

fn number(fields: &Fields, name: &str) -> RedisResult<i64> {
    field(fields, name)
}

fn field<T: FromRedisValue>(fields: &Fields, name: &str) -> RedisResult<T> {
    let value = fields.get(name).cloned().unwrap_or(redis::Value::Nil);
    redis::from_redis_value(value).map_err(Into::into)
}

fn time(ms: i64) -> Option<String> {
    let since = Duration::from_millis(ms.try_into().ok()?);
    let at = UNIX_EPOCH.checked_add(since)?;
    Some(humantime::format_rfc3339_millis(at).to_string())
}

/// A name for people and for the next request.
pub(super) fn named(name: &[u8]) -> Value {
    json!({
        "text": String::from_utf8_lossy(name),
        "query": query(name),
    })
}

/// Percent-encodes a name for a query.
pub(super) fn query(name: &[u8]) -> String {
    percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// `Query` takes text only, but names are bytes.
fn parameter(query: Option<&str>, name: &str) -> Option<Vec<u8>> {
    let mut parameters = query?.split('&').filter_map(|one| one.split_once('='));
    let (_, value) = parameters.find(|(named, _)| *named == name)?;
    Some(percent_decode_str(&value.replace('+', " ")).collect())
}

fn needed(query: Option<&str>, name: &str) -> Result<Vec<u8>, Problem> {
    parameter(query, name).ok_or_else(|| {
        let why = format!("The query has no parameter `{name}`");
        Problem::new(StatusCode::BAD_REQUEST, why)
    })
}

async fn look<T: Send + 'static>(
    admin: &Admin,
    ask: impl FnOnce(&Server) -> RedisResult<T> + Send + 'static,
) -> Result<T, Problem> {
    let server = admin
        .server()
        .cloned()
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "This endpoint watches no server"))?;
    let turn = Arc::clone(&admin.turn().0).acquire_owned();
    let turn = tokio::time::timeout(WAIT, turn).await.map_err(|_| {
        let why = "The cache server is slow: other look-ups still wait for it";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
    })?;
    blocking(move || {
        // The permit is held even if the caller disconnects: the command is still running.
        let _turn = turn;
        ask(&server)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_survive_the_query_string() {
        for name in [&b"user:7"[..], b"a&b=c+d %", b"\xff\x00", "ü".as_bytes()] {
            let query = named(name)["query"].as_str().unwrap().to_owned();
            let whole = format!("cursor=7&tag={query}");
            assert_eq!(parameter(Some(&whole), "tag").as_deref(), Some(name));
        }
        assert_eq!(parameter(Some("key=a+b"), "key").unwrap(), b"a b");
        assert_eq!(parameter(Some("key"), "key"), None);
        assert_eq!(parameter(None, "key"), None);
    }
}
