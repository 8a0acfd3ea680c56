//! Memory of this process.

use super::figures::{LocalTier, Sample, ServerReading, Source};
use super::heap::{Heap, reader};
use super::limit::memory_limit;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Reading the heap may take at most this fraction (1/2000) of the time.
const HEAP_SHARE: u32 = 2000;

/// Memory of a process, in bytes; `None` if it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MemoryUsage {
    /// Allocated and not yet freed.
    pub heap_used: Option<u64>,
    /// Held by the allocator, used or not.
    pub heap_committed: Option<u64>,
    /// Resident pages of mapped files and shared memory.
    pub external: Option<u64>,
    /// All resident pages.
    pub rss: Option<u64>,
    /// The most that was ever resident.
    pub peak_rss: Option<u64>,
    /// The most that the process may use.
    pub limit: Option<u64>,
}

impl MemoryUsage {
    /// Reads it now. Costs a tenth of a millisecond; much more if glibc's heap has very many free chunks: it walks
    /// through them and blocks all threads that allocate (100,000 chunks: tens of milliseconds).
    pub fn of_this_process() -> Self {
        Self::with(reader()(), memory_limit())
    }

    fn with(heap: Heap, limit: Option<u64>) -> Self {
        let pages = pages();
        Self {
            heap_used: heap.used,
            heap_committed: heap.committed,
            limit,
            ..pages
        }
    }

    /// The heap total, against which the heap is measured, in bytes.
    pub fn heap_total(&self, total: HeapTotal) -> Option<u64> {
        match total {
            HeapTotal::Limit => self.limit.or(self.heap_committed),
            HeapTotal::Committed => self.heap_committed,
        }
    }

    /// Heap used as a percentage of `total`, 0 and up.
    pub fn heap_percent(&self, total: HeapTotal) -> Option<f64> {
        let total = self.heap_total(total).filter(|&total| total > 0)?;
        Some(self.heap_used? as f64 * 100.0 / total as f64)
    }
}

/// The total against which the heap is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeapTotal {
    /// The limit of the process: at 100 % the system ends it. The committed heap if there is no limit.
    #[default]
    Limit,
    /// The bytes that the allocator holds, as Node.js's `heapTotal`. An efficient allocator is always near 100 %.
    Committed,
}

/// Reads this process's memory and, if they are set, the figures of a local tier and a server.
///
/// If reading the heap takes long (see [`MemoryUsage::of_this_process`]), it is read less often, so that it takes no
/// more than 1/2000 of the time: the heap figures may then be older than the sample.
#[derive(Clone)]
#[must_use]
pub struct ProcessSource {
    local: Option<Arc<dyn LocalTier>>,
    server: Option<Arc<dyn Fn() -> ServerReading + Send + Sync>>,
    read_heap: fn() -> Heap,
    /// The last reading, and when the next one is due.
    heap: Option<(Heap, Instant)>,
}

impl Default for ProcessSource {
    fn default() -> Self {
        Self {
            local: None,
            server: None,
            // Found now, so that finding it does not count as a cost of reading.
            read_heap: reader(),
            heap: None,
        }
    }
}

impl ProcessSource {
    /// Adds the figures of a local tier to each sample.
    pub fn local(mut self, local: Arc<dyn LocalTier>) -> Self {
        self.local = Some(local);
        self
    }

    /// Adds the figures of a server, as `read` returns them, to each sample. `read` runs on the monitor's thread and
    /// may block, for a bounded time.
    pub fn server(mut self, read: impl Fn() -> ServerReading + Send + Sync + 'static) -> Self {
        self.server = Some(Arc::new(read));
        self
    }

    /// Leaves the heap unknown, and costs nothing for it.
    pub fn without_heap(mut self) -> Self {
        self.read_heap = Heap::default;
        self
    }
}

impl Source for ProcessSource {
    fn read(&mut self, sample: &mut Sample) {
        let start = Instant::now();
        let known = self.heap.filter(|(_, due)| start < *due);
        let (heap, due) = known.unwrap_or_else(|| {
            let heap = (self.read_heap)();
            (heap, start + start.elapsed().saturating_mul(HEAP_SHARE))
        });
        self.heap = Some((heap, due));
        sample.memory = MemoryUsage::with(heap, memory_limit());
        sample.local = self.local.as_ref().map(|local| local.figures());
        if let Some(read) = &self.server {
            sample.server = read();
        }
    }
}

impl fmt::Debug for ProcessSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSource").finish_non_exhaustive()
    }
}

/// The system's figures of the process's pages.
fn pages() -> MemoryUsage {
    #[cfg(target_os = "linux")]
    if let Ok(status) = procfs::process::Process::myself().and_then(|process| process.status()) {
        let bytes = |kib: u64| kib * 1024;
        let external = status.rssfile.zip(status.rssshmem);
        return MemoryUsage {
            external: external.map(|(files, shared)| bytes(files + shared)),
            rss: status.vmrss.map(bytes),
            peak_rss: status.vmhwm.map(bytes),
            ..MemoryUsage::default()
        };
    }
    MemoryUsage::default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn heap_percent_is_relative_to_limit_or_committed_memory() {
        let usage = MemoryUsage {
            heap_used: Some(50),
            heap_committed: Some(100),
            limit: Some(1000),
            ..MemoryUsage::default()
        };
        assert_eq!(usage.heap_percent(HeapTotal::Limit), Some(5.0));
        assert_eq!(usage.heap_percent(HeapTotal::Committed), Some(50.0));
        let unknown = MemoryUsage::default();
        assert_eq!(unknown.heap_percent(HeapTotal::Limit), None);
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "reads /proc")]
    fn this_process_uses_memory_below_its_limit() {
        let usage = MemoryUsage::of_this_process();
        let rss = usage.rss.unwrap();
        assert!(rss > 0 && rss <= usage.peak_rss.unwrap());
        assert!(rss < usage.limit.unwrap());
        assert!(usage.external.unwrap() <= rss);
    }

    #[test]
    fn slow_heap_reads_are_done_less_often() {
        use std::sync::atomic::{AtomicU64, Ordering};
        static READS: AtomicU64 = AtomicU64::new(0);
        let mut source = ProcessSource {
            read_heap: || {
                std::thread::sleep(Duration::from_millis(5));
                Heap {
                    used: Some(READS.fetch_add(1, Ordering::Relaxed)),
                    committed: None,
                }
            },
            ..ProcessSource::default()
        };
        // 5 ms are one part in 2000 of 10 s.
        for _ in 0..3 {
            let mut sample = Sample::default();
            source.read(&mut sample);
            assert_eq!(sample.memory.heap_used, Some(0));
        }
        source.heap = source.heap.map(|(heap, _)| (heap, Instant::now()));
        let mut sample = Sample::default();
        source.read(&mut sample);
        assert_eq!(sample.memory.heap_used, Some(1));
    }

    #[test]
    fn disabled_heap_reading_is_unknown() {
        let mut reading = Sample::default();
        ProcessSource::default().without_heap().read(&mut reading);
        assert_eq!(reading.memory.heap_used, None);
        assert_eq!(reading.memory.heap_committed, None);
    }
}
