//! Calls for several keys, by several tags, with other kinds of loaders; and reads of the state of entries and tags.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tagcache::{Bytes, Cache, CacheBuilder, Entry, Error, Servers, Where};
use tagcache_tests::{DEADLINE, Engine, RawClient, Server, call, for_each_engine};
use tokio::sync::Notify;

use crate::support::{
    Calls, builder, cache_at, connected, eventually, is_local, long, on_server, run, warm,
};
use crate::topologies::{cache_of, cluster};

/// Runs a test against a server and against a cluster.
fn everywhere(test: impl AsyncFn(Cache)) {
    let server = Server::start();
    // Time-outs are long, so that a slow machine causes no failure.
    let patient = |building: CacheBuilder| {
        let building = building.command_timeout(DEADLINE);
        building.probe(Duration::from_millis(100), DEADLINE)
    };
    run(async { test(connected(patient(builder(server.port()))).await).await });
    let servers = cluster(&Engine::default_engine(), 2, 2);
    run(async {
        let urls = servers
            .iter()
            .map(|server| format!("redis://127.0.0.1:{}", server.port()));
        let building = Cache::builder(Servers::cluster(urls)).connect_timeout(DEADLINE);
        test(connected(patient(building)).await).await;
    });
}

#[test]
fn several_values_are_stored_and_removed_in_one_call() {
    everywhere(async |cache| {
        let values: HashMap<String, usize> = (0..3000).map(|n| (format!("key{n}"), n)).collect();
        cache.set_many(&values, long().tags(["tag"])).await.unwrap();
        let keys: Vec<&String> = values.keys().collect();
        let read = cache.get_many::<usize>(&keys).await.unwrap();
        assert!(
            keys.iter()
                .zip(read)
                .all(|(key, value)| value == Some(values[*key]))
        );
        assert!(is_local(&cache, "key7").await);
        assert_eq!(
            cache.remove_many(["key7", "none", "key8"]).await.unwrap(),
            2
        );
        assert_eq!(cache.get::<usize>("key7").await.unwrap(), None);
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 2998);
        // With a TTL of zero they are removed.
        cache.set("key", &1, long()).await.unwrap();
        cache
            .set_many([("key", &2)], Entry::ttl(Duration::ZERO))
            .await
            .unwrap();
        assert_eq!(cache.get::<i32>("key").await.unwrap(), None);
    });
}

#[test]
fn set_many_stores_the_others_if_one_value_cannot_be_stored() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let mixed = [("a", &1.0), ("b", &f64::NAN), ("c", &3.0)];
        let error = cache.set_many(mixed, long()).await.unwrap_err();
        assert!(
            matches!(&error, Error::Codec { key, .. } if key == "b"),
            "{error}"
        );
        let read = cache.get_many::<f64>(["a", "b", "c"]).await.unwrap();
        assert_eq!(read, [Some(1.0), None, Some(3.0)]);
        call!(server.raw(), "SET", "b", "of another type");
        let error = cache.remove_many(["a", "b", "c"]).await.unwrap_err();
        assert!(matches!(error, Error::WrongType { .. }), "{error}");
        assert_eq!(
            cache.get_many::<f64>(["a", "c"]).await.unwrap(),
            [None, None]
        );
    });
}

/// A database that must be borrowed.
struct Database {
    rows: HashMap<String, String>,
    asked: Mutex<Vec<Vec<String>>>,
}

impl Database {
    fn new(rows: &[&str]) -> Self {
        let row = |key: &&str| ((*key).to_owned(), format!("row of {key}"));
        Self {
            rows: rows.iter().map(row).collect(),
            asked: Mutex::default(),
        }
    }

    async fn find(&self, keys: Vec<String>) -> Result<HashMap<String, String>, std::io::Error> {
        let found = keys.iter().filter_map(|key| self.rows.get_key_value(key));
        let found = found.map(|(key, row)| (key.clone(), row.clone())).collect();
        self.asked.lock().unwrap().push(keys);
        tokio::task::yield_now().await;
        Ok(found)
    }
}

