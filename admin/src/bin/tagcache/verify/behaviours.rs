//! The guide's six unit tests, one by one, on a local tier and through both tiers with the server.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tagcache::{Cache, Entry, LocalCache, ServerState};
use tagcache_admin::memory::Server;

use super::Check;
use crate::output::Failure;

const MINUTE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);
/// Entries that live [`SHORT`] are gone after this time.
const EXPIRED: Duration = Duration::from_millis(150);
const MAX_ENTRIES: usize = 100;
const MAX_TRACKED: usize = 200;
/// Time limit for the server to be ready, and to receive the hits of the local tier.
const DEADLINE: Duration = Duration::from_secs(5);

/// The difference between the expected and the actual result.
type Differs = Result<(), String>;

pub(super) fn checks(server: &Server, redis: &str) -> Result<Vec<Check>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let (deployed, on_server) = runtime.block_on(through_both_tiers(server, redis));
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(vec![
        Check::of(
            "All unit tests pass: the guide's six, in the local tier",
            summed(&in_local_tier()),
        ),
        Check::of(
            "All unit tests pass: the guide's six, with this server",
            summed(&on_server),
        ),
        Check::of(
            "Production deployment successful: applications can use this server",
            deployed,
        ),
    ])
}

fn summed(tests: &[(&str, Differs)]) -> Result<String, String> {
    let failed: Vec<String> = tests
        .iter()
        .filter_map(|(name, result)| Some(format!("{name}: {}", result.as_ref().err()?)))
        .collect();
    if failed.is_empty() && !tests.is_empty() {
        Ok(format!("{} of {}", tests.len(), tests.len()))
    } else {
        Err(failed.join("; "))
    }
}

fn is<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Differs {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?} instead of {expected:?}"))
    }
}

fn at_most(found: usize, most: usize) -> Differs {
    if found <= most {
        Ok(())
    } else {
        Err(format!("{found} instead of at most {most}"))
    }
}

/// Time of a local tier's cleanup that finds this many expired entries.
pub(super) fn longest_cleanup(entries: u32) -> Duration {
    let cache: LocalCache<u32> = LocalCache::builder().max_entries(entries as usize).build();
    for i in 0..entries {
        cache.set(&i.to_string(), i, Duration::from_millis(1), []);
    }
    std::thread::sleep(Duration::from_millis(2));
    cache.run_cleanup();
    cache.stats().longest_cleanup
}

fn in_local_tier() -> Vec<(&'static str, Differs)> {
    let new = || -> LocalCache<Value> {
        LocalCache::builder()
            .max_entries(MAX_ENTRIES)
            .max_tracked(MAX_TRACKED)
            .build()
    };
    let get = |cache: &LocalCache<Value>, key: &str| cache.get(key).map(|value| (*value).clone());
    let filled = |entries: usize| {
        let cache = new();
        for i in 0..entries {
            let key = format!("key-{i}");
            cache.set(&key, json!({"data": i}), MINUTE, []);
            cache.get(&key);
        }
        cache.run_cleanup();
        cache.stats()
    };
    let value = json!({"data": "test"});

    let stored = new();
    stored.set("test-key", value.clone(), MINUTE, []);
    let short = new();
    short.set("test-key", value.clone(), SHORT, []);
    std::thread::sleep(EXPIRED);
    let counted = new();
    counted.set("test-key", value.clone(), MINUTE, []);
    for _ in 0..3 {
        counted.get("test-key");
    }
    let top = counted.top_accessed_keys(1);
    let top: Vec<_> = top.iter().map(|top| (top.key.as_ref(), top.hits)).collect();
    let tagged = new();
    for (i, tag) in [(1, "tag-a"), (2, "tag-a"), (3, "tag-b")] {
        tagged.set(&format!("key-{i}"), json!({"data": i}), MINUTE, [tag]);
    }
    tagged.invalidate_tag("tag-a");
    let left = ["key-1", "key-2", "key-3"].map(|key| get(&tagged, key));
    vec![
        (
            "set and get",
            is(&get(&stored, "test-key"), &Some(value.clone())),
        ),
        ("expire after TTL", is(&get(&short, "test-key"), &None)),
        ("track access counts", is(&top, &vec![("test-key", 3)])),
        (
            "enforce max cache size",
            at_most(filled(150).entries, MAX_ENTRIES),
        ),
        (
            "enforce max tracking size",
            at_most(filled(250).tracked, MAX_TRACKED),
        ),
        (
            "invalidate by tag",
            is(&left, &[None, None, Some(json!({"data": 3}))]),
        ),
    ]
}

