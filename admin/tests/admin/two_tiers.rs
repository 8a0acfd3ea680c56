use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde_json::json;
use tagcache::{Cache, Entry, LocalCache};
use tagcache_admin::memory::{LocalTier, ProcessSource, Server as Watched};
use tagcache_tests::{DEADLINE, Server, wait_until};

use crate::endpoint::{Endpoint, Guide, TOKEN, builder};

#[test]
fn two_tier_cache_is_listed_and_cleared_in_both_tiers() {
    let server = Server::start();
    let url = format!("redis://127.0.0.1:{}/", server.port());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = runtime.block_on(async {
        let cache = Cache::builder(url.as_str()).build().await.unwrap();
        cache.ready(DEADLINE).await.unwrap();
        for key in ["a", "b"] {
            let entry = Entry::ttl(Duration::from_secs(600)).tags([format!("tag:{key}")]);
            cache.set(key, &1, entry).await.unwrap();
        }
        cache
    });
    let get = |key: &str| runtime.block_on(cache.get::<i32>(key)).unwrap();
    wait_until("a read fills the local tier", DEADLINE, || {
        get("a");
        get("b");
        cache.figures().entries == 2
    });

    let watched = Watched::open(&url).unwrap();
    let tier: Arc<dyn LocalTier> = Arc::new(cache.clone());
    let source = ProcessSource::default()
        .local(Arc::clone(&tier))
        .server(watched.reader());
    let admin = builder(source).cache(cache.clone()).server(watched).build();
    let endpoint = Endpoint::start(admin);
    let local = || endpoint.get("/api/admin/memory-stats").json()["cache"]["local"].clone();
    wait_until("both show", DEADLINE, || local()["totalEntries"] == 2);
    let listed = local();
    let mut keys: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["key"].as_str().unwrap())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["a", "b"]);

    let answer = endpoint.post("/api/admin/cache/invalidate", r#"{"tags": ["tag:a"]}"#);
    assert_eq!(answer.json(), json!({"invalidated": 1}));
    assert_eq!((get("a"), get("b")), (None, Some(1)));
    assert_eq!(
        endpoint.post("/api/admin/cache/clear", "").json()["cleared"]["redis"],
        1
    );
    assert_eq!(get("b"), None);
}

#[test]
fn client_counters_appear_in_stats_and_prometheus_metrics() {
    let server = Server::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = runtime.block_on(async {
        let url = format!("redis://127.0.0.1:{}/", server.port());
        let cache = Cache::builder(url.as_str()).build().await.unwrap();
        cache.ready(DEADLINE).await.unwrap();
        let entry = || Entry::ttl(Duration::from_secs(600));
        for key in ["a", "b"] {
            let load = async || Ok::<_, std::io::Error>(1);
            cache.get_or_load(key, entry(), load).await.unwrap();
        }
        let load = async || Err::<i32, _>(std::io::Error::other("the database is away"));
        cache.get_or_load("c", entry(), load).await.unwrap_err();
        cache
    });
    let endpoint = Endpoint::start(
        builder(ProcessSource::default())
            .cache(cache.clone())
            .build(),
    );
    let stats = endpoint.get("/api/admin/memory-stats").json();
    crate::stats::check(&stats);
    let client = &stats["raw"]["client"];
    assert_eq!(client["counts"]["loads"], 3);
    assert_eq!(client["counts"]["loadFailures"], 1);
    assert_eq!(client["counts"]["sets"], 2);
    let node = &client["servers"][0];
    assert_eq!(
        (&node["state"], &node["connected"]),
        (&json!("up"), &json!(true))
    );

    let text = endpoint.get("/metrics").text;
    crate::metrics::promtool(&text);
    let line = |line: &str| assert!(text.contains(&format!("\n{line}\n")), "{line} in\n{text}");
    line("# HELP tagcache_client_loads_total Loaders run.");
    line("# TYPE tagcache_client_loads_total counter");
    line("tagcache_client_loads_total 3");
    line("tagcache_client_load_failures_total 1");
    line("tagcache_client_lease_waits_total 0");
    line("tagcache_client_joined_total 0");
    let address = format!("127.0.0.1:{}", server.port());
    line(&format!(
        "tagcache_client_server_connected{{server=\"{address}\"}} 1"
    ));
    for count in ["insertions", "expirations", "invalidated", "rejected"] {
        line(&format!("# TYPE tagcache_local_{count}_total counter"));
    }
    drop(server);
    wait_until("the loss shows", DEADLINE, || {
        let stats = endpoint.get("/api/admin/memory-stats").json();
        crate::stats::check(&stats);
        stats["raw"]["client"]["servers"][0]["connected"] == false
    });
}

