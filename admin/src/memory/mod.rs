//! A server's figures and the table of metrics, beside what [`tagcache::memory`] has.

mod metrics;
mod server;

pub use tagcache::memory::*;

pub use metrics::{METRICS, Metric, Unit, metric};
pub use server::{Server, ServerMemory, Subject};
