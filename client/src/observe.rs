//! Observability: `tracing` events, `metrics` counts and times. Without these features the functions are empty.
#![cfg_attr(
    not(all(feature = "tracing", feature = "metrics")),
    allow(unused_variables, clippy::missing_const_for_fn)
)]

use std::time::Duration;

use redis::Cmd;

use crate::remote::{Error, ServerState};

/// An event with its level, its text and its fields.
macro_rules! event {
    ($level:ident, $text:literal $(, $field:ident = $value:expr)*) => {
        #[cfg(feature = "tracing")]
        tracing::$level!($($field = %$value,)* $text);
        #[cfg(not(feature = "tracing"))]
        let _ = ($(&$value,)*);
    };
}
pub(crate) use event;

/// Executes a command in a span of its own.
pub(crate) fn in_command<F: Future>(cmd: &Cmd, future: F) -> impl Future<Output = F::Output> {
    #[cfg(feature = "tracing")]
    return tracing::Instrument::instrument(
        future,
        // Only the name, neither key nor value.
        tracing::debug_span!("command", name = %name(cmd)),
    );
    #[cfg(not(feature = "tracing"))]
    future
}

/// Runs a loader in a span of its own. Call it in the span of the caller that loads.
pub(crate) fn in_load<F: Future>(key: &str, future: F) -> impl Future<Output = F::Output> + use<F> {
    #[cfg(feature = "tracing")]
    return tracing::Instrument::instrument(future, tracing::info_span!("load", key));
    #[cfg(not(feature = "tracing"))]
    future
}

/// Takes the caller's span into another task.
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

/// Registers the metrics with their descriptions and units.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    {
        use metrics::Unit::{Bytes, Count, Seconds};
        let connected = "1 while there is a connection to this server";
        for (gauge, unit, text) in [
            ("tagcache_client_server_connected", Count, connected),
            ("tagcache_local_entries", Count, "Entries in the local tier"),
            ("tagcache_local_bytes", Bytes, "Weight of the local tier"),
        ] {
            metrics::describe_gauge!(gauge, unit, text);
        }
        let missed = "Invalidations that have to be sent to a server again";
        metrics::describe_counter!("tagcache_client_invalidations_missed_total", Count, missed);
        let command = "Time from a command to its reply, as measured by this client";
        for (histogram, text) in [
            ("tagcache_client_load_seconds", "How long loaders take"),
            ("tagcache_client_command_seconds", command),
        ] {
            metrics::describe_histogram!(histogram, Seconds, text);
        }
    }
}

/// Whether a server can be reached: recorded at each change, and periodically for a recorder that is installed later.
pub(crate) fn connected(address: &str, is_connected: bool) {
    #[cfg(feature = "metrics")]
    {
        let server = address.to_owned();
        let up = if is_connected { 1.0 } else { 0.0 };
        metrics::gauge!("tagcache_client_server_connected", "server" => server).set(up);
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
        (ServerState::Up, _) | (_, None | Some(Error::Closed)) => {
            tracing::info!(server = address, ?from, ?to, "server state");
        }
        (_, Some(error)) => tracing::warn!(server = address, ?from, ?to, %error, "server state"),
    }
    connected(address, to.is_connected());
}

/// A server that was counted does not belong to this cache any more.
pub(crate) fn server_left(address: &str) {
    event!(info, "server left", server = address);
    connected(address, false);
}

/// Some servers have yet to be sent an invalidation.
pub(crate) fn invalidation_missed(servers: &[String], retried: bool, reason: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(?servers, retried, %reason, "invalidation missed");
    #[cfg(feature = "metrics")]
    metrics::counter!("tagcache_client_invalidations_missed_total").increment(servers.len() as u64);
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

/// A command ended, with or without a reply.
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
