//! A server's figures and the table of metrics, in addition to [`tagcache::memory`].

mod metrics;
mod server;

pub use tagcache::memory::*;

pub use metrics::{METRICS, Metric, Unit, metric};
pub use server::{Server, ServerMemory, Subject};
