//! Operations for the [`tagcache`] cache: figures and controls for an operator, in the application's own process or
//! beside the server.
//!
//! - [`http`]: the admin endpoint with memory statistics, cache control, Prometheus metrics and the dashboard, as a
//!   router to mount or to serve;
//! - [`alerts`]: rules over the figures, and the channels their messages go to;
//! - [`memory`]: a server's figures and the table of metrics, in addition to [`tagcache::memory`].
//!
//! The program `tagcache` (feature `cli`, on by default) starts and watches servers with all of these parts. An
//! application that mounts the endpoint needs only the library: `default-features = false`.
#![forbid(unsafe_code)]

pub mod alerts;
pub mod http;
pub mod memory;