#[test]
fn namespaced_cache_uses_server_tag_names_and_clears_only_itself() {
    let server = Server::start();
    let url = format!("redis://127.0.0.1:{}/", server.port());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let caches: Vec<Cache> = runtime.block_on(async {
        let mut caches = Vec::new();
        for name in ["shop", "blog"] {
            let cache = Cache::builder(url.as_str())
                .namespace(name)
                .build()
                .await
                .unwrap();
            cache.ready(DEADLINE).await.unwrap();
            for key in ["a", "b"] {
                let entry = Entry::ttl(Duration::from_secs(600)).grace(Duration::from_secs(600));
                cache
                    .set(key, &1, entry.tags([format!("tag:{key}")]))
                    .await
                    .unwrap();
            }
            caches.push(cache);
        }
        caches
    });
    let get = |at: usize, key: &str| runtime.block_on(caches[at].get::<i32>(key)).unwrap();
    let endpoint = Endpoint::start(builder(Guide).cache(caches[0].clone()).build());
    let dropped = |body: &str| {
        endpoint.post("/api/admin/cache/invalidate", body).json()["invalidated"].clone()
    };
    assert_eq!(get(0, "a"), Some(1));
    assert_eq!(dropped(r#"{"tags": ["tag:a"]}"#), 0);
    assert_eq!(dropped(r#"{"tags": ["shop:tag:a"], "soft": true}"#), 1);
    assert_eq!(
        (get(0, "a"), get(0, "b"), get(1, "a")),
        (None, Some(1), Some(1))
    );
    // After a soft invalidation the value is still there for readers that accept a stale one.
    let kept: Option<String> = redis::cmd("CACHE.FETCH")
        .arg("shop:a")
        .query::<Vec<redis::Value>>(&mut server.connection())
        .map(|reply| redis::from_redis_value(reply[0].clone()).unwrap())
        .unwrap();
    assert_eq!(kept.as_deref(), Some("STALE"));
    let cleared = endpoint.post("/api/admin/cache/clear", "").json();
    assert_eq!(cleared["cleared"]["redis"], 2, "{cleared}");
    assert_eq!(
        (get(0, "b"), get(1, "a"), get(1, "b")),
        (None, Some(1), Some(1))
    );
}

#[test]
fn clear_empties_all_primaries_of_a_cluster() {
    let mut nodes: Vec<Server> = (0..2)
        .map(|_| {
            Server::builder()
                .arg("--cluster-enabled", "yes")
                .arg("--cluster-port", &tagcache_tests::free_port().to_string())
                .start()
        })
        .collect();
    let ask = |node: usize, command: &[&str]| -> redis::Value {
        redis::cmd(command[0])
            .arg(&command[1..])
            .query(&mut nodes[node].connection())
            .unwrap()
    };
    ask(0, &["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    ask(1, &["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    ask(1, &["CLUSTER", "SET-CONFIG-EPOCH", "2"]);
    let bus: Vec<String> = redis::cmd("CONFIG")
        .arg(&["GET", "cluster-port"])
        .query(&mut nodes[1].connection())
        .unwrap();
    ask(
        0,
        &[
            "CLUSTER",
            "MEET",
            "127.0.0.1",
            &nodes[1].port().to_string(),
            &bus[1],
        ],
    );
    for node in &nodes {
        wait_until("the nodes know each other", DEADLINE, || {
            let info: String = redis::cmd("CLUSTER")
                .arg("INFO")
                .query(&mut node.connection())
                .unwrap();
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        });
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = runtime.block_on(async {
        let urls = nodes
            .iter()
            .map(|node| format!("redis://127.0.0.1:{}", node.port()));
        let cache = Cache::builder(tagcache::Servers::cluster(urls))
            .build()
            .await
            .unwrap();
        cache.ready(DEADLINE).await.unwrap();
        for i in 0..40 {
            let entry = Entry::ttl(Duration::from_secs(600)).tags([format!("half:{}", i % 2)]);
            cache.set(&format!("key:{i}"), &i, entry).await.unwrap();
        }
        cache
    });
    let held = || -> Vec<u64> {
        nodes
            .iter()
            .map(|node| redis::cmd("DBSIZE").query(&mut node.connection()).unwrap())
            .collect()
    };
    assert!(held().iter().all(|keys| *keys > 0), "{:?}", held());
    let endpoint = Endpoint::start(builder(Guide).cache(cache).build());
    let answer = endpoint.post("/api/admin/cache/invalidate", r#"{"tags": ["half:0"]}"#);
    assert_eq!(answer.json(), json!({"invalidated": 20}));
    let cleared = endpoint.post("/api/admin/cache/clear", "").json();
    assert_eq!(cleared["cleared"]["redis"], 20, "{cleared}");
    wait_until("both are empty", DEADLINE, || held() == [0, 0]);
    // The response names the server that was not reached, so the caller knows which entries are still served there.
    let lost = nodes.pop().unwrap();
    let address = format!("127.0.0.1:{}", lost.port());
    drop(lost);
    let partial = endpoint.post("/api/admin/cache/invalidate", r#"{"tags": ["half:0"]}"#);
    assert_eq!(partial.status, 502, "{}", partial.text);
    assert!(partial.text.contains(&address), "{}", partial.text);
}

#[test]
fn endpoint_works_with_a_local_cache_alone() {
    let cache = LocalCache::new(100);
    cache.set("a", 1, Duration::from_secs(600), ["red"]);
    let cache = Arc::new(cache);
    let tier: Arc<dyn LocalTier> = Arc::<LocalCache<i32>>::clone(&cache);
    let endpoint = Endpoint::start(
        builder(ProcessSource::default().local(Arc::clone(&tier)))
            .local(tier)
            .build(),
    );
    let stats = endpoint.get("/api/admin/memory-stats").json();
    assert_eq!(stats["cache"]["local"]["entries"][0]["key"], "a");
    assert_eq!(stats["raw"]["server"]["state"], "none");
    let answer = endpoint.post("/api/admin/cache/invalidate", r#"{"tags": ["red"]}"#);
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"invalidated": null}))
    );
    assert_eq!(cache.get("a"), None);
}

#[test]
fn router_works_under_a_path_prefix() {
    for (prefix, page, link) in [
        ("/ops/", "/ops/", "assets/dashboard.css"),
        ("/ops", "/ops", "ops/assets/dashboard.css"),
        ("/a/ops", "/a/ops", "ops/assets/dashboard.css"),
    ] {
        let nested = Router::new().nest(prefix, builder(Guide).build().router());
        let endpoint = Endpoint::serve(nested);
        let answer = endpoint.send("GET", page, &[], "");
        assert_eq!(answer.status, 200, "{page}");
        // The page's URLs are relative to its own.
        assert!(
            answer.text.contains(&format!("href=\"{link}\"")),
            "{}",
            answer.text
        );
        let prefix = prefix.trim_end_matches('/');
        let style = endpoint.send("GET", &format!("{prefix}/assets/dashboard.css"), &[], "");
        assert_eq!(style.status, 200, "{prefix}");
        let stats = endpoint.get_as(TOKEN, &format!("{prefix}/api/admin/memory-stats"));
        assert_eq!(stats.status, 200, "{prefix}");
    }
}
