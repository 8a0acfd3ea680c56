//! Typed commands over redis-rs, to one server, a cluster, or the primary that sentinels name.

mod broadcast;
mod cluster;
pub(crate) mod command;
pub(crate) mod connection;
mod credentials;
mod error;
mod history;
mod message;
mod missed;
mod node;
mod sentinel;
mod servers;
mod status;
mod target;
mod topology;
mod waiting;

pub use credentials::Credentials;
pub(crate) use error::LoaderError;
pub use error::{Error, Remedy};
pub use servers::Servers;
pub use status::{ServerState, ServerStatus};

pub(crate) use connection::{Listener, Timeouts};
pub(crate) use message::Push;
pub(crate) use missed::{Missed, Recent};
pub(crate) use node::Settings;
pub(crate) use topology::{Answer, Remote};

use crate::lock;