#[test]
fn missing_keys_are_loaded_together_and_once() {
    everywhere(async |cache| {
        let database = Database::new(&["a", "b", "c"]);
        cache.set("a", &"fresh".to_owned(), long()).await.unwrap();
        let load =
            || cache.get_or_load_many(["a", "b", "none", "c"], long(), |keys| database.find(keys));
        let expected = ["fresh", "row of b", "", "row of c"];
        let expected = expected.map(|row| (!row.is_empty()).then(|| row.to_owned()));
        let (one, two) = tokio::join!(load(), load());
        assert_eq!(
            (one.unwrap(), two.unwrap()),
            (expected.to_vec(), expected.to_vec())
        );
        // An absent key is cached, too.
        assert_eq!(load().await.unwrap(), expected);
        let mut asked = database.asked.lock().unwrap().concat();
        asked.sort();
        assert_eq!(asked, ["b", "c", "none"]);
        let failing = |_: Vec<String>| async { Err::<HashMap<String, String>, _>("no database") };
        let error = cache
            .get_or_load_many(["a", "d"], long(), failing)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Loader { .. }), "{error}");
    });
}

#[test]
fn scoped_loader_can_borrow_and_be_cancelled() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let names = vec!["Ada".to_owned()];
        let load = async || Ok::<_, String>(names[0].clone());
        let name = cache
            .get_or_load_scoped("name", long(), load)
            .await
            .unwrap();
        assert_eq!(name, "Ada");
        assert_eq!(
            on_server(&mut server.raw(), "name").as_deref(),
            Some(r#""Ada""#)
        );
        // Its future is one that a runtime can move to another thread.
        let spawned = {
            let cache = cache.clone();
            tokio::spawn(async move {
                let own = "own".to_owned();
                cache
                    .get_or_load_scoped("own", long(), async || Ok::<_, String>(own.clone()))
                    .await
            })
        };
        assert_eq!(spawned.await.unwrap().unwrap(), "own");

        // One caller begins and gives up; a caller that waited for it, in this process or another, loads.
        let entered = Calls::default();
        let begun = {
            let (cache, entered) = (cache.clone(), entered.clone());
            tokio::spawn(async move {
                let load = async || {
                    entered.note();
                    std::future::pending::<Result<String, String>>().await
                };
                cache.get_or_load_scoped("key", long(), load).await
            })
        };
        eventually("it is being loaded", async || entered.count() == 1).await;
        let other = cache_at(&server).await;
        let waiting = [&cache, &other].map(|cache| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let load = || async { Ok::<_, String>("loaded".to_owned()) };
                cache.get_or_load("key", long(), load).await
            })
        });
        eventually("both wait", async || {
            cache.stats().joined == 1 && other.stats().lease_waits == 1
        })
        .await;
        begun.abort();
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().unwrap(), "loaded");
        }
        assert_eq!(entered.count(), 1);
    });
}

#[test]
fn scoped_loader_refreshes_a_stale_value() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let entry = long().grace(Duration::from_secs(600)).tags(["tag"]);
        cache.set("key", &"old".to_owned(), entry).await.unwrap();
        cache.revalidate_tags(["tag"]).await.unwrap();
        let failed = async || Err::<String, _>("no database");
        let stale = cache
            .get_or_load_scoped("key", entry.retry_after(Duration::ZERO), failed)
            .await;
        assert_eq!(stale.unwrap(), "old");
        eventually("the refresh is tried again", async || {
            let load = async || Ok::<_, String>("new".to_owned());
            cache.get_or_load_scoped("key", entry, load).await.unwrap() == "new"
        })
        .await;
    });
}

#[test]
fn loader_can_choose_tags_and_times() {
    let server = Server::start();
    run(async {
        let cache = connected(builder(server.port()).namespace("shop")).await;
        let load = |tenant: u32| {
            let entry = Entry::ttl(Duration::from_secs(60)).grace(Duration::from_secs(30));
            let loader = move || async move {
                Ok::<_, String>((tenant, entry.tags([format!("tenant:{tenant}")])))
            };
            cache.get_or_load_with_entry("user", cache.entry().tags(["users"]), loader)
        };
        assert_eq!(load(7).await.unwrap(), 7);
        let there = cache.inspect("user").await.unwrap().unwrap();
        assert_eq!(there.tags, ["tenant:7"]);
        assert!(there.ttl <= Duration::from_secs(60) && there.grace == Duration::from_secs(30));
        assert_eq!(load(8).await.unwrap(), 7, "it is there");
        assert_eq!(cache.invalidate_tags(["tenant:7"]).await.unwrap(), 1);
        assert_eq!(load(8).await.unwrap(), 8);
    });
}

