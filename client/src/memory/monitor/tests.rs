use std::sync::mpsc;

use super::*;
use crate::memory::MemoryUsage;

const MB: u64 = 1024 * 1024;

/// A process that uses this many MB of 1000, one figure per sample, the last one again and again.
struct Script(Vec<u64>, usize);

impl Source for Script {
    fn read(&mut self, sample: &mut Sample) {
        let mb = self.0[self.1.min(self.0.len() - 1)];
        self.1 += 1;
        sample.memory.heap_used = Some(mb * MB);
        sample.memory.limit = Some(1000 * MB);
    }
}

fn settings() -> Settings {
    MemoryMonitor::builder(Script(vec![0], 0)).settings
}

/// The state of a ring after these (seconds, MB), and the events on the way except the samples.
fn evaluate(
    settings: &Settings,
    points: impl IntoIterator<Item = (u64, u64)>,
) -> (Snapshot, Vec<String>) {
    let mut ring = Ring::default();
    let mut seen = Vec::new();
    let mut last = None;
    for (secs, mb) in points {
        let sample = Arc::new(Sample {
            at: SystemTime::UNIX_EPOCH,
            since_start: Duration::from_secs(secs),
            memory: MemoryUsage {
                heap_used: Some(mb * MB),
                limit: Some(1000 * MB),
                ..MemoryUsage::default()
            },
            local: None,
            server: crate::memory::ServerReading::None,
        });
        let (snapshot, events) = ring.push(&sample, settings);
        last = Some(snapshot);
        seen.extend(events.into_iter().filter_map(|event| match event {
            Event::Sample(_) => None,
            Event::Status { from, to, .. } => Some(format!("{from} to {to}")),
            Event::LeakSuspected(_) => Some("leak".into()),
            Event::LeakCleared => Some("no leak".into()),
        }));
    }
    (last.unwrap(), seen)
}

#[test]
fn status_changes_are_events() {
    let points = [100, 810, 780, 960, 100].into_iter().enumerate();
    let (last, seen) = evaluate(&settings(), points.map(|(i, mb)| (i as u64, mb)));
    assert_eq!(
        seen,
        [
            "healthy to warning",
            "warning to critical",
            "critical to healthy"
        ]
    );
    assert_eq!(last.status, Status::Healthy);
}

#[test]
fn steady_growth_is_reported_as_a_leak_until_it_ends() {
    let grow = (0..=60).map(|i| (i * 10, 100 + i)); // 6 MB a minute for the default window
    let (_, seen) = evaluate(&settings(), grow.clone());
    assert_eq!(seen, ["leak"]);
    let (_, seen) = evaluate(&settings(), grow.chain((61..=120).map(|i| (i * 10, 160))));
    assert_eq!(seen, ["leak", "no leak"]);
}

#[test]
fn short_stepped_cyclic_or_slow_growth_is_not_a_leak() {
    // Too short, a single step, a saw, and slower than the rate.
    let (last, seen) = evaluate(&settings(), (0..30).map(|i| (i * 10, 100 + i)));
    assert!(seen.is_empty(), "{seen:?}");
    assert!((last.growth.unwrap().mb_per_minute - 6.0).abs() < 1e-6);
    let step = (0..=60).map(|i| (i * 10, if i > 30 { 300 } else { 100 }));
    assert!(evaluate(&settings(), step).1.is_empty());
    let saw = (0..=60).map(|i| (i * 10, 100 + i % 10 * 20));
    assert!(evaluate(&settings(), saw).1.is_empty());
    let slow = (0..=60).map(|i| (i * 10, 100 + i / 20));
    assert!(evaluate(&settings(), slow).1.is_empty());
}

#[test]
fn at_most_the_configured_samples_are_kept() {
    let mut settings = settings();
    settings.samples = Some(5);
    let mut ring = Ring::default();
    for secs in 0..20 {
        let sample = Sample {
            at: SystemTime::UNIX_EPOCH,
            since_start: Duration::from_secs(secs),
            memory: MemoryUsage::default(),
            local: None,
            server: crate::memory::ServerReading::None,
        };
        ring.push(&Arc::new(sample), &settings);
    }
    assert_eq!(ring.samples.len(), 5);
    assert_eq!(ring.samples[0].since_start, Duration::from_secs(15));
}

#[test]
fn samples_arrive_until_the_monitor_is_stopped() {
    let (sent, events) = mpsc::channel();
    let monitor = MemoryMonitor::builder(Script(vec![100, 990], 0))
        .interval(Duration::from_millis(10))
        .on_event(move |event| {
            if let Event::Status { to, .. } = event {
                let _ = sent.send(*to);
            }
        })
        .start()
        .unwrap();
    let status = events.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(status, Status::Critical);
    assert_eq!(monitor.snapshot().status, Status::Critical);
    assert!(monitor.history().len() >= 2);
    monitor.stop();
    let kept = monitor.history().len();
    assert_eq!(monitor.sample_now().status, Status::Critical);
    assert_eq!(monitor.history().len(), kept + 1);
    monitor.stop();
}

