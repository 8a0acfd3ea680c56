//! The admin endpoint: memory statistics, cache control, metrics and the dashboard, as an [`axum::Router`] to mount
//! or to [`serve`].
//!
//! | | |
//! |---|---|
//! | `GET /` | the dashboard; holds no data itself, so it needs no authorisation |
//! | `GET /healthz` | 200 while the process responds; no authorisation |
//! | `GET /metrics` | Prometheus text of process, local tier and server |
//! | `GET /api/admin/memory-stats` | the statistics; `admin/schema/memory-stats.schema.json` describes them |
//! | `GET /api/admin/memory-stats/stream` | the same as server-sent events `stats`, one per sample |
//! | `GET /api/admin/overview` | top keys, tags by memory, instances |
//! | `GET /api/admin/entry?key=…` | the reply of CACHE.INSPECT for an entry; 404 if there is none |
//! | `GET /api/admin/tag?tag=…` | the reply of CACHE.TAGINFO for a tag, and a page of its keys; `cursor=…` for the next one |
//! | `GET /api/admin/charts/{name}` | SVG over the samples that are kept, or with `range=15m`, `1h` or `6h` those of this time: `memory`, `hit-rate`, `invalidations`, `backlog`; the values are in its `metadata` |
//! | `POST /api/admin/cache/clear` | drops every entry of both tiers; through a [`Builder::cache`] those of its namespace, on all its servers |
//! | `POST /api/admin/cache/invalidate` | drops the entries that carry a tag: `{"tags": ["tenant:7"], "soft": false}` |
//! | `POST /api/admin/heap-profile` | pprof of this process's heap; with the feature `jemalloc` |
//!
//! Errors are `application/problem+json` (RFC 9457); [`serve`] responds 404 to everything else. Requests are limited
//! per caller ([`Builder::requests_per_minute`]); beyond that the response is 429 with `Retry-After`.
//!
//! ```no_run
//! use std::sync::Arc;
//! use tagcache_admin::http::{Admin, Auth};
//! use tagcache_admin::memory::{MemoryMonitor, ProcessSource, Server};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::open("redis://127.0.0.1:6379/")?;
//! let source = ProcessSource::default().server(server.reader());
//! let monitor = Arc::new(MemoryMonitor::builder(source).start()?);
//! let admin = Admin::builder(monitor, Auth::bearer(&std::env::var("ADMIN_TOKEN")?)?)
//!     .server(server)
//!     .build();
//! let application = axum::Router::new().merge(admin.router());
//! # Ok(())
//! # }
//! ```

mod admin;
mod auth;
mod charts;
mod control;
mod fleet;
mod guard;
mod limit;
mod names;
mod overview;
mod page;
mod problem;
mod profile;
mod prometheus;
mod serve;
mod stats;
mod stream;
mod tiers;

pub use admin::{Admin, Builder};
pub use auth::{Access, Auth, AuthError, Caller, Denied};
pub use fleet::{Fleet, Instance};
pub use serve::{ServeError, serve};
