//! Reads from the server for the dashboard: top keys, tags by memory, instances.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use redis::RedisResult;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::admin::Admin;
use super::fleet::{self, MAX_INSTANCES};
use super::names::query;
use super::problem::Problem;
use crate::memory::Server;

/// Number of keys and tags that are listed.
const LISTED: usize = 12;
/// One result serves all callers for this long.
const FRESH: Duration = Duration::from_secs(1);

/// The last result. A caller that asks during a read waits for that read: if the server does not reply, reads must not
/// pile up, and the monitor's samples behind them.
#[derive(Default)]
pub(super) struct Overview {
    last: Arc<Mutex<Option<Look>>>,
    /// Number of changes made through the endpoint; a result from before the last change is outdated.
    changes: Arc<AtomicU64>,
}

struct Look {
    at: Instant,
    changes: u64,
    seen: Value,
}

impl Overview {
    pub(super) fn outdate(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    async fn see(&self, server: Server) -> Result<Value, tokio::task::JoinError> {
        let (last, counter) = (Arc::clone(&self.last), Arc::clone(&self.changes));
        // A task of its own, so that a read does not end with the caller that began it.
        tokio::spawn(async move {
            let mut last = last.lock().await;
            let changes = counter.load(Ordering::Relaxed);
            if let Some(look) = &*last
                && look.at.elapsed() < FRESH
                && look.changes == changes
            {
                return Ok(look.seen.clone());
            }
            let seen = tokio::task::spawn_blocking(move || look_into(&server)).await?;
            *last = Some(Look {
                at: Instant::now(),
                changes,
                seen: seen.clone(),
            });
            Ok(seen)
        })
        .await?
    }
}

/// A part that the server does not return is null.
pub(super) async fn overview(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let Some(server) = admin.server().cloned() else {
        return Ok(Json(
            json!({"topKeys": null, "tags": null, "instances": null}),
        ));
    };
    let seen = admin.overview().see(server).await.map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the look-up ended: {error}"),
        )
    })?;
    Ok(Json(seen))
}

fn look_into(server: &Server) -> Value {
    let mut away = false;
    let mut ask = |look: fn(&Server) -> RedisResult<Value>| {
        if away {
            return None;
        }
        let answer = look(server);
        // A refusal concerns one command. A server that did not reply to one command will not reply to the next one
        // either.
        away = answer.as_ref().is_err_and(|error| error.code().is_none());
        answer.ok()
    };
    json!({
        "topKeys": ask(top_keys),
        "tags": ask(tags_by_memory),
        "instances": ask(|server| Ok(json!(fleet::instances(server)?))),
    })
}

fn top_keys(server: &Server) -> RedisResult<Value> {
    // Every read of the instances hits their entries, which are not entries of the application.
    let count = (LISTED + MAX_INSTANCES).to_string();
    let keys: Vec<(Vec<u8>, u64)> = server.command("CACHE.TOP", &[count.as_bytes()])?;
    Ok(keys
        .into_iter()
        .filter(|(key, _)| !key.starts_with(fleet::KEY.as_bytes()))
        .take(LISTED)
        .map(|(key, hits)| json!({"key": String::from_utf8_lossy(&key), "query": query(&key), "hits": hits}))
        .collect())
}

fn tags_by_memory(server: &Server) -> RedisResult<Value> {
    let count = (LISTED + 1).to_string();
    let args: [&[u8]; 4] = [b"BY", b"BYTES", b"LIMIT", count.as_bytes()];
    let tags: Vec<(Vec<u8>, u64, u64)> = server.command("CACHE.TAGTOP", &args)?;
    Ok(tags
        .into_iter()
        .filter(|(tag, ..)| tag != fleet::TAG.as_bytes())
        .take(LISTED)
        .map(|(tag, entries, bytes)| {
            json!({"tag": String::from_utf8_lossy(&tag), "query": query(&tag), "entries": entries, "bytes": bytes})
        })
        .collect())
}