#[test]
fn invalidation_of_a_tag_chosen_by_the_loader_is_respected() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let (entered, hold) = (Calls::default(), Arc::new(Notify::new()));
        let load = |value: &'static str| {
            let (cache, entered, hold) = (cache.clone(), entered.clone(), Arc::clone(&hold));
            tokio::spawn(async move {
                let loader = move || async move {
                    if entered.note() == 1 {
                        hold.notified().await;
                    }
                    Ok::<_, String>((value.to_owned(), long().tags(["tenant:7"])))
                };
                cache
                    .get_or_load_with_entry("key", cache.entry(), loader)
                    .await
            })
        };
        let first = load("old");
        eventually("the old value has been read", async || entered.count() == 1).await;
        cache.invalidate_tags(["tenant:7"]).await.unwrap();
        // It joins the load, because the tags are not known yet.
        let second = load("new");
        eventually("it has joined", async || cache.stats().joined == 1).await;
        hold.notify_one();
        assert_eq!(first.await.unwrap().unwrap(), "old");
        assert_eq!(second.await.unwrap().unwrap(), "new");
        assert_eq!(cache.stats().sets_refused, 1);
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("new"));
    });
}

#[test]
fn invalidate_where_matches_present_and_absent_tags() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        run(async {
            let cache = connected(builder(server.port()).namespace("shop")).await;
            let other = connected(builder(server.port()).namespace("shop")).await;
            let stranger = connected(builder(server.port()).namespace("other")).await;
            let entry = long().grace(Duration::from_secs(60));
            for (key, tags) in [
                ("page", vec!["tenant:7", "page"]),
                ("list", vec!["tenant:7", "list", "pinned"]),
                ("theirs", vec!["tenant:8", "page"]),
            ] {
                cache
                    .set(key, &key.to_owned(), entry.tags(&tags))
                    .await
                    .unwrap();
                stranger
                    .set(key, &key.to_owned(), entry.tags(&tags))
                    .await
                    .unwrap();
                warm(&cache, key).await;
                warm(&other, key).await;
            }
            let pages = Where::new()
                .all(["tenant:7"])
                .any(["page", "list"])
                .none(["pinned"]);
            assert_eq!(cache.invalidate_where(pages).await.unwrap(), 1);
            let keys = ["page", "list", "theirs"];
            let expected = [None, Some("list".to_owned()), Some("theirs".to_owned())];
            assert_eq!(cache.get_many::<String>(keys).await.unwrap(), expected);
            eventually("the other process is notified", async || {
                other.get_many::<String>(keys).await.unwrap() == expected
            })
            .await;
            let any = Where::new().any([""; 0]);
            assert_eq!(cache.invalidate_where(any).await.unwrap(), 0);
            let soft = Where::new().all(["tenant:7", "list"]).soft();
            assert_eq!(cache.invalidate_where(soft).await.unwrap(), 1);
            assert!(!cache.inspect("list").await.unwrap().unwrap().is_fresh);
            let rest = Where::new().none(["tenant:7"]);
            assert_eq!(cache.invalidate_where(rest).await.unwrap(), 1);
            assert_eq!(cache.get::<String>("theirs").await.unwrap(), None);
            let theirs = stranger.get_many::<String>(keys).await.unwrap();
            assert!(theirs.iter().all(Option::is_some), "{theirs:?}");
            let without = cache_at(&server).await;
            for mistake in [Where::new(), Where::new().all([""])] {
                let error = without.invalidate_where(mistake).await.unwrap_err();
                assert!(matches!(error, Error::Config { .. }), "{error}");
            }
        });
    });
}

