//! An endpoint with figures that the test sets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagcache::Cache;
use tagcache::local::EntryInfo;
use tagcache_admin::alerts::{Alerts, Config};
use tagcache_admin::http::{Admin, Auth, Builder, Fleet, serve};
use tagcache_admin::memory::{
    Event, LocalFigures, LocalTier, MemoryMonitor, ProcessSource, Sample, Server as Watched, Source,
};

pub(crate) const TOKEN: &str = "an-admin-token-of-the-test";
const RULES: &str = "alerts:
  - {name: High Memory Usage, condition: memory.heapPercent > 85, severity: warning, channels: []}
  - {name: Critical Memory Usage, condition: memory.heapPercent > 95, severity: critical, channels: []}
  - {name: Redis Away, condition: cache.redis.connected == false, severity: error, channels: []}
  - {name: Low Hit Rate, condition: cache.hitRate < 70, severity: info, channels: [], for: 1h}
";

/// A real server's figures, and a heap percentage that the test sets.
struct Scripted {
    percent: Arc<Mutex<f64>>,
    server: ProcessSource,
    samples: u32,
}

impl Source for Scripted {
    fn read(&mut self, sample: &mut Sample) {
        self.samples += 1;
        let percent = *self.percent.lock().unwrap();
        // The line in the chart is not flat.
        let wave = f64::from(self.samples % 7) * 0.3;
        let mb = |n: f64| Some((n * 1024.0 * 1024.0) as u64);
        self.server.read(sample);
        let memory = &mut sample.memory;
        memory.heap_used = mb(2.0 * (percent + wave));
        memory.heap_committed = mb(2.1 * (percent + wave));
        memory.external = mb(5.42);
        memory.rss = mb(2.0 * percent + 40.0);
        memory.peak_rss = mb(250.0);
        memory.limit = mb(200.0);
    }
}

struct Local;

impl LocalTier for Local {
    fn figures(&self) -> LocalFigures {
        let mut figures = LocalFigures::default();
        figures.entries = 15;
        figures.bytes = Some(15_300);
        figures.hits = 900;
        figures.misses = 100;
        figures
    }

    fn entries(&self, _: usize) -> Vec<EntryInfo> {
        let entry = |key: &str, hits| {
            let mut entry = EntryInfo::default();
            entry.key = key.into();
            entry.hits = hits;
            entry.bytes = 1024;
            entry.left = Duration::from_secs(60);
            entry.tags = ["tenant:7", "kind:page"].map(str::to_owned).to_vec();
            entry
        };
        vec![
            entry("page:/tenants/7/invoices", 620),
            entry("page:/tenants/7/<script>alert(1)</script>", 280),
        ]
    }

    fn drop_all(&self) {}

    fn drop_tagged(&self, _: &[String]) {}
}

pub(crate) struct Page {
    pub(crate) address: SocketAddr,
    percent: Arc<Mutex<f64>>,
    monitor: Arc<MemoryMonitor>,
    admin: Admin,
    /// The endpoint's own runtime, which ends together with all its connections.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Page {
    pub(crate) async fn start(percent: f64, port: u16, auth: Auth) -> Self {
        Self::of(percent, port, auth, |admin| admin.local(Arc::new(Local))).await
    }

    /// The page of an application with the two-tier cache.
    pub(crate) async fn with_cache(cache: Cache, port: u16, auth: Auth) -> Self {
        Self::of(40.0, port, auth, |admin| admin.cache(cache)).await
    }

    async fn of(
        percent: f64,
        port: u16,
        auth: Auth,
        tiers: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let watched = Watched::open(&format!("redis://127.0.0.1:{port}/")).unwrap();
        let percent = Arc::new(Mutex::new(percent));
        let source = Scripted {
            percent: Arc::clone(&percent),
            server: ProcessSource::default()
                .server(watched.reader())
                .local(Arc::new(Local)),
            samples: 0,
        };
        let alerts = Alerts::builder(Config::from_yaml(RULES).unwrap())
            .start()
            .unwrap();
        let alerts = Arc::new(alerts);
        let judging = Arc::clone(&alerts);
        let monitor = MemoryMonitor::builder(source)
            .interval(Duration::from_millis(100))
            .on_event(move |event| {
                if let Event::Sample(snapshot) = event {
                    judging.observe(snapshot);
                }
            })
            .start()
            .unwrap();
        let monitor = Arc::new(monitor);
        Fleet::join(&monitor, watched.clone(), "web-1");
        let admin = tiers(Admin::builder(Arc::clone(&monitor), auth))
            .instance("web-1")
            .server(watched)
            .alerts(alerts)
            // The tests load the page many times.
            .requests_per_minute(10_000.try_into().unwrap())
            .build();
        let (runtime, address) = serving(admin.clone(), ([127, 0, 0, 1], 0).into()).await;
        Self {
            address,
            percent,
            monitor,
            admin,
            runtime: Some(runtime),
        }
    }

    /// Serves again at the same address.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        let (runtime, _) = serving(self.admin.clone(), self.address).await;
        self.runtime = Some(runtime);
    }

    /// Ends the endpoint, including open connections.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn set(&self, percent: f64) {
        *self.percent.lock().unwrap() = percent;
        self.monitor.sample_now();
    }

    pub(crate) fn samples(&self) -> usize {
        self.monitor.history().len()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serving(admin: Admin, address: SocketAddr) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (bound, address_bound) = tokio::sync::oneshot::channel();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        bound.send(listener.local_addr().unwrap()).unwrap();
        serve(listener, admin, std::future::pending())
            .await
            .unwrap();
    });
    let address = address_bound.await.unwrap();
    (runtime, address)
}
