//! The endpoint on a port of its own: tests which callers it serves and which it refuses.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tagcache_admin::http::{Admin, Auth};
use tagcache_admin::memory::{MemoryMonitor, Server, ServerMemory, Subject};

use super::Check;
use crate::load::Client;
use crate::output::Failure;
use crate::token;

/// The fields that the guide's test script reads.
const FIELDS: [&str; 8] = [
    "/status",
    "/memory/heapUsed",
    "/memory/heapTotal",
    "/memory/heapPercent",
    "/memory/rss",
    "/cache/local/totalEntries",
    "/cache/redis/keyCount",
    "/timestamp",
];

pub(super) fn checks(server: &Server) -> Result<Vec<Check>, Failure> {
    let token = token::random()?;
    let failed = |error: &dyn std::fmt::Display| Failure::Because(error.to_string());
    let monitor = MemoryMonitor::builder(ServerMemory::new(server.clone(), Subject::Server))
        .interval(Duration::from_millis(100))
        .start()
        .map_err(|error| failed(&error))?;
    let auth = Auth::bearer(&token).map_err(|error| failed(&error))?;
    let admin = Admin::builder(Arc::new(monitor), auth)
        .server(server.clone())
        .build();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
    let url = format!("http://{}", listener.local_addr()?);
    runtime.spawn(tagcache_admin::http::serve(
        listener,
        admin,
        std::future::pending(),
    ));

    let checks = vec![
        Check::of(
            "Memory monitoring dashboard functional",
            functional(&Client::new(&url, Some(token))),
        ),
        Check::of(
            "Memory monitoring API secured with authentication",
            secured(&url),
        ),
    ];
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(checks)
}

fn functional(client: &Client) -> Result<String, String> {
    let get = |path: &str| match client.get(path) {
        Ok((200, body)) => Ok(body),
        Ok((status, _)) => Err(format!("{path}: status {status}")),
        Err(why) => Err(format!("{path}: {why}")),
    };
    let page = get("/")?;
    if !page.contains("Memory Usage") {
        return Err("the page has no widget".into());
    }
    get("/assets/dashboard.js")?;
    get("/assets/dashboard.css")?;
    get("/metrics")?;
    let stats: Value = serde_json::from_str(&get("/api/admin/memory-stats")?)
        .map_err(|error| error.to_string())?;
    if let Some(missing) = FIELDS
        .iter()
        .find(|field| stats.pointer(field).is_none_or(Value::is_null))
    {
        return Err(format!("memory-stats has no {missing}"));
    }
    if stats["cache"]["redis"]["connected"] != true {
        return Err("memory-stats says that Redis is disconnected".into());
    }
    Ok(format!(
        "status {}, heap {}",
        stats["status"], stats["memory"]["heapPercent"]
    ))
}

fn secured(url: &str) -> Result<String, String> {
    let paths = [
        "/api/admin/memory-stats",
        "/api/admin/memory-stats/stream",
        "/api/admin/overview",
        "/metrics",
    ];
    for token in [None, Some("not-the-token-at-all".to_owned())] {
        let client = Client::new(url, token);
        for path in paths {
            match client.get(path) {
                Ok((401, _)) => {}
                Ok((status, _)) => {
                    return Err(format!("{path} answers {status} without the token"));
                }
                Err(why) => return Err(format!("{path}: {why}")),
            }
        }
    }
    Ok("401 without a token and with a wrong one".into())
}