#[test]
fn missed_invalidate_where_is_sent_to_the_node_later() {
    let servers = cluster(&Engine::default_engine(), 2, 2);
    run(async {
        let cache = cache_of(&servers).await;
        for n in 0..40 {
            let entry = long().tags(["tag", if n % 2 == 0 { "even" } else { "odd" }]);
            cache.set(&format!("key{n}"), &n, entry).await.unwrap();
        }
        servers[1].pause();
        let matching = Where::new().all(["tag"]).none(["odd"]);
        let error = cache.invalidate_where(matching).await.unwrap_err();
        assert!(
            matches!(error, Error::Partial { retried: true, .. }),
            "{error}"
        );
        servers[1].resume();
        eventually("no even one is left", async || {
            let even = (0..20).map(|n| format!("key{}", 2 * n));
            let read = cache.get_many::<i32>(even).await;
            read.is_ok_and(|values| values.iter().all(Option::is_none))
        })
        .await;
    });
}

#[test]
fn entries_and_tags_can_be_inspected() {
    everywhere(async |cache| {
        let before = SystemTime::now() - Duration::from_secs(60);
        assert_eq!(cache.inspect("key").await.unwrap(), None);
        assert_eq!(cache.tag_info("tag").await.unwrap(), None);
        let entry = long().grace(Duration::from_secs(9));
        cache
            .set("key", &1, entry.tags(["tag", "more"]))
            .await
            .unwrap();
        cache
            .set("for ever", &1, Entry::forever().tags(["tag"]))
            .await
            .unwrap();
        let looked = cache.inspect("key").await.unwrap().unwrap();
        assert_eq!((looked.is_fresh, looked.hits, looked.bytes), (true, 0, 1));
        assert_eq!(
            (looked.tags.len(), looked.grace),
            (2, Duration::from_secs(9))
        );
        assert!(looked.memory > 1 && looked.ttl <= crate::support::LONG);
        let tag = cache.tag_info("tag").await.unwrap().unwrap();
        assert_eq!(
            (tag.entries, tag.invalidations, tag.last_invalidated),
            (2, 0, None)
        );
        assert_eq!(cache.tag_times("tag").await.unwrap(), (None, None));
        cache.revalidate_tags(["tag"]).await.unwrap();
        let (hard, soft) = cache.tag_times("tag").await.unwrap();
        assert!(hard.is_none() && soft.unwrap() > before);
        let looked = cache.inspect("key").await.unwrap().unwrap();
        assert_eq!((looked.is_fresh, looked.ttl), (false, Duration::ZERO));
        let limited = Where::new().all(["tag"]).stale_for(Duration::ZERO);
        assert_eq!(cache.invalidate_where(limited).await.unwrap(), 1);
        assert_eq!(
            cache.inspect("key").await.unwrap(),
            None,
            "no grace is left"
        );
        cache.invalidate_tags(["tag"]).await.unwrap();
        assert!(cache.tag_times("tag").await.unwrap().0.unwrap() > before);
        let tag = cache.tag_info("tag").await.unwrap().unwrap();
        assert_eq!((tag.entries, tag.invalidations), (0, 2));
        assert!(tag.last_invalidated.unwrap() > before);
    });
}

#[test]
fn closed_cache_has_no_connections_and_still_loads() {
    everywhere(async |cache| {
        cache.set("key", &"value".to_owned(), long()).await.unwrap();
        warm(&cache, "key").await;
        assert!(cache.close(Duration::from_secs(30)).await);
        for error in [
            cache.get::<String>("key").await.unwrap_err(),
            cache
                .set("key", &"new".to_owned(), long())
                .await
                .unwrap_err(),
            cache.remove("key").await.unwrap_err(),
            cache.invalidate_tags(["tag"]).await.unwrap_err(),
            cache.ready(Duration::MAX).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Closed), "{error}");
        }
        let load = || async { Ok::<_, String>("loaded".to_owned()) };
        assert_eq!(
            cache.get_or_load("key", long(), load).await.unwrap(),
            "loaded"
        );
    });
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        cache.close(Duration::from_secs(30)).await;
        eventually("the server has no client of ours", async || {
            !call!(server.raw(), "CLIENT", "LIST")
                .text()
                .contains("lib-name=tagcache")
        })
        .await;
    });
}

