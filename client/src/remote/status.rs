//! The current state of a server.

use std::time::{Duration, Instant};

use super::connection::Greeting;
use super::error::Error;

/// The state of a server as this process sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerState {
    /// The first attempt to connect is under way.
    #[default]
    Connecting,
    /// Connected, tracked and subscribed.
    Up,
    /// Up, but it is a replica or cannot save: reads go on, writes and invalidations fail.
    ReadOnly,
    /// Up, but the last write found it out of memory: reads and invalidations go on.
    OutOfMemory,
    /// Not reached, not replying, or not able to serve (it loads its data, a script keeps it busy, it has no room for
    /// another client): [`ServerStatus::last_error`] has the reason. Retried all the time.
    Down,
    /// Reached, but it has no tagcache module; retried all the time.
    ModuleMissing,
    /// Reached, but its tagcache module is older than this client needs; retried all the time.
    ModuleTooOld,
    /// Reached, but the credentials or permissions do not suffice; retried all the time.
    Denied,
}

/// The state of one server, from [`Cache::stats`](crate::Cache::stats).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Host and port, or path of the socket.
    pub address: String,
    /// Its state.
    pub state: ServerState,
    /// How long it has been in this state.
    pub since: Duration,
    /// The last failure. It stays here when the server is up again: `state` is the current state.
    pub last_error: Option<Error>,
    /// How often a connection was set up.
    pub connects: u64,
    /// The version of its module; 0 if it was never reached.
    pub module_version: u64,
    /// Tags whose invalidation it has yet to be sent.
    pub missed_invalidations: usize,
}

impl ServerStatus {
    /// Whether there is a connection: reads go to the server, and its pushes keep the local tier up to date.
    pub fn is_connected(&self) -> bool {
        self.state.is_connected()
    }
}

impl ServerState {
    pub(crate) fn is_connected(self) -> bool {
        matches!(self, Self::Up | Self::ReadOnly | Self::OutOfMemory)
    }
}

/// The state of a server, and since when.
#[derive(Debug)]
pub(crate) struct Record {
    /// Without the times and the invalidations.
    known: ServerStatus,
    changed: Instant,
    /// When it last refused a write.
    refused: Option<Instant>,
    /// When a denied command was last logged.
    complained: Option<Instant>,
}

/// A server that takes some writes and refuses others, for example at its memory limit, keeps the state of one that
/// refuses: no change, and no event, per command.
const CALM: Duration = Duration::from_secs(1);
/// Pause between two events about denied commands.
const COMPLAIN: Duration = Duration::from_secs(60);

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            known: ServerStatus::default(),
            changed: Instant::now(),
            refused: None,
            complained: None,
        }
    }

    /// Records the error of a command if it concerns the server and not the call.
    pub(crate) fn refused(&mut self, error: &Error, connected: bool, address: &str) {
        let state = match error {
            Error::ReadOnly { .. } => ServerState::ReadOnly,
            Error::OutOfMemory { .. } => ServerState::OutOfMemory,
            Error::Denied { .. } | Error::ModuleTooOld { .. } | Error::Unavailable { .. } => {
                // It serves other commands, so its state stays.
                if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
                    self.complained = Some(Instant::now());
                    crate::observe::event!(
                        warn,
                        "command refused",
                        server = address,
                        error = error
                    );
                }
                self.known.last_error = Some(error.clone());
                return;
            }
            _ => return,
        };
        self.refused = Some(Instant::now());
        self.known.last_error = Some(error.clone());
        if connected {
            self.enter(state, address);
        }
    }

    pub(crate) fn status(&self, address: String, missed_invalidations: usize) -> ServerStatus {
        ServerStatus {
            address,
            since: self.changed.elapsed(),
            missed_invalidations,
            ..self.known.clone()
        }
    }

    pub(crate) fn trouble(&self) -> Option<Error> {
        let last = self.known.last_error.clone();
        last.filter(Error::is_server_trouble)
    }

    /// Whether a write that succeeded shows that the server takes writes again.
    pub(crate) fn may_recover(&self) -> bool {
        let calm = self.refused.is_none_or(|refused| refused.elapsed() >= CALM);
        calm && matches!(
            self.known.state,
            ServerState::ReadOnly | ServerState::OutOfMemory
        )
    }

    pub(crate) fn enter(&mut self, state: ServerState, address: &str) {
        if self.known.state != state {
            let from = std::mem::replace(&mut self.known.state, state);
            self.changed = Instant::now();
            crate::observe::server_state(address, from, state, self.known.last_error.as_ref());
        }
    }

    pub(crate) fn connected(&mut self, greeting: &Greeting, state: ServerState, address: &str) {
        self.known.connects += 1;
        self.known.module_version = greeting.module_version;
        self.enter(state, address);
    }

    pub(crate) fn failed(&mut self, error: &Error, address: &str) {
        let state = match error {
            Error::ModuleMissing { .. } => ServerState::ModuleMissing,
            Error::ModuleTooOld { .. } => ServerState::ModuleTooOld,
            Error::Denied { .. } => ServerState::Denied,
            _ => ServerState::Down,
        };
        self.known.last_error = Some(error.clone());
        self.enter(state, address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_state_lasts_for_some_time() {
        let full = || Error::OutOfMemory {
            node: "server".to_owned(),
            message: "OOM".to_owned(),
        };
        let mut record = Record::new();
        record.enter(ServerState::Up, "server");
        assert!(!record.may_recover(), "it is up");
        record.refused(&full(), true, "server");
        assert_eq!(record.known.state, ServerState::OutOfMemory);
        assert!(!record.may_recover(), "it has only just refused a write");
        record.refused = Instant::now().checked_sub(CALM);
        assert!(record.may_recover());
    }

    #[test]
    fn refusal_during_an_outage_does_not_mean_connected() {
        let mut record = Record::new();
        let error = Error::ReadOnly {
            node: "server".to_owned(),
            message: "READONLY".to_owned(),
        };
        record.refused(&error, false, "server");
        assert_eq!(record.known.state, ServerState::Connecting);
        assert!(record.known.last_error.is_some());
    }
}
