//! CACHE.TAGTOP: the tags that hold the most.

use std::collections::BTreeMap;

use tagcache_tests::look::{inspect, wait_reclaimed};
use tagcache_tests::{
    RawClient, Reply, Rng, args, call, for_all_engines, for_each_engine, on_both_protocols,
};

use crate::{NOT_AN_INTEGER, SYNTAX};

type Row = (String, i64, i64);

/// The rows of a reply, after a check of its form.
fn rows(reply: &Reply) -> Vec<Row> {
    let Reply::Array(rows) = reply else {
        panic!("TAGTOP answers an array: {reply:?}")
    };
    let row = |row: &Reply| {
        let Reply::Array(row) = row else {
            panic!("a row is [tag, entries, bytes]: {row:?}")
        };
        let [Reply::Bulk(tag), Reply::Int(entries), Reply::Int(bytes)] = &row[..] else {
            panic!("a row is [tag, entries, bytes]: {row:?}")
        };
        (tag.escape_ascii().to_string(), *entries, *bytes)
    };
    rows.iter().map(row).collect()
}

fn tagtop(client: &mut RawClient, words: &str) -> Vec<Row> {
    let words: Vec<&str> = words.split(' ').collect();
    rows(&client.call(&words))
}

fn set(client: &mut RawClient, key: &str, len: usize, tags: &[&str]) -> i64 {
    let mut set = args!["CACHE.SET", key, vec![b'v'; len], "TAGS", tags.len()];
    set.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    assert_eq!(client.call(&set), Reply::ok());
    inspect(client, key).expect("just set").memory
}

#[test]
fn tags_are_sorted_by_entries_or_bytes_largest_first() {
    on_both_protocols(|_, client| {
        assert!(tagtop(client, "CACHE.TAGTOP").is_empty());
        let small: i64 = (0..5)
            .map(|n| set(client, &format!("small{n}"), 10, &["many"]))
            .sum();
        let two = set(client, "one", 100, &["some"]) + set(client, "two", 100, &["some"]);
        let large = set(client, "large", 50_000, &["large"]);
        let many = ("many".to_owned(), 5, small);
        let some = ("some".to_owned(), 2, two);
        let large = ("large".to_owned(), 1, large);
        let by_entries = [many.clone(), some.clone(), large.clone()];
        for words in [
            "CACHE.TAGTOP",
            "CACHE.TAGTOP BY ENTRIES",
            "cache.tagtop by entries limit 9",
        ] {
            assert_eq!(tagtop(client, words), by_entries, "{words}");
        }
        let by_bytes = tagtop(client, "CACHE.TAGTOP BY BYTES");
        assert_eq!(by_bytes[0], large);
        assert!(by_bytes.windows(2).all(|pair| pair[0].2 >= pair[1].2));
        assert_eq!(by_bytes.len(), 3);
        assert_eq!(tagtop(client, "CACHE.TAGTOP LIMIT 1 BY BYTES"), [large]);
        assert_eq!(tagtop(client, "CACHE.TAGTOP LIMIT 2"), [many, some]);
    });
}

#[test]
fn an_entry_counts_for_each_of_its_tags_until_it_is_gone() {
    on_both_protocols(|_, client| {
        let both = set(client, "both", 100, &["a", "b"]);
        let alone = set(client, "alone", 100, &["a"]);
        let expected = [("a".to_owned(), 2, both + alone), ("b".to_owned(), 1, both)];
        assert_eq!(tagtop(client, "CACHE.TAGTOP"), expected);
        call!(client, "CACHE.INVALIDATE", "b");
        wait_reclaimed(client);
        assert_eq!(tagtop(client, "CACHE.TAGTOP"), [("a".to_owned(), 1, alone)]);
        call!(client, "SELECT", 1);
        assert!(tagtop(client, "CACHE.TAGTOP").is_empty());
        call!(client, "SELECT", 0);
        call!(client, "CACHE.FLUSH");
        assert!(tagtop(client, "CACHE.TAGTOP").is_empty());
    });
}

