//! CACHE.SET: options in every order and combination, and their effect on the TTL.

use tagcache_tests::look::inspect;
use tagcache_tests::{RawClient, Reply, ToArg, call, on_both_protocols, run};

use crate::unix_ms;

/// A combination of options in one order, and its expected result.
struct Case {
    words: Vec<Vec<u8>>,
    ttl: &'static str,
    condition: &'static str,
    tags: &'static [&'static str],
}

const TTLS: [&str; 6] = ["", "EX", "PX", "EXAT", "PXAT", "KEEPTTL"];
const CONDITIONS: [&str; 3] = ["", "NX", "XX"];
// Tags that look like options are still tags.
const TAGS: [&[&str]; 3] = [&[], &["a"], &["NX", "EX", "TAGS"]];
/// The TTL that the options set, well apart from the entry's former TTL.
const TTL_MS: i64 = 100_000;
const OLD_TTL_MS: i64 = 900_000;

/// Every combination, with its groups in every order.
fn cases(now_ms: i64) -> Vec<Case> {
    let mut cases = Vec::new();
    for ttl in TTLS {
        for condition in CONDITIONS {
            for tags in TAGS {
                let mut groups: Vec<Vec<Vec<u8>>> = Vec::new();
                let number = match ttl {
                    "EX" => Some(TTL_MS / 1000),
                    "PX" => Some(TTL_MS),
                    "EXAT" => Some((now_ms + TTL_MS) / 1000),
                    "PXAT" => Some(now_ms + TTL_MS),
                    _ => None,
                };
                if !ttl.is_empty() {
                    groups.push(
                        [ttl.to_arg()]
                            .into_iter()
                            .chain(number.map(|n| n.to_arg()))
                            .collect(),
                    );
                }
                if !condition.is_empty() {
                    groups.push(vec![condition.to_lowercase().to_arg()]);
                }
                if !tags.is_empty() {
                    let head = ["Tags".to_arg(), tags.len().to_arg()];
                    groups.push(
                        head.into_iter()
                            .chain(tags.iter().map(ToArg::to_arg))
                            .collect(),
                    );
                }
                for order in orders(groups.len()) {
                    let words = order
                        .iter()
                        .flat_map(|&group| groups[group].clone())
                        .collect();
                    cases.push(Case {
                        words,
                        ttl,
                        condition,
                        tags,
                    });
                }
            }
        }
    }
    cases
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let insert =
        |order: &Vec<usize>, at: usize| [&order[..at], &[count - 1], &order[at..]].concat();
    shorter
        .iter()
        .flat_map(|order| (0..count).map(move |at| insert(order, at)))
        .collect()
}

fn check(client: &mut RawClient, case: &Case, existing: bool) {
    let shown: Vec<_> = case
        .words
        .iter()
        .map(|word| String::from_utf8_lossy(word))
        .collect();
    let shown = format!("{} (existing: {existing})", shown.join(" "));
    call!(client, "CACHE.DEL", "key");
    if existing {
        run!(client, "CACHE.SET key old PX {OLD_TTL_MS} TAGS 1 old");
        call!(client, "CACHE.GET", "key");
    }
    let mut set = tagcache_tests::args!["CACHE.SET", "key", "new"];
    set.extend(case.words.iter().cloned());
    let reply = client.call(&set);
    let met = match case.condition {
        "NX" => !existing,
        "XX" => existing,
        _ => true,
    };
    if !met {
        assert!(reply.is_null(), "{shown}: {reply:?}");
        let entry = inspect(client, "key");
        assert_eq!(
            entry.map(|e| (e.bytes, e.tags)),
            existing.then(|| (3, vec![b"old".to_vec()])),
            "{shown}"
        );
        return;
    }
    assert_eq!(reply, Reply::ok(), "{shown}");
    assert_eq!(
        call!(client, "CACHE.GET", "key"),
        Reply::bulk("new"),
        "{shown}"
    );
    let entry = inspect(client, "key").unwrap_or_else(|| panic!("no entry after {shown}"));
    let tags: Vec<_> = case.tags.iter().map(ToArg::to_arg).collect();
    assert_eq!(entry.tags, tags, "{shown}");
    assert_eq!(entry.hits, if existing { 2 } else { 1 }, "{shown}");
    let expected_ttl = match case.ttl {
        "" => None,
        "KEEPTTL" => existing.then_some(OLD_TTL_MS),
        _ => Some(TTL_MS),
    };
    let pttl = call!(client, "CACHE.INSPECT", "key").field("pttl").int();
    match expected_ttl {
        None => assert_eq!(pttl, -1, "{shown}"),
        // The clock goes on while the test runs; EXAT has a resolution of one second.
        Some(ms) => assert!(pttl <= ms && pttl > ms - 60_000, "{shown}: pttl {pttl}"),
    }
    let native = call!(client, "PTTL", "key").int();
    assert!(
        native <= pttl && native > pttl - 10_000,
        "{shown}: PTTL {native} against pttl {pttl}"
    );
}

