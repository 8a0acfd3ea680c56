//! Process memory and cache figures over time: what the process uses, whether it grows, whether it is well.
//!
//! [`MemoryUsage::of_this_process`] reads once; a [`MemoryMonitor`] reads at an interval, keeps the last samples,
//! judges them ([`Status`], [`Growth`], leak suspicion) and calls back when the judgement changes. Nothing runs
//! unless a monitor is started.
//!
//! ```
//! use std::time::Duration;
//! use tagcache::memory::{Event, MemoryMonitor, ProcessSource};
//!
//! let monitor = MemoryMonitor::builder(ProcessSource::default())
//!     .interval(Duration::from_secs(10))
//!     .on_event(|event| {
//!         if let Event::Status { from, to, .. } = event {
//!             eprintln!("memory: {from} -> {to}");
//!         }
//!     })
//!     .start()
//!     .expect("the interval is in range");
//! let snapshot = monitor.sample_now();
//! println!("{}: {:?} bytes", snapshot.status, snapshot.latest.memory.rss);
//! ```
//!
//! # What the words mean
//! | word | here |
//! |---|---|
//! | heap used | bytes that the allocator has handed out (jemalloc `stats.allocated`; glibc: arenas less free chunks, plus mapped chunks) |
//! | heap committed | what the allocator holds for that (jemalloc `stats.resident`, glibc arenas and mapped chunks) |
//! | limit | the tightest limit of the cgroups above the process (v2 `memory.max`, v1 `memory.limit_in_bytes`), else physical memory |
//! | heap total | limit or committed, as [`HeapTotal`] says |
//! | external | resident pages of mapped files and shared memory (`RssFile` + `RssShmem`) |
//! | pause | longest cleanup of the local tier or reclaim slice of the module, whichever is longer |
//!
//! A figure that the system does not tell is `None`, never a guess. The heap figures are those of the allocator that the
//! process really uses: jemalloc (feature `jemalloc`) or glibc. Of another global allocator they are unknown.
//!
//! Growth that looks like a leak need not be one: a cache that fills looks the same until it is full. Take a window
//! longer than that, or look at the local tier's own bytes beside the heap.

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
    CacheFigures, LocalEntry, LocalFigures, LocalTier, Sample, ServerReading, ServerUsage, Source,
};
pub use growth::Growth;
pub use monitor::{Event, MemoryMonitor, MonitorBuilder, MonitorError};
pub use process::{HeapTotal, MemoryUsage, ProcessSource};
pub use snapshot::{Rates, Snapshot};
pub use stats::MemoryStats;
pub use status::{Status, Thresholds};
