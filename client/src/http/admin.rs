//! The endpoint's parts and its routes.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::auth::{Access, Auth};
use super::limit::Limit;
use super::problem::Problem;
use super::stats::memory_stats;
use super::stream::Streams;
use super::{charts, control, page, profile, prometheus, stream};
use crate::memory::{LocalTier, MemoryMonitor, Server};

/// Requests a minute that one caller may make: the guide's load test (100 at once) passes, a loop does not.
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(300).unwrap();

/// How the endpoint is put together; made by [`Admin::builder`].
pub struct Builder {
    monitor: Arc<MemoryMonitor>,
    auth: Auth,
    local: Option<Arc<dyn LocalTier>>,
    server: Option<Server>,
    #[cfg(feature = "alerts")]
    alerts: Option<Arc<crate::alerts::Alerts>>,
    instance: String,
    per_minute: NonZeroU32,
}

impl Builder {
    /// The local tier, to be listed, cleared and invalidated.
    #[must_use]
    pub fn local(mut self, local: Arc<dyn LocalTier>) -> Self {
        self.local = Some(local);
        self
    }

    /// The server, to be looked into, cleared and invalidated.
    #[must_use]
    pub fn server(mut self, server: Server) -> Self {
        self.server = Some(server);
        self
    }

    /// Alerts to show.
    #[cfg(feature = "alerts")]
    #[must_use]
    pub fn alerts(mut self, alerts: Arc<crate::alerts::Alerts>) -> Self {
        self.alerts = Some(alerts);
        self
    }

    /// What this process is called. Default `tagcache`.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }

    /// Requests a minute that one caller may make, in a burst too. Default 300.
    #[must_use]
    pub fn requests_per_minute(mut self, requests: NonZeroU32) -> Self {
        self.per_minute = requests;
        self
    }

    /// Puts it together.
    pub fn build(self) -> Admin {
        Admin(Arc::new(Inner {
            streams: Streams::of(&self.monitor),
            limit: Limit::new(self.per_minute),
            parts: self,
        }))
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("auth", &self.auth)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// The admin endpoint. Clones are the same endpoint.
#[derive(Clone, Debug)]
pub struct Admin(Arc<Inner>);

struct Inner {
    parts: Builder,
    limit: Limit,
    streams: Streams,
}

impl Admin {
    /// An endpoint that shows this monitor's figures to whom `auth` lets in.
    pub fn builder(monitor: Arc<MemoryMonitor>, auth: Auth) -> Builder {
        Builder {
            monitor,
            auth,
            local: None,
            server: None,
            #[cfg(feature = "alerts")]
            alerts: None,
            instance: "tagcache".into(),
            per_minute: PER_MINUTE,
        }
    }

    /// Its routes, to be merged into an application's: see the [module](super). Where the application serves with
    /// connection info, callers are also limited by address.
    pub fn router(&self) -> Router {
        let guarded = Router::new()
            .route("/metrics", get(prometheus::metrics))
            .route("/api/admin/memory-stats", get(stats))
            .route("/api/admin/memory-stats/stream", get(stream::stream))
            .route("/api/admin/overview", get(control::overview))
            .route("/api/admin/charts/{name}", get(charts::chart))
            .route("/api/admin/cache/clear", post(control::clear))
            .route("/api/admin/cache/invalidate", post(control::invalidate))
            .route("/api/admin/heap-profile", post(profile::heap_profile))
            .method_not_allowed_fallback(async || {
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Another method is needed")
            })
            .route_layer(middleware::from_fn_with_state(self.clone(), guard));
        guarded
            .route("/", get(page::page))
            .route("/assets/dashboard.css", get(page::style))
            .route("/assets/dashboard.js", get(page::script))
            .route("/healthz", get(async || "ok\n"))
            .layer(middleware::map_response(no_sniff))
            .with_state(self.clone())
    }

    pub(super) fn monitor(&self) -> &MemoryMonitor {
        &self.0.parts.monitor
    }

    pub(super) fn local(&self) -> Option<&Arc<dyn LocalTier>> {
        self.0.parts.local.as_ref()
    }

    pub(super) fn server(&self) -> Option<&Server> {
        self.0.parts.server.as_ref()
    }

    pub(super) fn instance(&self) -> &str {
        &self.0.parts.instance
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    pub(super) fn is_insecure(&self) -> bool {
        self.0.parts.auth.is_insecure()
    }

    /// Shows a change at once instead of with the next sample.
    pub(super) fn sample_soon(&self) {
        let monitor = Arc::clone(&self.0.parts.monitor);
        tokio::task::spawn_blocking(move || monitor.sample_now());
    }

    /// Adds the rules' and channels' figures to the statistics.
    #[cfg_attr(not(feature = "alerts"), allow(clippy::unused_self))]
    pub(super) fn add_alerts(&self, raw: &mut Value) {
        #[cfg(feature = "alerts")]
        if let Some(alerts) = &self.0.parts.alerts {
            raw["alerts"] = serde_json::json!(alerts.rules());
            raw["channels"] = serde_json::json!(alerts.channels());
        }
        #[cfg(not(feature = "alerts"))]
        let _ = raw;
    }

    /// Adds the rules' states to the metrics.
    #[cfg_attr(not(feature = "alerts"), allow(clippy::unused_self))]
    pub(super) fn write_alert_metrics(&self, text: &mut String) {
        #[cfg(feature = "alerts")]
        if let Some(alerts) = &self.0.parts.alerts {
            use std::fmt::Write as _;
            let name = "tagcache_alert_firing";
            let _ = write!(
                text,
                "# HELP {name} 1 while the rule's condition holds.\n# TYPE {name} gauge\n"
            );
            for rule in alerts.rules() {
                let firing = u8::from(rule.state == "firing");
                let rule_name = prometheus::label(&rule.name);
                let _ = writeln!(
                    text,
                    "{name}{{alert=\"{rule_name}\",severity=\"{}\"}} {firing}",
                    rule.severity
                );
            }
        }
        #[cfg(not(feature = "alerts"))]
        let _ = text;
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.parts.fmt(f)
    }
}

async fn stats(State(admin): State<Admin>) -> Json<Value> {
    Json(memory_stats(&admin, &admin.monitor().snapshot()))
}

/// Address, caller, access: in this order, so that guessing tokens is limited too.
async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let inner = &admin.0;
    let needed = if parts.method == Method::GET || parts.method == Method::HEAD {
        Access::Read
    } else {
        Access::Admin
    };
    let let_in = || {
        inner.limit.address(&parts)?;
        let caller = inner.parts.auth.check(&parts, needed)?;
        inner.limit.caller(&caller.name)
    };
    let mut response = match let_in() {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => problem.into_response(),
    };
    // Figures of an admin endpoint belong into nobody's cache.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn no_sniff(mut response: Response) -> Response {
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