#[test]
fn tagtop_agrees_with_taginfo_after_random_writes() {
    for_each_engine(|engine| {
        let server = tagcache_tests::Server::builder().engine(engine).start();
        let mut client = server.raw();
        let mut rng = Rng::from_env(61);
        for _ in 0..10 {
            tagcache_tests::traffic::write(&mut client, &mut rng, 500);
            for n in 0..200 {
                let tag = format!("of its own {}", rng.below(300));
                call!(
                    client,
                    "CACHE.SET",
                    n,
                    rng.bytes(n),
                    "TAGS",
                    2,
                    tag,
                    "shared"
                );
            }
            wait_reclaimed(&mut client);
            // In one transaction, where nothing expires between the commands.
            let mut queued = vec![args!["MULTI"]];
            let known = tagtop(&mut client, "CACHE.TAGTOP LIMIT 1000");
            // These come first, since TAGINFO of a small tag makes the server remove expired entries.
            queued.extend(known.iter().map(|row| args!["CACHE.TAGINFO", row.0]));
            queued.push(args!["CACHE.TAGTOP", "LIMIT", 1000]);
            queued.push(args!["CACHE.STATS"]);
            for (order, limit) in [("ENTRIES", 7), ("BYTES", 7)] {
                queued.push(args!["CACHE.TAGTOP", "BY", order, "LIMIT", limit]);
            }
            queued.push(args!["EXEC"]);
            let exec = client.pipeline(&queued).pop().expect("the reply of EXEC");
            let (infos, rest) = exec.items().split_at(known.len());
            let [seen, stats, tops @ ..] = rest else {
                panic!("EXEC answers {exec:?}")
            };
            let seen = rows(seen);
            assert_eq!(seen.len() as i64, stats.field("tags").int());
            let of_tag: BTreeMap<_, _> = seen.iter().map(|row| (&row.0, row)).collect();
            assert_eq!(of_tag.len(), seen.len(), "each tag once");
            for ((tag, _, _), info) in known.iter().zip(infos) {
                let Some((_, entries, bytes)) = of_tag.get(tag) else {
                    continue; // Its last entry expired meanwhile.
                };
                let known = (info.field("entries").int(), info.field("bytes").int());
                assert_eq!(known, (*entries, *bytes), "{tag}");
            }
            assert!(seen.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            for (top, at) in tops.iter().zip([1, 2]) {
                let size = |row: &Row| if at == 1 { row.1 } else { row.2 };
                let mut sizes: Vec<i64> = seen.iter().map(size).collect();
                sizes.sort_unstable_by(|a, b| b.cmp(a));
                let top: Vec<i64> = rows(top).iter().map(size).collect();
                assert_eq!(top, sizes[..7.min(sizes.len())]);
            }
        }
    });
}

#[test]
fn tagtop_over_200_000_tags_does_not_delay_other_clients() {
    const MANY: usize = 200_000;
    for_each_engine(|engine| {
        let server = tagcache_tests::Server::builder()
            .engine(engine)
            .module_args(&["reclaim-budget-us", "50"])
            .start();
        let mut client = server.raw();
        let numbers: Vec<usize> = (0..MANY).collect();
        for numbers in numbers.chunks(10_000) {
            let sets: Vec<_> = numbers
                .iter()
                .map(|n| {
                    args![
                        "CACHE.SET",
                        n,
                        "v",
                        "TAGS",
                        2,
                        format!("tag{n}"),
                        format!("group{}", n % 7)
                    ]
                })
                .collect();
            client.pipeline(&sets);
        }
        let mut other = server.raw();
        let mut watch = server.raw();
        for order in ["ENTRIES", "BYTES"] {
            other.send(&["CACHE.TAGTOP", "BY", order, "LIMIT", "8"]);
            // Concurrent writes, which may or may not be visible.
            for n in 0..50 {
                call!(watch, "CACHE.SET", format!("new{n}"), "v", "TAGS", 1, "new");
                call!(watch, "CACHE.DEL", n);
            }
            let seen = rows(&other.read());
            assert_eq!(seen.len(), 8, "{seen:?}");
            let groups = seen.iter().filter(|row| row.0.starts_with("group")).count();
            assert_eq!(groups, 7, "{order}: {seen:?}");
            let inside = [
                args!["MULTI"],
                args!["CACHE.TAGTOP", "LIMIT", 7],
                args!["EXEC"],
            ];
            let exec = client.pipeline(&inside).remove(2);
            assert_eq!(rows(&exec.items()[0]).len(), 7, "at once in a transaction");
        }
    });
}

/// Valkey 8.1 and newer let a command of a module wait on no connection that is subscribed, and do not say so to the client.
#[test]
fn a_subscribed_client_can_run_commands_that_take_many_slices() {
    const MANY: usize = 50_000;
    for_all_engines(|engine| {
        let server = tagcache_tests::Server::builder()
            .engine(engine)
            .module_args(&["reclaim-budget-us", "50", "reclaim-inline", "0"])
            .start();
        let (mut client, mut subscribed) = (server.raw(), server.raw().resp3());
        subscribed.send(&["SUBSCRIBE", "channel"]);
        subscribed.take_push();
        for what in ["left", "dropped"] {
            let key = |n| format!("{what}{n}");
            let set = |n| args!["CACHE.SET", key(n), "v", "TAGS", 2, what, key(n)];
            client.pipeline(&(0..MANY).map(set).collect::<Vec<_>>());
        }
        call!(client, "CACHE.GET", "left7");
        let top = call!(subscribed, "CACHE.TOP", 1);
        assert_eq!(top.items()[0].items()[0], Reply::bulk("left7"));
        assert_eq!(tagtop(&mut subscribed, "CACHE.TAGTOP LIMIT 2").len(), 2);
        call!(client, "CACHE.INVALIDATE", "dropped");
        let stats = call!(subscribed, "CACHE.STATS");
        assert_eq!(stats.field("entries"), Reply::Int(MANY as i64));
    });
}

#[test]
fn tagtop_refuses_invalid_arguments() {
    on_both_protocols(|_, client| {
        for (line, error) in [
            ("CACHE.TAGTOP BY", SYNTAX),
            ("CACHE.TAGTOP BY SIZE", SYNTAX),
            ("CACHE.TAGTOP ENTRIES", SYNTAX),
            ("CACHE.TAGTOP LIMIT", SYNTAX),
            ("CACHE.TAGTOP BY ENTRIES BY BYTES", SYNTAX),
            ("CACHE.TAGTOP LIMIT 5 LIMIT 5", SYNTAX),
            ("CACHE.TAGTOP LIMIT five", NOT_AN_INTEGER),
            ("CACHE.TAGTOP LIMIT -1", "ERR "),
            ("CACHE.TAGTOP LIMIT 0", "ERR "),
            ("CACHE.TAGTOP LIMIT 10001", "ERR "),
            ("CACHE.TAGTOP LIMIT 9223372036854775808", NOT_AN_INTEGER),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let reply = client.call(&words);
            let message = reply.error().unwrap_or_else(|| panic!("{line}: {reply:?}"));
            assert!(message.starts_with(error), "{line}: {message}");
        }
        assert_eq!(tagtop(client, "CACHE.TAGTOP LIMIT 10000"), []);
    });
}
