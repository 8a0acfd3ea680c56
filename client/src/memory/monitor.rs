//! Takes samples at an interval, evaluates and keeps them.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::figures::{Sample, Source};
use super::growth::Growth;
use super::process::HeapTotal;
use super::snapshot::{Rates, Snapshot};
use super::status::{Status, Thresholds};
use crate::lock;
use crate::worker::Worker;

/// Shortest and longest interval between samples.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(3600);
/// Fewest samples that are kept by default: an hour at the default interval.
const DEFAULT_SAMPLES: usize = 360;
/// Most samples that may be kept.
const MAX_SAMPLES: usize = 100_000;

/// The argument of a monitor's callbacks, which run on its own thread.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A sample was taken.
    Sample(Snapshot),
    /// The status changed.
    Status {
        /// The status before.
        from: Status,
        /// The status now.
        to: Status,
        /// The state at that moment.
        snapshot: Snapshot,
    },
    /// Growth over the window looks like a leak.
    LeakSuspected(Growth),
    /// The growth no longer looks like a leak.
    LeakCleared,
}

type Callback = Arc<dyn Fn(&Event) + Send + Sync>;

/// Why a monitor did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// A setting is out of range, or two of them contradict each other.
    #[error("{0}")]
    Settings(String),
    /// The system could not start a thread.
    #[error("no thread for the monitor: {0}")]
    Thread(#[from] std::io::Error),
}

/// The settings of a monitor; [`MemoryMonitor::builder`] creates them.
#[must_use]
pub struct MonitorBuilder {
    source: Box<dyn Source>,
    callbacks: Vec<Callback>,
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    interval: Duration,
    /// `None`: as many as the window needs, but no fewer than [`DEFAULT_SAMPLES`].
    samples: Option<usize>,
    thresholds: Thresholds,
    heap_total: HeapTotal,
    window: Duration,
    leak_rate: f64,
}

impl MonitorBuilder {
    /// Time between samples, 10 ms to 1 h. Default 10 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.settings.interval = interval;
        self
    }

    /// How many samples are kept, 3 to 100,000 and enough for the window; each takes about 500 bytes. Default: those
    /// of the window, but at least 360.
    pub fn samples(mut self, samples: usize) -> Self {
        self.settings.samples = Some(samples);
        self
    }

    /// The heap percentages at which the status changes.
    pub fn thresholds(mut self, thresholds: Thresholds) -> Self {
        self.settings.thresholds = thresholds;
        self
    }

    /// The total against which the heap is measured.
    pub fn heap_total(mut self, total: HeapTotal) -> Self {
        self.settings.heap_total = total;
        self
    }

    /// The time over which rates and growth are computed; no leak is suspected before it is full. Default 10 min.
    pub fn window(mut self, window: Duration) -> Self {
        self.settings.window = window;
        self
    }

    /// Steady growth of at least this many MB per minute over a whole window is suspected to be a leak. Default 1.
    pub fn leak_rate(mut self, mb_per_minute: f64) -> Self {
        self.settings.leak_rate = mb_per_minute;
        self
    }

    /// Adds a callback. It runs on the monitor's thread: a slow callback delays the next sample.
    pub fn on_event(mut self, callback: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.callbacks.push(Arc::new(callback));
        self
    }

    /// Takes the first sample and starts the thread that takes the others.
    ///
    /// # Errors
    /// When a setting is out of range or the system cannot start a thread.
    pub fn start(self) -> Result<MemoryMonitor, MonitorError> {
        self.settings.check()?;
        let shared = Arc::new(Shared {
            started: Instant::now(),
            settings: self.settings,
            source: Mutex::new(self.source),
            ring: Mutex::new(Ring::default()),
            callbacks: Mutex::new(self.callbacks),
        });
        let monitor = MemoryMonitor {
            shared,
            running: Mutex::new(None),
        };
        monitor.start()?;
        Ok(monitor)
    }
}

impl fmt::Debug for MonitorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl Settings {
    /// How many samples are kept.
    fn kept(&self) -> usize {
        let enough = usize::try_from(self.samples_of_window()).unwrap_or(usize::MAX);
        self.samples.unwrap_or(enough.max(DEFAULT_SAMPLES))
    }

