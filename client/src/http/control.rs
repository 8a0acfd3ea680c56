//! What changes the cache, and what looks into the server.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use redis::{FromRedisValue, RedisResult};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::Admin;
use super::problem::Problem;
use crate::memory::Server;

/// Keys and tags that the overview lists.
const LISTED: usize = 12;

type Answer = Result<Json<Value>, Problem>;

/// Drops every entry: on the server first, so that the local tier cannot be filled from what is about to go.
pub(super) async fn clear(State(admin): State<Admin>) -> Answer {
    let server = match admin.server().cloned() {
        Some(server) => Some(blocking(move || server.command::<u64>("CACHE.FLUSH", &[])).await?),
        None => None,
    };
    let local = admin.local().map(|local| {
        let entries = local.figures().entries;
        local.clear();
        entries
    });
    admin.sample_soon();
    Ok(Json(json!({"cleared": {"local": local, "redis": server}})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invalidate {
    tags: Vec<String>,
    /// Entries turn stale instead of gone.
    #[serde(default)]
    soft: bool,
}

pub(super) async fn invalidate(
    State(admin): State<Admin>,
    body: Result<Json<Invalidate>, JsonRejection>,
) -> Answer {
    let Json(body) =
        body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    if body.tags.is_empty() {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "`tags` names no tag",
        ));
    }
    let tags: Vec<Vec<u8>> = body.tags.into_iter().map(String::into_bytes).collect();
    let server = match admin.server().cloned() {
        Some(server) => {
            let command = if body.soft {
                "CACHE.REVALIDATE"
            } else {
                "CACHE.INVALIDATE"
            };
            let tags = tags.clone();
            Some(
                blocking(move || {
                    let args: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
                    server.command::<u64>(command, &args)
                })
                .await?,
            )
        }
        None => None,
    };
    if let Some(local) = admin.local() {
        local.invalidate(&tags);
    }
    admin.sample_soon();
    Ok(Json(json!({"invalidated": server})))
}

/// Top keys, tags by memory and instances. A part that the server does not give is null.
pub(super) async fn overview(State(admin): State<Admin>) -> Answer {
    let Some(server) = admin.server().cloned() else {
        return Ok(Json(
            json!({"topKeys": null, "tags": null, "instances": null}),
        ));
    };
    let overview = tokio::task::spawn_blocking(move || {
        json!({
            "topKeys": top_keys(&server, LISTED).ok(),
            "tags": tags_by_memory(&server, LISTED).ok(),
            "instances": super::fleet::instances(&server).ok(),
        })
    });
    let overview = overview.await.map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the look-up ended: {error}"),
        )
    })?;
    Ok(Json(overview))
}

fn top_keys(server: &Server, count: usize) -> RedisResult<Value> {
    let count = count.to_string();
    let keys: Vec<(Vec<u8>, u64)> = server.command("CACHE.TOP", &[count.as_bytes()])?;
    // What the fleet publishes is not what the application caches.
    Ok(keys
        .into_iter()
        .filter(|(key, _)| !key.starts_with(super::fleet::KEY.as_bytes()))
        .map(|(key, hits)| json!({"key": String::from_utf8_lossy(&key), "hits": hits}))
        .collect())
}

fn tags_by_memory(server: &Server, count: usize) -> RedisResult<Value> {
    let count = count.to_string();
    let args: [&[u8]; 4] = [b"BY", b"BYTES", b"LIMIT", count.as_bytes()];
    let tags: Vec<(Vec<u8>, u64, u64)> = server.command("CACHE.TAGTOP", &args)?;
    Ok(tags
        .into_iter()
        .filter(|(tag, ..)| tag != super::fleet::TAG.as_bytes())
        .map(|(tag, entries, bytes)| {
            json!({"tag": String::from_utf8_lossy(&tag), "entries": entries, "bytes": bytes})
        })
        .collect())
}

/// Runs a call that waits for the server where it holds up nothing else.
async fn blocking<T: FromRedisValue + Send + 'static>(
    call: impl FnOnce() -> RedisResult<T> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Problem::server(&error)),
        Err(error) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the command ended: {error}"),
        )),
    }
}
