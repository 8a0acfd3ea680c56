//! What operators see.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tagcache_tests::Server;

use crate::support::{cache_at, eventually, run};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "tracing")]
#[test]
fn a_server_that_goes_and_comes_is_in_the_log() {
    let mut server = Server::start();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // For all threads: what a thread without a subscriber comes across first may be taken to interest nobody.
    tracing::subscriber::set_global_default(subscriber).expect("no other test sets one");
    let port = server.port().to_string();
    let of_server = |what: &str| {
        let text = log.text();
        text.lines()
            .filter(|line| line.contains(&port) && line.contains(what))
            .count()
    };
    run(async {
        let cache = cache_at(&server).await;
        server.stop();
        eventually("the loss is logged", async || of_server("to=Down") == 1).await;
        assert!(cache.invalidate_tags(["tag"]).await.is_err());
        server.restart();
        eventually("the return is logged", async || of_server("to=Up") == 2).await;
        assert_eq!(of_server("invalidation missed"), 1);
        assert!(log.text().contains("local tier dropped"));
    });
}

#[cfg(feature = "metrics")]
#[test]
fn counts_and_times_reach_the_metrics_facade() {
    use crate::support::long;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let server = Server::start();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let cache = cache_at(&server).await;
            for _ in 0..10 {
                let loader = || async { Ok::<_, String>(1) };
                cache.get_or_load("key", long(), loader).await.unwrap();
            }
            let mut seen = std::collections::BTreeMap::new();
            eventually("they are published", async || {
                for (key, _, _, value) in snapshotter.snapshot().into_vec() {
                    let count = match value {
                        DebugValue::Counter(count) => count,
                        DebugValue::Gauge(value) => value.into_inner() as u64,
                        DebugValue::Histogram(times) => times.len() as u64,
                    };
                    // A snapshot takes away what it shows.
                    let most: &mut u64 = seen.entry(key.key().name().to_owned()).or_default();
                    *most = count.max(*most);
                }
                seen.get("tagcache_local_hits_total")
                    .is_some_and(|&hits| hits >= 7)
            })
            .await;
            assert_eq!(seen["tagcache_loads_total"], 1, "{seen:?}");
            assert_eq!(seen["tagcache_server_up"], 1);
            assert_eq!(seen["tagcache_local_entries"], 1);
            assert_eq!(seen["tagcache_load_seconds"], 1);
            assert!(seen["tagcache_command_seconds"] >= 2);
        });
    });
}
