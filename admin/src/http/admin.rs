//! The endpoint's parts and its routes.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::auth::Auth;
use super::limit::{ClientAddress, Limit, of_connection};
use super::names::{self, Turn};
use super::overview::Overview;
use super::problem::Problem;
use super::stats::{MemoryStats, memory_stats};
use super::stream::Streams;
use super::tiers::TwoTiers;
use super::{charts, control, guard, overview, page, profile, prometheus, stream};
use crate::memory::{LocalTier, MemoryMonitor, Server};
use tagcache::Cache;

/// Requests per minute that one caller may make: enough for the guide's load test (100 at once), not for a loop.
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(300).expect("it is not zero");

/// Settings of the endpoint; made by [`Admin::builder`].
pub struct Builder {
    monitor: Arc<MemoryMonitor>,
    auth: Auth,
    local: Option<Arc<dyn LocalTier>>,
    tiers: Option<Arc<dyn TwoTiers>>,
    server: Option<Server>,
    alerts: Option<Arc<crate::alerts::Alerts>>,
    instance: String,
    per_minute: NonZeroU32,
    client_address: Box<ClientAddress>,
}

impl Builder {
    /// The application's cache: its local tier is listed, its counts are shown, and clearing and invalidating go
    /// through it, to all its servers. Clearing drops the same entries as [`Cache::clear`], so those of its namespace
    /// only.
    #[must_use]
    pub fn cache<C: Send + Sync + 'static>(mut self, cache: Cache<C>) -> Self {
        let cache = Arc::new(cache);
        self.local = Some(Arc::<Cache<C>>::clone(&cache));
        self.tiers = Some(cache);
        self
    }

    /// The local tier of an application without a [`Cache`], to be listed, cleared and invalidated.
    #[must_use]
    pub fn local(mut self, local: Arc<dyn LocalTier>) -> Self {
        self.local = Some(local);
        self
    }

    /// The server to read top keys, tags and instances from. Without a [`Self::cache`] it is also cleared and
    /// invalidated.
    #[must_use]
    pub fn server(mut self, server: Server) -> Self {
        self.server = Some(server);
        self
    }

    /// Alerts to show.
    #[must_use]
    pub fn alerts(mut self, alerts: Arc<crate::alerts::Alerts>) -> Self {
        self.alerts = Some(alerts);
        self
    }

    /// Name of this process. Default `tagcache`.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }

    /// Requests per minute that one caller may make, also in one burst. Default 300.
    #[must_use]
    pub fn requests_per_minute(mut self, requests: NonZeroU32) -> Self {
        self.per_minute = requests;
        self
    }

    /// Returns a caller's address, by which the guessing of tokens is limited. By default it is the connection's:
    /// behind a proxy all callers have the proxy's address. Use a header here only if the proxy always overwrites it.
    ///
    /// ```
    /// # fn with(builder: tagcache_admin::http::Builder) -> tagcache_admin::http::Builder {
    /// builder.client_address(|request| request.headers.get("x-real-ip")?.to_str().ok()?.parse().ok())
    /// # }
    /// ```
    #[must_use]
    pub fn client_address(
        mut self,
        address: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.client_address = Box::new(address);
        self
    }

    /// Builds the endpoint.
    pub fn build(self) -> Admin {
        Admin(Arc::new(Inner {
            streams: Streams::of(&self.monitor),
            overview: Overview::default(),
            turn: Turn::default(),
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
    overview: Overview,
    turn: Turn,
    streams: Streams,
}

impl Admin {
    /// An endpoint that shows this monitor's figures to the callers that `auth` accepts.
    pub fn builder(monitor: Arc<MemoryMonitor>, auth: Auth) -> Builder {
        Builder {
            monitor,
            auth,
            local: None,
            tiers: None,
            server: None,
            alerts: None,
            instance: "tagcache".into(),
            per_minute: PER_MINUTE,
            client_address: Box::new(of_connection),
        }
    }

    /// Its routes, to be merged into an application's: see the [module](super). If the application serves with
    /// connection info, callers are also limited by address.
    pub fn router(&self) -> Router {
        let guarded = Router::new()
            .route("/metrics", get(prometheus::metrics))
            .route("/api/admin/memory-stats", get(stats))
            .route("/api/admin/memory-stats/stream", get(stream::stream))
            .route("/api/admin/overview", get(overview::overview))
            .route("/api/admin/entry", get(names::entry))
            .route("/api/admin/tag", get(names::tag))
            .route("/api/admin/charts/{name}", get(charts::chart))
            .route("/api/admin/cache/clear", post(control::clear))
            .route("/api/admin/cache/invalidate", post(control::invalidate))
            .route("/api/admin/heap-profile", post(profile::heap_profile))
            .method_not_allowed_fallback(method)
            .route_layer(middleware::from_fn_with_state(self.clone(), guard::guard));
        guarded
            .route("/", get(page::page))
            .route("/assets/dashboard.css", get(page::style))
            .route("/assets/{script}", get(page::script))
            .route("/healthz", get(async || "ok\n"))
            .method_not_allowed_fallback(method)
            .layer(middleware::map_response(guard::headers))
            .with_state(self.clone())
    }

    /// Ends the streams that are open and refuses new ones: for the shutdown of an application that mounts the router,
    /// which would otherwise wait for them forever. [`serve`](super::serve) does so by itself.
    pub fn end_streams(&self) {
        self.0.streams.end();
    }

    pub(super) fn monitor(&self) -> &MemoryMonitor {
        &self.0.parts.monitor
    }

    pub(super) fn local(&self) -> Option<&Arc<dyn LocalTier>> {
        self.0.parts.local.as_ref()
    }

    pub(super) fn tiers(&self) -> Option<&Arc<dyn TwoTiers>> {
        self.0.parts.tiers.as_ref()
    }

    pub(super) fn auth(&self) -> &Auth {
        &self.0.parts.auth
    }

    pub(super) fn limit(&self) -> &Limit {
        &self.0.limit
    }

    pub(super) fn client_address(&self, request: &Parts) -> Option<IpAddr> {
        (self.0.parts.client_address)(request)
    }

    pub(super) fn overview(&self) -> &Overview {
        &self.0.overview
    }

    pub(super) fn turn(&self) -> &Turn {
        &self.0.turn
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

    /// Shows a change at once instead of with the next sample.
    pub(super) fn changed(&self) {
        self.0.overview.outdate();
        let monitor = Arc::clone(&self.0.parts.monitor);
        tokio::task::spawn_blocking(move || monitor.sample_now());
    }

    /// Adds the rules' and channels' figures to the statistics.
    pub(super) fn add_alerts(&self, raw: &mut Value) {
        if let Some(alerts) = &self.0.parts.alerts {
            raw["alerts"] = serde_json::json!(alerts.rules());
            raw["channels"] = serde_json::json!(alerts.channels());
        }
    }

    /// The rules' states, if there are rules.
    pub(super) fn rules(&self) -> Vec<crate::alerts::RuleFigures> {
        let alerts = self.0.parts.alerts.as_ref();
        alerts.map(|alerts| alerts.rules()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.parts.fmt(f)
    }
}

async fn stats(State(admin): State<Admin>) -> Json<MemoryStats> {
    Json(memory_stats(&admin, &admin.monitor().snapshot()))
}

async fn method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Another method is needed")
}
