//! What is known of a server at this moment.

use std::time::{Duration, Instant};

use super::connection::Greeting;
use super::error::Error;

/// The state of a server as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerState {
    /// The first attempt to connect is under way.
    Connecting,
    /// Connected, tracked and subscribed.
    Up,
    /// Up, but it is a replica or cannot save: reads go on, writes and invalidations fail.
    ReadOnly,
    /// Up, but the last write found it out of memory: reads and invalidations go on.
    OutOfMemory,
    /// Not reached, or not answering; retried all the time.
    Down,
    /// Reached, but it has no tagcache module; retried all the time.
    ModuleMissing,
    /// Reached, but its tagcache module is older than this client needs; retried all the time.
    ModuleTooOld,
    /// Reached, but the credentials or permissions do not suffice; retried all the time.
    Denied,
}

/// What [`Cache::stats`](crate::Cache::stats) says about one server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Host and port, or path of the socket.
    pub address: String,
    /// Its state.
    pub state: ServerState,
    /// How long it has been so.
    pub since: Duration,
    /// What the last failure said; kept after it healed.
    pub last_error: Option<Error>,
    /// How often a connection was set up.
    pub connects: u64,
    /// What its module calls its version; 0 if it was never reached.
    pub module_version: u64,
    /// Tags whose invalidation it has yet to be told.
    pub missed_invalidations: usize,
}

impl ServerStatus {
    /// Whether there is a connection: reads go to the server, and the local tier is kept true.
    pub fn is_connected(&self) -> bool {
        matches!(
            self.state,
            ServerState::Up | ServerState::ReadOnly | ServerState::OutOfMemory
        )
    }
}

/// The part of it that a node keeps.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) state: ServerState,
    pub(crate) changed: Instant,
    pub(crate) last_error: Option<Error>,
    pub(crate) connects: u64,
    pub(crate) module_version: u64,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            state: ServerState::Connecting,
            changed: Instant::now(),
            last_error: None,
            connects: 0,
            module_version: 0,
        }
    }

    pub(crate) fn enter(&mut self, state: ServerState, address: &str) {
        if self.state != state {
            let from = std::mem::replace(&mut self.state, state);
            self.changed = Instant::now();
            crate::observe::server_state(address, from, state, self.last_error.as_ref());
        }
    }

    pub(crate) fn connected(&mut self, greeting: &Greeting, state: ServerState, address: &str) {
        self.connects += 1;
        self.module_version = greeting.module_version;
        self.enter(state, address);
    }

    pub(crate) fn failed(&mut self, error: &Error, address: &str) {
        let state = match error {
            Error::ModuleMissing { .. } => ServerState::ModuleMissing,
            Error::ModuleTooOld { .. } => ServerState::ModuleTooOld,
            Error::Denied { .. } => ServerState::Denied,
            _ => ServerState::Down,
        };
        self.last_error = Some(error.clone());
        self.enter(state, address);
    }
}