    /// How many samples span the window: one at each of its ends, and one more for late samples.
    fn samples_of_window(&self) -> u128 {
        self.window.as_nanos() / self.interval.as_nanos().max(1) + 2
    }

    fn check(&self) -> Result<(), MonitorError> {
        let Self {
            interval,
            window,
            thresholds,
            leak_rate,
            ..
        } = self;
        let samples = self.kept();
        let what = if !INTERVALS.contains(interval) {
            format!("the interval is {interval:?}, it must be from 10 ms to 1 h")
        } else if !(3..=MAX_SAMPLES).contains(&samples) {
            format!("{samples} samples are to be kept, it must be from 3 to {MAX_SAMPLES}")
        } else if self.samples_of_window() > samples as u128 {
            // No leak would ever be suspected.
            format!(
                "{samples} samples, one each {interval:?}, do not fill the window of {window:?}: keep more, or make it shorter"
            )
        } else if !thresholds.valid() {
            format!(
                "thresholds must be 0 < warning < critical and hysteresis below warning, not {thresholds:?}"
            )
        } else if leak_rate.is_nan() || *leak_rate <= 0.0 {
            format!("the leak rate is {leak_rate} MB per minute, it must be above 0")
        } else {
            return Ok(());
        };
        Err(MonitorError::Settings(what))
    }
}

/// Watches the memory of a process and the figures of its cache; stops when dropped.
///
/// It uses the monotonic clock: setting the system clock does not affect it.
///
/// One sample per second costs less than a tenth of a percent of a core (`cargo bench -p tagcache-benches --bench
/// monitor` measures it).
pub struct MemoryMonitor {
    shared: Arc<Shared>,
    running: Mutex<Option<Worker>>,
}

struct Shared {
    started: Instant,
    settings: Settings,
    source: Mutex<Box<dyn Source>>,
    ring: Mutex<Ring>,
    callbacks: Mutex<Vec<Callback>>,
}

#[derive(Default)]
struct Ring {
    samples: VecDeque<Arc<Sample>>,
    status: Status,
    leak_suspected: bool,
}

impl MemoryMonitor {
    /// A monitor of this source, to be configured and started.
    pub fn builder(source: impl Source) -> MonitorBuilder {
        MonitorBuilder {
            source: Box::new(source),
            callbacks: Vec::new(),
            settings: Settings {
                interval: Duration::from_secs(10),
                samples: None,
                thresholds: Thresholds::default(),
                heap_total: HeapTotal::default(),
                window: Duration::from_secs(600),
                leak_rate: 1.0,
            },
        }
    }

    /// Continues after [`Self::stop`]: takes a sample and starts the thread that takes the others. Earlier samples are
    /// kept. Does nothing while it runs.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(&self) -> Result<(), MonitorError> {
        let mut running = lock(&self.running);
        if running.is_some() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let interval = shared.settings.interval;
        let mut due = Instant::now() + interval;
        let worker = Worker::start("tagcache-monitor", interval, move |_| {
            // A panic of a source or callback has been reported by the panic hook; the next sample may succeed.
            let _ = catch_unwind(AssertUnwindSafe(|| shared.sample()));
            // Samples that a slow source missed are not made up for.
            let now = Instant::now();
            due = (due + interval).max(now);
            Some(due - now)
        });
        *running = Some(worker?);
        drop(running);
        self.shared.sample();
        Ok(())
    }

    /// The state as of the last sample. O(samples in the window).
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Takes a sample now, in addition to those at the interval, and returns it. Callbacks run on this thread.
    pub fn sample_now(&self) -> Snapshot {
        self.shared.sample()
    }

    /// The samples that are kept, oldest first.
    pub fn history(&self) -> Vec<Arc<Sample>> {
        lock(&self.shared.ring).samples.iter().cloned().collect()
    }

    /// Adds a callback, as [`MonitorBuilder::on_event`] does; it gets events from now on, and is kept with the monitor.
    pub fn on_event(&self, callback: impl Fn(&Event) + Send + Sync + 'static) {
        lock(&self.shared.callbacks).push(Arc::new(callback));
    }

    /// Time between samples.
    pub fn interval(&self) -> Duration {
        self.shared.settings.interval
    }

    /// Ends the thread, after a sample that it may be taking; the samples stay readable. A second call does nothing.
    pub fn stop(&self) {
        let running = lock(&self.running).take();
        if let Some(worker) = running {
            worker.stop();
        }
    }
}