#[test]
fn default_entry_applies_to_calls() {
    let server = Server::start();
    run(async {
        let minute = Entry::ttl(Duration::from_secs(60)).grace(Duration::from_secs(7));
        let cache = connected(builder(server.port()).default_entry(minute)).await;
        cache
            .set("key", &1, cache.entry().tags(["tag"]))
            .await
            .unwrap();
        let looked = cache.inspect("key").await.unwrap().unwrap();
        assert!(looked.ttl <= Duration::from_secs(60) && looked.grace == Duration::from_secs(7));
    });
}

#[test]
fn hit_of_an_arc_value_is_not_copied() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let value = Arc::new("large".to_owned());
        cache.set("key", &value, long()).await.unwrap();
        let read = async || cache.get::<Arc<String>>("key").await.unwrap().unwrap();
        let (first, second) = (read().await, read().await);
        assert!(Arc::ptr_eq(&first, &second));
        let load = || async { Err::<Arc<String>, _>("it is there") };
        let third = cache.get_or_load("key", long(), load).await.unwrap();
        assert!(Arc::ptr_eq(&first, &third));
        // It is stored as the value itself.
        assert_eq!(
            on_server(&mut server.raw(), "key").as_deref(),
            Some(r#""large""#)
        );
        let bytes = connected(builder(server.port()).codec(Bytes)).await;
        let value: Arc<[u8]> = Arc::from(&b"\xff\x00"[..]);
        bytes.set("bytes", &value, long()).await.unwrap();
        assert_eq!(bytes.get::<Arc<[u8]>>("bytes").await.unwrap(), Some(value));
    });
}