#[test]
fn monitor_can_be_dropped_by_its_own_callback() {
    let (sent, dropped) = mpsc::channel();
    let slot: Arc<Mutex<Option<MemoryMonitor>>> = Arc::default();
    let held = Arc::clone(&slot);
    let monitor = MemoryMonitor::builder(Script(vec![1], 0))
        .interval(Duration::from_millis(10))
        .on_event(move |_| {
            let monitor = lock(&held).take();
            if monitor.is_some() {
                drop(monitor);
                let _ = sent.send(());
            }
        })
        .start()
        .unwrap();
    *lock(&slot) = Some(monitor);
    dropped.recv_timeout(Duration::from_secs(30)).unwrap();
}

#[test]
fn panicking_callback_does_not_end_the_monitor() {
    let (sent, samples) = mpsc::channel();
    let monitor = MemoryMonitor::builder(Script(vec![1], 0))
        .interval(Duration::from_millis(10))
        .start()
        .unwrap();
    monitor.on_event(move |_| {
        sent.send(()).unwrap();
        panic!("as the test wants it");
    });
    for _ in 0..3 {
        samples.recv_timeout(Duration::from_secs(30)).unwrap();
    }
    drop(monitor);
}

#[test]
fn settings_out_of_range_are_refused() {
    let monitor = || MemoryMonitor::builder(Script(vec![0], 0));
    let refused = |builder: MonitorBuilder| builder.start().unwrap_err().to_string();
    assert!(refused(monitor().interval(Duration::ZERO)).contains("0ns"));
    assert!(refused(monitor().samples(2)).starts_with("2 samples"));
    assert!(refused(monitor().leak_rate(f64::NAN)).contains("NaN"));
    let upside_down = Thresholds {
        warning: 95.0,
        critical: 80.0,
        hysteresis: 1.0,
    };
    assert!(refused(monitor().thresholds(upside_down)).contains("95"));
}

#[test]
fn samples_must_cover_the_window() {
    let settings = |builder: MonitorBuilder| builder.settings;
    let monitor = || MemoryMonitor::builder(Script(vec![0], 0));
    let second = Duration::from_secs(1);
    // Ten minutes of one sample per second are more than the default.
    assert_eq!(settings(monitor().interval(second)).kept(), 602);
    assert_eq!(settings(monitor()).kept(), 360);
    let short = monitor().interval(second).samples(360).start();
    assert!(short.unwrap_err().to_string().contains("360 samples"));
    let enough = monitor().interval(second).samples(360).window(second * 300);
    assert!(enough.start().is_ok());
    let day = monitor()
        .interval(Duration::from_millis(10))
        .window(second * 86_400);
    let error = day.start().expect_err("too many samples").to_string();
    assert!(error.contains("samples are to be kept"), "{error}");
    // A window shorter than the interval: for callers that take samples themselves.
    let seldom = monitor().interval(second * 3600).window(second * 60);
    assert!(seldom.start().is_ok());
}

#[test]
fn leak_is_found_with_defaults_at_one_sample_per_second() {
    let settings = MemoryMonitor::builder(Script(vec![0], 0))
        .interval(Duration::from_secs(1))
        .settings;
    // Up 3 MB a minute, with a saw of 40 MB on it.
    let leak = (0..=700).map(|i| (i, 200 + i / 20 + i % 40));
    assert_eq!(evaluate(&settings, leak).1, ["leak"]);
    let none = (0..=700).map(|i| (i, 200 + i % 40));
    assert!(evaluate(&settings, none).1.is_empty());
}

#[test]
fn monitor_can_be_restarted_after_a_stop() {
    let monitor = MemoryMonitor::builder(Script(vec![100], 0))
        .interval(Duration::from_millis(10))
        .start()
        .unwrap();
    let (sent, samples) = mpsc::channel();
    monitor.on_event(move |_| {
        let _ = sent.send(());
    });
    for _ in 0..3 {
        monitor.stop();
        let kept = monitor.history().len();
        while samples.try_recv().is_ok() {}
        monitor.start().unwrap();
        // While it runs another start does nothing; otherwise two threads would sample.
        monitor.start().unwrap();
        for _ in 0..3 {
            samples.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        assert!(monitor.history().len() > kept);
    }
}

#[test]
fn starting_a_running_monitor_does_nothing() {
    let monitor = MemoryMonitor::builder(Script(vec![1], 0))
        .interval(Duration::from_secs(3600))
        .start()
        .unwrap();
    monitor.start().unwrap();
    assert_eq!(monitor.history().len(), 1);
    monitor.stop();
    monitor.start().unwrap();
    assert_eq!(monitor.history().len(), 2);
}

#[test]
fn dropping_a_monitor_ends_its_thread() {
    let monitor = MemoryMonitor::builder(Script(vec![1], 0))
        .interval(Duration::from_secs(3600))
        .start()
        .unwrap();
    let shared = Arc::downgrade(&monitor.shared);
    drop(monitor);
    // The thread held the other half.
    assert_eq!(shared.strong_count(), 0);
}
