#![doc = include_str!("overview.md")]

mod figures;
mod growth;
mod heap;
mod limit;
mod local;
mod monitor;
mod process;
mod snapshot;
mod stats;
mod status;

pub use figures::{
    CacheFigures, LocalFigures, LocalTier, Sample, ServerReading, ServerUsage, Source,
};
pub use growth::Growth;
pub use monitor::{Event, MemoryMonitor, MonitorBuilder, MonitorError};
pub use process::{HeapTotal, MemoryUsage, ProcessSource};
pub use snapshot::{Rates, Snapshot};
pub use stats::MemoryStats;
pub use status::{Status, Thresholds};