#[test]
fn failed_refresh_is_not_retried_before_retry_after() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let other = cache_at(&server).await;
        let entry = long()
            .grace(Duration::from_secs(600))
            .retry_after(Duration::from_secs(60))
            .tags(["tag"]);
        cache.set("key", &"old".to_owned(), entry).await.unwrap();
        cache.revalidate_tags(["tag"]).await.unwrap();
        let calls = Calls::default();
        let load = async |cache: &Cache| {
            let calls = calls.clone();
            let loader = move || async move {
                calls.note();
                Err::<String, _>("no database")
            };
            assert_eq!(
                cache.get_or_load("key", entry, loader).await.unwrap(),
                "old"
            );
        };
        load(&cache).await;
        eventually("the refresh has failed", async || {
            cache.stats().fail_safe == 1
        })
        .await;
        // Longer than a lease lasts that is not renewed.
        let mut client: RawClient = server.raw();
        for _ in 0..30 {
            load(&cache).await;
            load(&other).await;
            let leases = call!(client, "CACHE.STATS").field("leases").int();
            assert_eq!((leases, calls.count()), (1, 1));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn take_returns_a_value_once_and_retag_replaces_tags() {
    everywhere(async |cache| {
        cache.set("key", &7, long().tags(["old"])).await.unwrap();
        assert!(cache.get::<i32>("key").await.unwrap().is_some());
        assert!(cache.exists("key").await.unwrap() && !cache.exists("none").await.unwrap());
        assert!(cache.retag("key", ["new"]).await.unwrap());
        assert_eq!(cache.invalidate_tags(["old"]).await.unwrap(), 0);
        assert_eq!(cache.inspect("key").await.unwrap().unwrap().tags, ["new"]);
        assert!(!cache.retag("none", ["new"]).await.unwrap());
        assert!(cache.retag("key", [""]).await.is_err());
        let (one, two) = tokio::join!(cache.take::<i32>("key"), cache.take::<i32>("key"));
        let mut taken = [one.unwrap(), two.unwrap()];
        taken.sort();
        assert_eq!(taken, [None, Some(7)]);
        assert_eq!(cache.get::<i32>("key").await.unwrap(), None);
    });
}

#[test]
fn hold_on_a_tag_limits_the_ttl_of_new_entries() {
    let server = Server::start();
    run(async {
        let cache = connected(builder(server.port()).namespace("shop")).await;
        let hold = Duration::from_secs(60);
        cache.hold(hold, ["tag"]).await.unwrap();
        for (key, tag) in [("held", "tag"), ("free", "other")] {
            cache.set(key, &1, long().tags([tag])).await.unwrap();
        }
        assert!(cache.inspect("held").await.unwrap().unwrap().ttl <= hold);
        assert!(cache.inspect("free").await.unwrap().unwrap().ttl > hold);
        assert!(cache.hold(hold, [""]).await.is_err());
    });
}

#[test]
fn several_keys_use_one_command_where_possible() {
    let server = Server::start();
    run(async {
        let cache = cache_at(&server).await;
        let values: HashMap<String, usize> = (0..100).map(|n| (format!("key{n}"), n)).collect();
        let calls = |name: &str| {
            let stats = server.raw().call(&["INFO", "commandstats"]).text();
            let line = stats
                .lines()
                .find(|line| line.starts_with(&format!("cmdstat_{}:", name.to_lowercase())));
            let count = line.and_then(|line| line.split(['=', ',']).nth(1));
            count.map_or(0, |count| count.parse::<u64>().expect("a number"))
        };
        cache.set_many(&values, long().tags(["tag"])).await.unwrap();
        assert_eq!((calls("CACHE.MSET"), calls("CACHE.SET")), (1, 0));
        let keys: Vec<&String> = values.keys().collect();
        let portions = 2;
        assert_eq!(cache.get_many::<usize>(&keys).await.unwrap().len(), 100);
        assert_eq!((calls("CACHE.MFETCH"), calls("CACHE.FETCH")), (portions, 0));
        // Jitter is drawn per value.
        cache.set_many(&values, long().jitter(0.5)).await.unwrap();
        assert_eq!((calls("CACHE.MSET"), calls("CACHE.SET")), (1, 100));
        // A key of another type is refused, the others are stored and read.
        call!(server.raw(), "CACHE.FLUSH");
        call!(server.raw(), "SET", "key7", "of another type");
        let error = cache.set_many(&values, long()).await.unwrap_err();
        assert!(matches!(error, Error::WrongType { .. }), "{error}");
        let read = cache.get_each::<usize>(&keys).await;
        for (key, read) in keys.into_iter().zip(read) {
            match read {
                Ok(value) => assert_eq!(value, values.get(key).copied()),
                Err(error) => {
                    assert!(matches!(error, Error::WrongType { .. }), "{error}");
                    assert_eq!(key, "key7");
                }
            }
        }
        // A user without the right to these commands, like a module without them: key by key.
        call!(server.raw(), "DEL", "key7");
        let denied = "-cache.mset -cache.mfetch".split(' ');
        let rule: Vec<&str> = "ACL SETUSER default".split(' ').chain(denied).collect();
        assert_eq!(server.raw().call(&rule).text(), "OK");
        cache.set_many(&values, long()).await.unwrap();
        let read = cache.get_many::<usize>(values.keys()).await.unwrap();
        assert!(values.values().map(|value| Some(*value)).eq(read));
    });
}

#[test]
fn add_stores_absent_keys_and_replace_keeps_tags() {
    everywhere(async |cache| {
        let entry = || long().tags(["tag"]);
        assert!(!cache.replace("key", &0, long()).await.unwrap());
        assert!(!cache.exists("key").await.unwrap());
        assert!(
            !cache
                .add("key", &0, Entry::ttl(Duration::ZERO))
                .await
                .unwrap()
        );
        assert!(cache.add("key", &1, entry()).await.unwrap());
        assert!(!cache.add("key", &2, entry()).await.unwrap());
        assert_eq!(cache.get::<i32>("key").await.unwrap(), Some(1));
        assert!(cache.replace("key", &3, long()).await.unwrap());
        assert_eq!(cache.get::<i32>("key").await.unwrap(), Some(3));
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        assert_eq!(cache.get::<i32>("key").await.unwrap(), None);
        // Stale counts as absent.
        let stale = entry().grace(Duration::from_secs(60));
        cache.set("key", &4, stale).await.unwrap();
        assert_eq!(cache.revalidate_tags(["tag"]).await.unwrap(), 1);
        assert!(!cache.replace("key", &5, long()).await.unwrap());
        assert!(cache.add("key", &6, entry()).await.unwrap());
        assert!(
            cache
                .replace("key", &7, Entry::ttl(Duration::ZERO))
                .await
                .unwrap()
        );
        assert!(!cache.exists("key").await.unwrap());
    });
}

#[test]
fn replaced_value_stays_in_its_namespace() {
    let server = Server::start();
    run(async {
        let cache = connected(builder(server.port()).namespace("shop")).await;
        cache.set("key", &1, long()).await.unwrap();
        assert!(cache.replace("key", &2, long()).await.unwrap());
        assert_eq!(cache.clear().await.unwrap(), 1);
        assert_eq!(cache.get::<i32>("key").await.unwrap(), None);
    });
}

#[test]
fn get_with_tags_respects_tags_given_by_the_reader() {
    everywhere(async |cache| {
        cache.set("page", &1, long().tags(["own"])).await.unwrap();
        let soft = ["path"];
        assert_eq!(cache.get_with_tags("page", soft).await.unwrap(), Some(1));
        assert!(is_local(&cache, "page").await);
        cache.invalidate_tags(soft).await.unwrap();
        // For other callers nothing changes, in the local tier either.
        assert_eq!(
            cache.get_with_tags::<i32>("page", soft).await.unwrap(),
            None
        );
        assert_eq!(cache.get::<i32>("page").await.unwrap(), Some(1));
        assert_eq!(cache.get_with_tags("page", [""; 0]).await.unwrap(), Some(1));
        assert!(cache.get_with_tags::<i32>("page", [""]).await.is_err());
        let entry = long().tags(["own", "path"]);
        let loaded = cache.refresh("page", entry, || async { Ok::<_, Error>(2) });
        assert_eq!(loaded.await.unwrap(), 2);
        assert_eq!(cache.get_with_tags("page", soft).await.unwrap(), Some(2));
        cache.revalidate_tags(soft).await.unwrap();
        assert_eq!(
            cache.get_with_tags::<i32>("page", soft).await.unwrap(),
            None
        );
    });
}

#[test]
fn refresh_loads_once_and_serves_the_old_value_meanwhile() {
    let server = Server::start();
    run(async {
        let patient = || connected(builder(server.port()).command_timeout(DEADLINE));
        let (cache, other) = (patient().await, patient().await);
        cache.set("key", &1, long().tags(["tag"])).await.unwrap();
        let (begun, go) = (Calls::default(), Arc::new(Notify::new()));
        let refresh = |cache: &Cache, to: i32| {
            let (cache, begun, go) = (cache.clone(), begun.clone(), go.clone());
            tokio::spawn(async move {
                let loader = async move || {
                    begun.note();
                    go.notified().await;
                    Ok::<_, Error>(to)
                };
                cache.refresh("key", long().tags(["tag"]), loader).await
            })
        };
        let refreshing = refresh(&cache, 2);
        eventually("the load", async || begun.count() == 1).await;
        // Longer than a lease lasts that is not renewed.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(other.get::<i32>("key").await.unwrap(), Some(1));
        // The other process may not load now, and need not wait.
        assert_eq!(refresh(&other, 9).await.unwrap().unwrap(), 1);
        go.notify_one();
        assert_eq!(refreshing.await.unwrap().unwrap(), 2);
        eventually("the new value", async || {
            other.get::<i32>("key").await.unwrap() == Some(2)
        })
        .await;
        // A value is not stored if its tag is invalidated during the load.
        let refreshing = refresh(&cache, 3);
        eventually("the load", async || begun.count() == 2).await;
        other.invalidate_tags(["tag"]).await.unwrap();
        go.notify_one();
        assert_eq!(refreshing.await.unwrap().unwrap(), 3);
        assert_eq!(cache.get::<i32>("key").await.unwrap(), None);
        // A loader that fails keeps the existing value.
        cache.set("key", &4, long()).await.unwrap();
        let failed = cache.refresh("key", long(), || async { Err::<i32, _>("broken") });
        assert_eq!(failed.await.unwrap(), 4);
        eventually("the lease is given back", async || {
            call!(server.raw(), "CACHE.STATS").field("leases").int() == 0
        })
        .await;
    });
}
