//! An endpoint of the test's own, and a client for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tagcache::local::EntryInfo;
use tagcache_admin::http::{Admin, Auth, Builder, serve};
use tagcache_admin::memory::{LocalFigures, LocalTier, MemoryMonitor, Sample, Source};
use tokio::net::TcpListener;

pub(crate) const TOKEN: &str = "an-admin-token-of-the-test";
pub(crate) const READER: &str = "a-reader-token-of-the-test";

/// An endpoint that runs until it is dropped.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

impl Endpoint {
    pub(crate) fn start(admin: Admin) -> Self {
        Self::run(|listener| async {
            serve(listener, admin, std::future::pending())
                .await
                .unwrap();
        })
    }

    /// The endpoint of an application that mounts the router.
    pub(crate) fn serve(router: axum::Router) -> Self {
        Self::run(|listener| async { axum::serve(listener, router).await.unwrap() })
    }

    fn run<F: Future<Output = ()> + Send + 'static>(serve: impl FnOnce(TcpListener) -> F) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(TcpListener::bind(("127.0.0.1", 0)))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener));
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_as(TOKEN, path)
    }

    pub(crate) fn get_as(&self, token: &str, path: &str) -> Answer {
        self.send(
            "GET",
            path,
            &[("authorization", &format!("Bearer {token}"))],
            "",
        )
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        let authorization = format!("Bearer {TOKEN}");
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
        ];
        self.send("POST", path, &headers, body)
    }

    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let kind = response
            .headers()
            .get("content-type")
            .map(|v| v.to_str().unwrap().to_owned());
        Answer {
            status: response.status().as_u16(),
            kind: kind.unwrap_or_default(),
            headers: response.headers().clone(),
            text: response.body_mut().read_to_string().unwrap(),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An endpoint builder with a token for an admin and one for a reader.
pub(crate) fn builder(source: impl Source) -> Builder {
    Admin::builder(monitor(source), tokens())
}

pub(crate) fn tokens() -> Auth {
    Auth::bearer(TOKEN).unwrap().or_reader(READER).unwrap()
}

pub(crate) fn monitor(source: impl Source) -> Arc<MemoryMonitor> {
    let monitor = MemoryMonitor::builder(source).interval(Duration::from_millis(50));
    Arc::new(monitor.start().unwrap())
}

/// A process with the figures of the guide's example.
pub(crate) struct Guide;

impl Source for Guide {
    fn read(&mut self, sample: &mut Sample) {
        let mb = |n: f64| Some((n * 1024.0 * 1024.0) as u64);
        let memory = &mut sample.memory;
        memory.heap_used = mb(145.23);
        memory.heap_committed = mb(180.0);
        memory.external = mb(5.42);
        memory.rss = mb(185.67);
        memory.peak_rss = mb(190.0);
        memory.limit = mb(200.0);
        sample.local = Some(Local.figures());
    }
}

/// A process without any known figure.
pub(crate) struct Unknown;

impl Source for Unknown {
    fn read(&mut self, _: &mut Sample) {}
}

/// A local tier with one entry.
pub(crate) struct Local;

impl LocalTier for Local {
    fn figures(&self) -> LocalFigures {
        let mut figures = LocalFigures::default();
        figures.entries = 15;
        figures.hits = 3;
        figures.misses = 1;
        figures.longest_cleanup_us = Some(1500);
        figures
    }

    fn entries(&self, limit: usize) -> Vec<EntryInfo> {
        let mut entry = EntryInfo::default();
        entry.key = "page:/ü".into();
        entry.hits = 3;
        entry.bytes = 100;
        entry.left = Duration::from_millis(1500);
        entry.tags = vec!["tenant:7".to_owned()];
        vec![entry; limit.min(1)]
    }

    fn drop_all(&self) {}

    fn drop_tagged(&self, _: &[String]) {}
}
