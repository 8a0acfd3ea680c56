//! What operators see: events through `tracing`, counts and times through `metrics`. Without these features the
//! functions are empty.
#![cfg_attr(
    not(all(feature = "tracing", feature = "metrics")),
    allow(unused_variables, clippy::missing_const_for_fn)
)]

use std::time::Duration;

use redis::Cmd;

#[cfg(feature = "metrics")]
use crate::remote::ServerStatus;
use crate::remote::{Error, ServerState};

/// Lets a command be executed in a span of its own.
pub(crate) fn in_command<F: Future>(cmd: &Cmd, future: F) -> impl Future<Output = F::Output> {
    #[cfg(feature = "tracing")]
    return tracing::Instrument::instrument(
        future,
        // Neither key nor value: only the name.
        tracing::debug_span!("command", name = %name(cmd)),
    );
    #[cfg(not(feature = "tracing"))]
    future
}

/// Lets a loader run in a span of its own. To be called in the span of who loads.
pub(crate) fn in_load<F: Future>(key: &str, future: F) -> impl Future<Output = F::Output> + use<F> {
    #[cfg(feature = "tracing")]
    return tracing::Instrument::instrument(future, tracing::info_span!("load", key));
    #[cfg(not(feature = "tracing"))]
    future
}

/// Takes the caller's span along into another task.
pub(crate) fn in_caller<F: Future>(future: F) -> impl Future<Output = F::Output> {
    #[cfg(feature = "tracing")]
    return tracing::Instrument::in_current_span(future);
    #[cfg(not(feature = "tracing"))]
    future
}

#[cfg(feature = "tracing")]
fn name(cmd: &Cmd) -> String {
    match cmd.args_iter().next() {
        Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
        _ => String::new(),
    }
}

/// Says what is counted and measured, and in which unit.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    {
        use metrics::Unit::{Bytes, Count, Seconds};
        metrics::describe_gauge!(
            "tagcache_client_server_connected",
            Count,
            "1 while there is a connection to this server"
        );
        metrics::describe_counter!(
            "tagcache_client_invalidations_missed_total",
            Count,
            "Invalidations that a server has to be told again"
        );
        metrics::describe_histogram!(
            "tagcache_client_load_seconds",
            Seconds,
            "How long loaders take"
        );
        metrics::describe_histogram!(
            "tagcache_client_command_seconds",
            Seconds,
            "How long servers take to answer, as seen from here"
        );
        metrics::describe_gauge!("tagcache_local_entries", Count, "Entries in the local tier");
        metrics::describe_gauge!("tagcache_local_bytes", Bytes, "Weight of the local tier");
    }
}

/// Says of each server whether it can be reached: also to a recorder that came later than the last change.
#[cfg(feature = "metrics")]
pub(crate) fn servers(servers: &[ServerStatus]) {
    for server in servers {
        let up = if server.is_connected() { 1.0 } else { 0.0 };
        metrics::gauge!("tagcache_client_server_connected", "server" => server.address.clone())
            .set(up);
    }
}

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
        let up = if to.is_connected() { 1.0 } else { 0.0 };
        metrics::gauge!("tagcache_client_server_connected", "server" => address.to_owned()).set(up);
    }
}

/// The local tier was emptied.
pub(crate) fn local_tier_dropped(why: &'static str) {
    #[cfg(feature = "tracing")]
    tracing::info!(why, "local tier dropped");
}

/// A server that counted is none of ours any more.
pub(crate) fn server_left(address: &str) {
    #[cfg(feature = "tracing")]
    tracing::info!(server = address, "server left");
    #[cfg(feature = "metrics")]
    metrics::gauge!("tagcache_client_server_connected", "server" => address.to_owned()).set(0.0);
}

/// A server that serves otherwise denies a command, or does not know it.
pub(crate) fn command_refused(server: &str, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(server, %error, "command refused");
}

/// Some servers have yet to be told of an invalidation.
pub(crate) fn invalidation_missed(servers: &[String], retried: bool, reason: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(?servers, retried, %reason, "invalidation missed");
    #[cfg(feature = "metrics")]
    metrics::counter!("tagcache_client_invalidations_missed_total").increment(servers.len() as u64);
}

/// A server refused, for good, an invalidation that it had missed.
pub(crate) fn invalidation_refused(server: &str, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::error!(server, %error, "missed invalidation refused");
}

/// The cache is dropped before servers were told so many tags that they had missed.
pub(crate) fn invalidations_lost(tags: usize) {
    #[cfg(feature = "tracing")]
    tracing::error!(tags, "missed invalidations lost");
}

/// A node of a cluster does not say which nodes there are; others are asked.
pub(crate) fn no_topology(error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::debug!(%error, "no topology");
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
        metrics::histogram!("tagcache_client_load_seconds", "outcome" => outcome)
            .record(took.as_secs_f64());
    }
}

/// A server began anew, and may have lost invalidations: they are sent again; where not all of them are remembered,
/// the whole namespace is invalidated.
pub(crate) fn lineage_changed(server: &str, forgotten: bool) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        server,
        forgotten,
        "server began anew, recent invalidations are sent again"
    );
}

/// A loaded value went to its callers and was not stored.
pub(crate) fn not_stored(key: &str, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(key, %error, "loaded value not stored");
}

/// What a server holds cannot be decoded as the type that was asked for.
pub(crate) fn undecodable(key: &str, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(key, %error, "value cannot be decoded");
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
        metrics::histogram!("tagcache_client_command_seconds", "command" => name, "outcome" => outcome)
            .record(took.as_secs_f64());
    }
}