#[test]
fn options_work_in_every_order_and_combination() {
    on_both_protocols(|_, client| {
        let cases = cases(unix_ms(client));
        // 6 TTLs x 3 conditions x 3 tag lists, in 1, 2 or 6 orders depending on how many of the three are given.
        assert_eq!(
            cases.len(),
            1 + (5 + 2 + 2) + 2 * (5 * 2 + 5 * 2 + 2 * 2) + 6 * (5 * 2 * 2)
        );
        for case in &cases {
            check(client, case, false);
            check(client, case, true);
        }
    });
}

#[test]
fn keepttl_keeps_no_ttl_or_hits_of_a_gone_entry() {
    on_both_protocols(|_, client| {
        run!(client, "CACHE.SET key old EX 1000 TAGS 1 a");
        call!(client, "CACHE.GET", "key");
        call!(client, "CACHE.INVALIDATE", "a");
        assert_eq!(
            call!(client, "CACHE.SET", "key", "new", "KEEPTTL"),
            Reply::ok()
        );
        let entry = inspect(client, "key").unwrap();
        assert!(!entry.expires);
        assert_eq!(entry.hits, 0);
    });
}

#[test]
fn a_time_in_the_past_expires_the_entry_at_once() {
    on_both_protocols(|_, client| {
        for (option, time) in [
            ("EXAT", 1_i64),
            ("PXAT", 1),
            ("EXAT", 1_000_000_000),
            ("PXAT", 1_000_000_000_000),
        ] {
            call!(client, "CACHE.SET", "key", "old", "TAGS", 1, "a");
            let reply = run!(client, "CACHE.SET key new {option} {time} TAGS 1 a");
            assert_eq!(reply, Reply::ok());
            assert!(
                call!(client, "CACHE.GET", "key").is_null(),
                "{option} {time}"
            );
            assert!(inspect(client, "key").is_none(), "{option} {time}");
            assert_eq!(call!(client, "EXISTS", "key"), Reply::Int(0));
            assert_eq!(call!(client, "CACHE.INVALIDATE", "a"), Reply::Int(0));
        }
    });
}

#[test]
fn an_entry_expires_by_itself_and_is_counted() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v", "PX", 20, "TAGS", 1, "a");
        call!(client, "CACHE.SET", "other", "v", "TAGS", 1, "a");
        tagcache_tests::wait_until("the entry expires", tagcache_tests::DEADLINE, || {
            call!(client, "CACHE.STATS").field("expired") == Reply::Int(1)
        });
        assert!(call!(client, "CACHE.GET", "key").is_null());
        assert_eq!(
            call!(client, "CACHE.TAGINFO", "a").field("entries"),
            Reply::Int(1)
        );
        assert_eq!(call!(client, "CACHE.STATS").field("entries"), Reply::Int(1));
    });
}

#[test]
fn the_longest_possible_expire_time_is_accepted() {
    on_both_protocols(|_, client| {
        let far = i64::MAX / 4;
        assert_eq!(
            call!(client, "CACHE.SET", "key", "v", "PXAT", far),
            Reply::ok()
        );
        let now = unix_ms(client);
        let pttl = call!(client, "CACHE.INSPECT", "key").field("pttl").int();
        assert!(pttl > far - now - 10_000 && pttl <= far, "{pttl}");
    });
}
