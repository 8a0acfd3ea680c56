//! Leases of loaders that are slow, hang or die, with default settings.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tagcache::Cache;
use tagcache_tests::fetch::fetch_lease;
use tagcache_tests::look::stat;
use tagcache_tests::{DEADLINE, Server};
use tokio::sync::oneshot;

use crate::support::{cache_at, connected, eventually, long, on_server, run};

/// The port of the server, for the child.
const CHILD: &str = "TAGCACHE_TEST_LEASE_HOLDER";

/// The guarantee is 2 s. Without short leases a waiter would wait for the load time-out of 10 s.
const BOUND: Duration = Duration::from_secs(6);

async fn with_defaults(port: u16) -> Cache {
    connected(Cache::builder(format!("redis://127.0.0.1:{port}"))).await
}

/// A process that loads `key` forever. It is killed when it is dropped.
struct Holder(Child);

impl Holder {
    fn start(server: &Server) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let child = Command::new(program)
            .args(["--exact", "leases::holder", "--include-ignored"])
            .env(CHILD, server.port().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("this program starts again"))
    }

    fn stop(&self) {
        let sent = Command::new("kill")
            .args(["-STOP", &self.0.id().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    fn kill(&mut self) {
        // SIGKILL; it fails only if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "started by the other tests of this module, in a process of its own"]
fn holder() {
    let Ok(port) = std::env::var(CHILD) else {
        return;
    };
    run(async {
        let cache = with_defaults(port.parse().expect("a port")).await;
        let entry = long().hard_timeout(2 * DEADLINE);
        let never = || async {
            std::future::pending::<()>().await;
            Ok::<_, String>("dead".to_owned())
        };
        let _ = cache.get_or_load("key", entry, never).await;
    });
}

/// Another process holds the lease and then ends by `end`: a waiting caller loads itself, and soon.
fn assert_waiter_loads_soon_after(end: impl Fn(&mut Holder)) {
    let server = Server::start();
    let mut holder = Holder::start(&server);
    run(async {
        let mut client = server.raw();
        eventually("the other process holds the lease", async || {
            stat(&mut client, "leases") == 1
        })
        .await;
        let cache = with_defaults(server.port()).await;
        let (called, loading) = oneshot::channel();
        let waiting = tokio::spawn({
            let cache = cache.clone();
            async move {
                let loader = || async move {
                    let _ = called.send(Instant::now());
                    Ok::<_, String>("alive".to_owned())
                };
                cache.get_or_load("key", long(), loader).await
            }
        });
        eventually("this one waits", async || {
            stat(&mut client, "lease_waiters") == 1
        })
        .await;
        let ended = Instant::now();
        end(&mut holder);
        let called = loading.await.expect("the loader is called");
        assert!(called - ended < BOUND, "{:?}", called - ended);
        assert_eq!(waiting.await.unwrap().unwrap(), "alive");
        assert_eq!(
            on_server(&mut client, "key").as_deref(),
            Some(r#""alive""#),
            "and stores what it loads"
        );
    });
}

#[test]
fn waiter_loads_soon_after_the_lease_holder_is_killed() {
    assert_waiter_loads_soon_after(Holder::kill);
}

#[test]
fn waiter_loads_soon_after_the_lease_holder_hangs() {
    assert_waiter_loads_soon_after(|holder| holder.stop());
}

/// The server that takes over knows of the invalidations meanwhile, but not that the loader began before them.
#[test]
fn lease_lost_by_the_server_is_not_acquired_again() {
    let mut server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let (open, opened) = oneshot::channel::<()>();
        let loading = tokio::spawn({
            let cache = cache.clone();
            let loader = || async move {
                opened.await.map_err(|_| "nobody opens")?;
                Ok::<_, &str>("old".to_owned())
            };
            let entry = long().tags(["tag"]);
            async move { cache.get_or_load("key", entry, loader).await }
        });
        eventually("it is being loaded", async || cache.stats().loads == 1).await;
        cache.invalidate_tags(["tag"]).await.unwrap();
        server.kill_9();
        server.restart();
        cache.ready(DEADLINE).await.unwrap();
        let mut client = server.raw();
        eventually("it was to be renewed", async || {
            let stats = client.call(&["INFO", "commandstats"]).text();
            stats.contains("cmdstat_cache.fetch:")
        })
        .await;
        open.send(()).unwrap();
        assert_eq!(loading.await.unwrap().unwrap(), "old");
        assert_eq!(on_server(&mut client, "key"), None);
    });
}

#[test]
fn lease_is_renewed_while_its_loader_runs() {
    let server = Server::start();
    run(async {
        let (loading, waiting) = (cache_at(&server).await, cache_at(&server).await);
        let mut client = server.raw();
        let (open, opened) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let cache = loading.clone();
            let loader = || async move {
                opened.await.map_err(|_| "nobody opens")?;
                Ok::<_, &str>("first".to_owned())
            };
            async move { cache.get_or_load("key", long(), loader).await }
        });
        eventually("it is being loaded", async || loading.stats().loads == 1).await;
        let second = tokio::spawn({
            let cache = waiting.clone();
            let loader = || async { Ok::<_, String>("second".to_owned()) };
            async move { cache.get_or_load("key", long(), loader).await }
        });
        eventually("the other waits", async || waiting.stats().lease_waits == 1).await;
        // A lease lasts 1.8 s, so it has been renewed if no other caller can get it after that time.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(3600) {
            let fetched = fetch_lease(&mut client, "key", 1000);
            assert!(fetched.is_miss(), "it is held: {fetched:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        open.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), "first");
        assert_eq!(second.await.unwrap().unwrap(), "first");
        assert_eq!(
            (loading.stats().sets_refused, waiting.stats().loads),
            (0, 0)
        );
        assert_eq!(on_server(&mut client, "key").as_deref(), Some(r#""first""#));
    });
}