impl Drop for MemoryMonitor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for MemoryMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMonitor")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn sample(&self) -> Snapshot {
        // Held until the sample is in the ring, so that samples are in the order of their times.
        let mut source = lock(&self.source);
        let mut sample = Sample::default();
        source.read(&mut sample);
        sample.at = SystemTime::now();
        sample.since_start = self.started.elapsed();
        let sample = Arc::new(sample);
        let (snapshot, events) = lock(&self.ring).push(&sample, &self.settings);
        drop(source);
        // A copy: a callback may add another one.
        let callbacks = lock(&self.callbacks).clone();
        for event in events {
            for callback in &callbacks {
                callback(&event);
            }
        }
        snapshot
    }

    fn snapshot(&self) -> Snapshot {
        let ring = lock(&self.ring);
        let latest = ring
            .samples
            .back()
            .expect("one is taken before the start returns");
        ring.snapshot(latest, &self.settings, self.started.elapsed())
    }
}

impl Ring {
    fn push(&mut self, sample: &Arc<Sample>, settings: &Settings) -> (Snapshot, Vec<Event>) {
        if self.samples.len() >= settings.kept() {
            self.samples.pop_front();
        }
        self.samples.push_back(Arc::clone(sample));

        let before = (self.status, self.leak_suspected);
        let percent = sample.memory.heap_percent(settings.heap_total);
        self.status = settings.thresholds.status(self.status, percent);
        let growth = self.growth(settings);
        // With 1 % of slack: the samples at the ends of a full window are a little less than a window apart.
        let full = |growth: &Growth| growth.seconds >= settings.window.as_secs_f64() * 0.99;
        self.leak_suspected = growth
            .filter(full)
            .is_some_and(|growth| growth.steady && growth.at_least() >= settings.leak_rate);

        let snapshot = self.snapshot(sample, settings, sample.since_start);
        let mut events = vec![Event::Sample(snapshot.clone())];
        if before.0 != self.status {
            events.push(Event::Status {
                from: before.0,
                to: self.status,
                snapshot: snapshot.clone(),
            });
        }
        match (before.1, self.leak_suspected, growth) {
            (false, true, Some(growth)) => events.push(Event::LeakSuspected(growth)),
            (true, false, _) => events.push(Event::LeakCleared),
            _ => {}
        }
        (snapshot, events)
    }

    fn snapshot(&self, latest: &Arc<Sample>, settings: &Settings, uptime: Duration) -> Snapshot {
        let first = self.window(settings).next().unwrap_or(latest);
        Snapshot {
            latest: Arc::clone(latest),
            status: self.status,
            growth: self.growth(settings),
            leak_suspected: self.leak_suspected,
            rates: Rates::between(first, latest),
            heap_total: settings.heap_total,
            uptime,
        }
    }

    fn growth(&self, settings: &Settings) -> Option<Growth> {
        let heap = self.samples.back()?.memory.heap_used.is_some();
        let points: Vec<_> = self
            .window(settings)
            .filter_map(|sample| {
                let memory = &sample.memory;
                let bytes = if heap { memory.heap_used } else { memory.rss };
                Some((sample.since_start, bytes?))
            })
            .collect();
        Growth::fit(&points)
    }

    /// The samples of the window and the last one before it, oldest first: together they span the window.
    fn window(&self, settings: &Settings) -> impl Iterator<Item = &Arc<Sample>> {
        let last = self.samples.back();
        let last = last.map_or(Duration::ZERO, |s| s.since_start);
        let from = last.saturating_sub(settings.window);
        let after = self.samples.partition_point(|s| s.since_start < from);
        self.samples.range(after.saturating_sub(1)..)
    }
}

#[cfg(test)]
mod tests;
