//! What operators see: events through `tracing`, counts and times through `metrics`. Without these features the
//! functions are empty.
#![cfg_attr(
    not(all(feature = "tracing", feature = "metrics")),
    allow(unused_variables, clippy::missing_const_for_fn)
)]

use std::time::Duration;

use crate::remote::{Error, ServerState};

/// A server changed its state as seen from here.
pub(crate) fn server_state(
    address: &str,
    from: ServerState,
    to: ServerState,
    error: Option<&Error>,
) {
    #[cfg(feature = "tracing")]
    match (to, error) {
        (ServerState::Up, _) | (_, None) => {
            tracing::info!(server = address, ?from, ?to, "server state");
        }
        (_, Some(error)) => tracing::warn!(server = address, ?from, ?to, %error, "server state"),
    }
    #[cfg(feature = "metrics")]
    {
        let up = if to == ServerState::Up { 1.0 } else { 0.0 };
        metrics::gauge!("tagcache_server_up", "server" => address.to_owned()).set(up);
    }
}

/// The local tier was emptied.
pub(crate) fn local_tier_dropped(why: &'static str) {
    #[cfg(feature = "tracing")]
    tracing::info!(why, "local tier dropped");
}

/// Some servers have yet to be told of an invalidation.
pub(crate) fn invalidation_missed(servers: &[String], retried: bool) {
    #[cfg(feature = "tracing")]
    tracing::warn!(?servers, retried, "invalidation missed");
    #[cfg(feature = "metrics")]
    metrics::counter!("tagcache_invalidations_missed_total").increment(servers.len() as u64);
}

/// A server refused, for good, an invalidation that it had missed.
pub(crate) fn invalidation_refused(server: &str, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::error!(server, %error, "missed invalidation refused");
}

/// A node of a cluster does not say which nodes there are.
pub(crate) fn no_topology(server: &str, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(server, %error, "no topology");
}

/// A loader ended.
pub(crate) fn loaded(key: &str, took: Duration, error: Option<&Error>) {
    #[cfg(feature = "tracing")]
    match error {
        None => tracing::debug!(key, ?took, "loaded"),
        Some(error) => tracing::warn!(key, ?took, %error, "load failed"),
    }
    #[cfg(feature = "metrics")]
    {
        let outcome = if error.is_none() { "loaded" } else { "failed" };
        metrics::histogram!("tagcache_load_seconds", "outcome" => outcome)
            .record(took.as_secs_f64());
    }
}

/// A command was answered, or not.
pub(crate) fn command(name: &'static str, took: Duration, error: Option<&Error>) {
    #[cfg(feature = "tracing")]
    match error {
        None => tracing::trace!(command = name, ?took, "command"),
        Some(error) => tracing::debug!(command = name, ?took, %error, "command failed"),
    }
    #[cfg(feature = "metrics")]
    {
        let outcome = if error.is_none() { "ok" } else { "failed" };
        metrics::histogram!("tagcache_command_seconds", "command" => name, "outcome" => outcome)
            .record(took.as_secs_f64());
    }
}
