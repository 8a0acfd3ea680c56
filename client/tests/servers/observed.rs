//! Events and metrics for operators.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagcache_tests::Server;

use crate::support::{builder, connected, eventually, run};

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
fn events_are_logged_once_and_without_secrets() {
    use tagcache::{Cache, Servers};
    use tagcache_tests::free_port;
    use tracing::Instrument;
    use tracing_subscriber::fmt::format::FmtSpan;

    use crate::support::{builder, connected, long};

    let mut server = Server::start();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(move || writer.clone())
        .finish();
    // For all threads: otherwise a callsite that a thread without a subscriber reaches first may stay disabled.
    tracing::subscriber::set_global_default(subscriber).expect("no other test sets one");
    let lines = |whose: &str, what: &str| {
        let text = log.text();
        text.lines()
            .filter(|line| line.contains(whose) && line.contains(what))
            .count()
    };
    let address = format!("127.0.0.1:{}", server.port());
    let of_server = |what: &str| lines(&address, what);
    run(async {
        let url = format!("redis://default:pa55word@{address}");
        let cache = connected(
            Cache::builder(url).probe(Duration::from_millis(100), Duration::from_secs(2)),
        )
        .await;
        let loader = || async {
            tracing::info!("asking the database");
            Ok::<_, String>("pr1vate".to_owned())
        };
        let request = tracing::info_span!("request", id = 7);
        let loading = cache.get_or_load("key", long(), loader);
        loading.instrument(request).await.unwrap();
        assert_eq!(
            lines("asking the database", "request{id=7}:load{key=\"key\"}"),
            1,
            "the loader runs in its caller's span"
        );
        for name in ["CACHE.FETCH", "CACHE.SET"] {
            let span = format!("request{{id=7}}:command{{name={name}}}");
            eventually("its span is closed", async || lines(&span, "close") == 1).await;
        }
        server.stop();
        eventually("the loss is logged", async || of_server("to=Down") == 1).await;
        assert!(cache.invalidate_tags(["tag"]).await.is_err());
        server.restart();
        eventually("the return is logged", async || of_server("to=Up") == 2).await;
        assert_eq!(of_server("invalidation missed"), 1);
        assert!(log.text().contains("local tier dropped"));
        eventually("it is sent", async || {
            cache.stats().servers[0].missed_invalidations == 0
        })
        .await;
        drop(cache);
        eventually("it is left", async || of_server("server left") == 1).await;

        // When a process ends, invalidations that servers missed are lost: this is logged.
        server.stop();
        let alone = builder(server.port()).build().await.unwrap();
        assert!(alone.invalidate_tags(["a", "b"]).await.is_err());
        drop(alone);
        eventually("the loss is logged", async || {
            lines("missed invalidations lost", "tags=2") == 1
        })
        .await;

        // However often the nodes of a cluster are asked in vain, this is logged once.
        let nowhere = format!("127.0.0.1:{}", free_port());
        let servers = Servers::cluster([format!("redis://{nowhere}")]);
        let cluster = Cache::builder(servers).build().await.unwrap();
        eventually("it is asked again and again", async || {
            let _ = cluster.get::<String>("key").await;
            lines(&nowhere, "no topology") >= 4
        })
        .await;
        assert_eq!(lines(&nowhere, " WARN "), 1, "{}", log.text());
    });
    for secret in ["pa55word", "pr1vate"] {
        assert!(!log.text().contains(secret), "{}", log.text());
    }
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
            let named = builder(server.port()).name("one");
            let cache = connected(named).await;
            // Another cache has counts of its own.
            let other = connected(builder(server.port()).namespace("other")).await;
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
                    if key.key().labels().any(|label| label.value() == "other") {
                        continue;
                    }
                    // A snapshot resets the counters that it shows.
                    let most: &mut u64 = seen.entry(key.key().name().to_owned()).or_default();
                    *most = count.max(*most);
                }
                seen.get("tagcache_local_hits_total")
                    .is_some_and(|&hits| hits >= 7)
            })
            .await;
            drop(other);
            assert_eq!(seen["tagcache_client_loads_total"], 1, "{seen:?}");
            assert_eq!(seen["tagcache_client_server_connected"], 1);
            assert_eq!(seen["tagcache_local_entries"], 1);
            assert_eq!(seen["tagcache_client_load_seconds"], 1);
            assert!(seen["tagcache_client_command_seconds"] >= 2);
        });
    });
}