/// Whether an application's cache is up on this server, and the tests' results if it is.
async fn through_both_tiers(
    server: &Server,
    redis: &str,
) -> (Result<String, String>, Vec<(&'static str, Differs)>) {
    let namespace = format!("tagcache:verify:{}", std::process::id());
    let built = Cache::builder(redis)
        .namespace(&namespace)
        .local_max_entries(MAX_ENTRIES)
        .report_hits_every(Duration::from_millis(10))
        .build()
        .await;
    let cache = match built {
        Ok(cache) => cache,
        Err(error) => return (Err(error.to_string()), not_tried()),
    };
    if let Err(error) = cache.ready(DEADLINE).await {
        return (Err(error.to_string()), not_tried());
    }
    let stats = cache.stats();
    let states: Vec<_> = stats.servers.iter().map(|server| server.state).collect();
    let deployed = is(&states, &vec![ServerState::Up]).map(|()| {
        let module = crate::look::module_version(server).unwrap_or_else(crate::text::unknown);
        format!(
            "module {module}, client {}: connected, tracked and told of invalidations",
            env!("CARGO_PKG_VERSION")
        )
    });
    let tests = vec![
        ("set and get", set_and_get(&cache).await),
        ("expire after TTL", expire(&cache).await),
        (
            "track access counts",
            counts(&cache, server, &namespace).await,
        ),
        (
            "enforce max cache size",
            filled(&cache, 150)
                .await
                .and_then(|()| at_most(cache.stats().local.entries, MAX_ENTRIES)),
        ),
        (
            "enforce max tracking size",
            filled(&cache, 250)
                .await
                .and_then(|()| at_most(cache.stats().local.tracked, MAX_TRACKED)),
        ),
        ("invalidate by tag", invalidate(&cache).await),
    ];
    // If this does not arrive, the stored entries expire within a minute.
    let _ = cache.clear().await;
    (deployed, tests)
}

fn not_tried() -> Vec<(&'static str, Differs)> {
    vec![("not tried", Err("there is no connection".into()))]
}

async fn set(cache: &Cache, key: &str, data: Value, ttl: Duration) -> Differs {
    let stored = cache
        .set(key, &json!({"data": data}), Entry::ttl(ttl))
        .await;
    stored.map_err(|error| error.to_string())
}

async fn get(cache: &Cache, key: &str) -> Result<Option<Value>, String> {
    cache.get(key).await.map_err(|error| error.to_string())
}

async fn set_and_get(cache: &Cache) -> Differs {
    set(cache, "test-key", json!("test"), MINUTE).await?;
    is(
        &get(cache, "test-key").await?,
        &Some(json!({"data": "test"})),
    )
}

async fn expire(cache: &Cache) -> Differs {
    set(cache, "short", json!("test"), SHORT).await?;
    // This read puts the entry into the local tier too, unless it is already expired.
    get(cache, "short").await?;
    tokio::time::sleep(EXPIRED).await;
    is(&get(cache, "short").await?, &None)
}

/// The local tier reports its hits; the server has the sum.
async fn counts(cache: &Cache, server: &Server, namespace: &str) -> Differs {
    set(cache, "counted", json!("test"), MINUTE).await?;
    for _ in 0..3 {
        get(cache, "counted").await?;
    }
    let key = format!("{namespace}:counted");
    let start = Instant::now();
    loop {
        let fields: std::collections::HashMap<String, redis::Value> = server
            .command("CACHE.INSPECT", &[key.as_bytes()])
            .map_err(|error| error.to_string())?;
        let differs = is(&fields.get("hits"), &Some(&redis::Value::Int(3)));
        if differs.is_ok() || start.elapsed() > DEADLINE {
            return differs;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn filled(cache: &Cache, entries: usize) -> Differs {
    for i in 0..entries {
        let key = format!("key-{i}");
        set(cache, &key, json!(i), MINUTE).await?;
        // Entries that were read are in the local tier, entries that were only written are not.
        get(cache, &key).await?;
    }
    Ok(())
}

async fn invalidate(cache: &Cache) -> Differs {
    for (i, tag) in [(1, "tag-a"), (2, "tag-a"), (3, "tag-b")] {
        let entry = Entry::ttl(MINUTE).tags([tag]);
        let key = format!("tagged-{i}");
        let stored = cache.set(&key, &json!({"data": i}), entry).await;
        stored.map_err(|error| error.to_string())?;
        get(cache, &key).await?;
    }
    let dropped = cache.invalidate_tags(["tag-a"]).await;
    is(&dropped.map_err(|error| error.to_string())?, &2)?;
    let mut left = Vec::new();
    for i in 1..=3 {
        left.push(get(cache, &format!("tagged-{i}")).await?);
    }
    is(&left, &vec![None, None, Some(json!({"data": 3}))])
}
