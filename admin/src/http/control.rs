//! Routes that change the cache: the application's own cache if there is one, otherwise the server that is watched.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use redis::RedisResult;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::Admin;
use super::problem::Problem;
use super::tiers::Invalidation;
use crate::memory::Server;

/// Time within which a request's body must arrive.
const BODY: Duration = Duration::from_secs(10);

type Answer = Result<Json<Value>, Problem>;

/// Drops every entry: on the server first, so that the local tier is not filled again with the old entries.
pub(super) async fn clear(State(admin): State<Admin>) -> Answer {
    let held = admin.local().map(|local| local.figures().entries);
    let server = if let Some(tiers) = admin.tiers() {
        Some(tiers.clear().await.map_err(|error| Problem::cache(&error)))
    } else if let Some(server) = admin.server().cloned() {
        Some(blocking(move || server.command::<u64>("CACHE.FLUSH", &[])).await)
    } else {
        None
    };
    let server = server.transpose()?;
    if let (Some(local), None) = (admin.local(), admin.tiers()) {
        local.drop_all();
    }
    admin.changed();
    Ok(Json(json!({"cleared": {"local": held, "redis": server}})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invalidate {
    tags: Vec<String>,
    /// Entries turn stale instead of being removed.
    #[serde(default)]
    soft: bool,
}

pub(super) async fn invalidate(State(admin): State<Admin>, request: Request) -> Answer {
    let Invalidate { tags, soft } = body(request).await?;
    let kind = if soft {
        Invalidation::Soft
    } else {
        Invalidation::Hard
    };
    let dropped = if let Some(tiers) = admin.tiers() {
        let dropped = tiers.invalidate(kind, &tags).await;
        Some(dropped.map_err(|error| Problem::cache(&error))?)
    } else {
        let dropped = match admin.server().cloned() {
            Some(server) => Some(on_server(server, kind, tags.clone()).await?),
            None => None,
        };
        if let Some(local) = admin.local() {
            local.drop_tagged(&tags);
        }
        dropped
    };
    admin.changed();
    Ok(Json(json!({"invalidated": dropped})))
}

async fn body(request: Request) -> Result<Invalidate, Problem> {
    let body = tokio::time::timeout(BODY, Json::<Invalidate>::from_request(request, &())).await;
    let Json(body) = body
        .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "The body took too long"))?
        .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    if body.tags.is_empty() {
        let why = "`tags` names no tag";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why));
    }
    Ok(body)
}

async fn on_server(server: Server, kind: Invalidation, tags: Vec<String>) -> Result<u64, Problem> {
    let command = match kind {
        Invalidation::Hard => "CACHE.INVALIDATE",
        Invalidation::Soft => "CACHE.REVALIDATE",
    };
    blocking(move || {
        let args: Vec<&[u8]> = tags.iter().map(String::as_bytes).collect();
        server.command(command, &args)
    })
    .await
}

/// Runs a blocking call on a thread where it blocks no async task.
pub(super) async fn blocking<T: Send + 'static>(
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
