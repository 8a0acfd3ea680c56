//! Times at their limits: zero, forever, and NaN.

use std::time::Duration;

use tagcache::{Cache, Entry};
use tagcache_tests::proxy::{Proxy, Weather};
use tagcache_tests::{Server, look};

use crate::support::{builder, cache_at, connected, eventually, long, run, warm};

const GRACE: Duration = Duration::from_secs(300);

async fn load(cache: &Cache, entry: Entry, value: Option<&str>) -> Option<String> {
    let value = value.map(str::to_owned);
    let loader = move || async move { Ok::<_, String>(value) };
    cache
        .get_or_load_optional("key", entry, loader)
        .await
        .unwrap()
}

#[test]
fn absence_is_not_cached_with_a_negative_ttl_of_zero() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let entry = long().grace(GRACE).negative_ttl(Duration::ZERO);
        assert_eq!(load(&cache, entry, None).await, None);
        assert_eq!(look::stat(&mut server.raw(), "entries"), 0);
        assert_eq!(load(&cache, entry, Some("v")).await.as_deref(), Some("v"));
    });
}

#[test]
fn stale_value_is_dropped_if_its_source_is_gone() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let entry = long().grace(GRACE).negative_ttl(Duration::ZERO);
        let tagged = entry.tags(["tag"]);
        cache.set("key", &"old".to_owned(), tagged).await.unwrap();
        cache.revalidate_tags(["tag"]).await.unwrap();
        // The refresh in the background finds nothing.
        assert_eq!(load(&cache, entry, None).await.as_deref(), Some("old"));
        eventually("the stale value is gone", async || {
            load(&cache, entry, None).await.is_none()
        })
        .await;
    });
}

#[test]
fn loaded_value_with_a_ttl_of_zero_is_not_stored() {
    let server = Server::start();
    run(async {
        let (here, there) = (cache_at(&server).await, cache_at(&server).await);
        let entry = Entry::ttl(Duration::ZERO).grace(GRACE);
        assert_eq!(load(&here, entry, Some("a")).await.as_deref(), Some("a"));
        let mut client = server.raw();
        assert_eq!(look::stat(&mut client, "entries"), 0);
        assert_eq!(look::stat(&mut client, "leases"), 0);
        assert_eq!(load(&there, entry, Some("b")).await.as_deref(), Some("b"));
    });
}

#[test]
fn every_time_setting_accepts_the_maximum_duration() {
    let server = Server::start();
    run(async {
        let max = Duration::MAX;
        let patient = builder(server.port())
            .connect_timeout(max)
            .command_timeout(max)
            .load_timeout(max)
            .probe(max, max)
            .local_ttl_max(max)
            .report_hits_every(max)
            .serve_stale_while_unreachable(max);
        let cache = connected(patient).await;
        cache.ready(max).await.unwrap();
        let entry = Entry::forever()
            .grace(max)
            .negative_ttl(max)
            .soft_timeout(max)
            .hard_timeout(max);
        assert_eq!(load(&cache, entry, Some("v")).await.as_deref(), Some("v"));
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("v"));
        assert!(cache.touch("key", entry).await.unwrap());
        // Also while it waits for another process.
        cache.remove("key").await.unwrap();
        let token = tagcache_tests::fetch::lease(&mut server.raw(), "key");
        let waiting = tokio::spawn({
            let cache = cache.clone();
            async move { load(&cache, entry, Some("mine")).await }
        });
        eventually("it waits", async || cache.stats().lease_waits == 1).await;
        let token = token.to_string();
        server.raw().call(&["CACHE.RELEASE", "key", &token]);
        assert_eq!(waiting.await.unwrap().as_deref(), Some("mine"));
    });
}

#[test]
fn nan_options_count_as_zero() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let odd = long().jitter(f64::NAN).early_refresh(f64::NAN);
        assert_eq!(load(&cache, odd, Some("v")).await.as_deref(), Some("v"));
        cache.set("key", &"w".to_owned(), odd).await.unwrap();
        let ttl = server.raw().call(&["TTL", "key"]).int();
        assert!((590..=600).contains(&ttl), "{ttl}");
        let endless = long().jitter(f64::INFINITY).early_refresh(f64::INFINITY);
        cache.set("key", &"w".to_owned(), endless).await.unwrap();
    });
}

#[test]
fn touch_also_sets_the_grace() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let mut client = server.raw();
        let mut grace = || client.call(&["CACHE.INSPECT", "key"]).field("grace").int();
        cache.set("key", &1, long().grace(GRACE)).await.unwrap();
        assert_eq!(grace(), 300_000);
        assert!(cache.touch("key", long().grace(GRACE * 2)).await.unwrap());
        assert_eq!(grace(), 600_000);
        assert!(cache.touch("key", long()).await.unwrap());
        assert_eq!(grace(), 0);
    });
}

#[test]
fn lease_outlasts_the_hard_timeout_and_the_network_delay() {
    let server = Server::start();
    run(async {
        let proxy = Proxy::before(server.port()).await;
        let far = connected(builder(proxy.port())).await;
        let near = cache_at(&server).await;
        proxy.turn(Weather::Slow(Duration::from_millis(200)));
        let entry = long().hard_timeout(Duration::from_millis(500));
        let loading = tokio::spawn({
            let far = far.clone();
            async move {
                let loader = || async {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    Ok::<_, String>("far".to_owned())
                };
                far.get_or_load("key", entry, loader).await
            }
        });
        eventually("it loads", async || far.stats().loads == 1).await;
        let other = load(&near, long(), Some("near")).await;
        assert_eq!(other.as_deref(), Some("far"));
        assert_eq!(loading.await.unwrap().unwrap(), "far");
        assert_eq!((near.stats().loads, far.stats().sets_refused), (0, 0));
    });
}
