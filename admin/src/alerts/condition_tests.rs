use proptest::prelude::*;

use super::*;
use crate::alerts::testing::{heap, unknown};

fn holds(text: &str, snapshot: &Snapshot) -> Option<bool> {
    Condition::parse(text).unwrap().holds(snapshot, 0.0)
}

fn mistake(text: &str) -> (usize, String) {
    let mistake = Condition::parse(text).unwrap_err();
    (mistake.offset, mistake.message)
}

#[test]
fn condition_holds_only_above_its_threshold() {
    let text = "memory.heapPercent > 85";
    assert_eq!(holds(text, &heap(85.0)), Some(false));
    assert_eq!(holds(text, &heap(85.1)), Some(true));
    assert_eq!(holds(text, &unknown()), None);
}

#[test]
fn precedence_is_parentheses_then_and_then_or() {
    let at = heap(50.0);
    let yes = "memory.heapPercent > 40";
    let no = "memory.heapPercent > 60";
    assert_eq!(holds(&format!("{yes} or {no} and {no}"), &at), Some(true));
    assert_eq!(
        holds(&format!("({yes} or {no}) and {no}"), &at),
        Some(false)
    );
    assert_eq!(holds(&format!("{yes} AND {yes} Or {no}"), &at), Some(true));
}

#[test]
fn unknown_metrics_leave_a_condition_undecided() {
    let at = heap(50.0);
    let (yes, no, unknown) = (
        "memory.heapPercent>40",
        "memory.heapPercent>60",
        "cache.hitRate<70",
    );
    assert_eq!(holds(&format!("{yes} or {unknown}"), &at), Some(true));
    assert_eq!(holds(&format!("{no} or {unknown}"), &at), None);
    assert_eq!(holds(&format!("{no} and {unknown}"), &at), Some(false));
    assert_eq!(holds(&format!("{yes} and {unknown}"), &at), None);
}

#[test]
fn hysteresis_moves_thresholds_towards_holding() {
    let holds = |text: &str, percent| Condition::parse(text).unwrap().holds(&heap(percent), 5.0);
    assert_eq!(holds("memory.heapPercent > 85", 80.1), Some(true));
    assert_eq!(holds("memory.heapPercent > 85", 80.0), Some(false));
    assert_eq!(holds("memory.heapPercent < 20", 24.9), Some(true));
    assert_eq!(holds("memory.heapPercent < 20", 25.0), Some(false));
}

#[test]
fn hysteresis_does_not_apply_to_states() {
    let mut leaks = heap(50.0);
    let text = "memory.leakSuspected > 0 or memory.heapPercent > 85";
    let condition = Condition::parse(text).unwrap();
    assert_eq!(condition.holds(&leaks, 5.0), Some(false));
    leaks.leak_suspected = true;
    assert_eq!(condition.holds(&leaks, 5.0), Some(true));
}

#[test]
fn hysteresis_that_cannot_work_is_refused() {
    let refused = |text: &str, slack| Condition::parse(text).unwrap().refuses_hysteresis(slack);
    let right = [
        ("memory.heapPercent > 85", 5.0),
        ("memory.heapPercent > 5", 5.0),
        ("memory.growth > 1", 5.0),
        ("cache.hitRate < 95", 5.0),
        ("cache.redis.clients < 5", 500.0),
        ("memory.heapPercent > 85 or memory.leakSuspected > 0", 5.0),
        ("memory.rss == 5", 0.0),
    ];
    for (text, slack) in right {
        assert_eq!(refused(text, slack), None, "{text}");
    }
    let wrong = [
        ("memory.heapPercent > 3", "would never end"),
        ("memory.heapPercent >= 5", "would never end"),
        ("cache.hitRate < 96", "would never end"),
        ("cache.hitRate <= 95", "would never end"),
        (
            "memory.rss > 100 and memory.heapPercent > 85",
            "memory.rss and memory.heapPercent",
        ),
        ("memory.status >= warning", "has a threshold"),
        ("memory.rss == 100", "has a threshold"),
    ];
    for (text, why) in wrong {
        let found = refused(text, 5.0).unwrap_or_default();
        assert!(found.contains(why), "{text}: {found}");
    }
}

#[test]
fn long_condition_is_parsed_in_linear_time() {
    // A parser with quadratic cost would take minutes.
    let text = vec!["memory.heapPercent > 40"; 200_000].join(" and ");
    assert_eq!(holds(&text, &heap(50.0)), Some(true));
}

#[test]
fn thresholds_accept_the_units_of_their_metric() {
    let value = |text: &str| match Condition::parse(text).unwrap() {
        Condition::Compare(comparison) => comparison.value,
        other => panic!("{other:?}"),
    };
    let near = |text: &str, expected: f64| assert!((value(text) - expected).abs() < 1e-9, "{text}");
    near("memory.rss > 1.5 GB", 1.5 * 1024.0 * 1024.0 * 1024.0);
    near("memory.rss > 2MB", 2.0 * 1024.0 * 1024.0);
    near("memory.heapPercent>=85%", 85.0);
    near("gc.pauseMs > 0.1s", 100.0);
    near("uptime.seconds < 2 m", 120.0);
    near("memory.status == critical", 2.0);
    near("cache.redis.connected == false", 0.0);
    near("memory.growth > -1.5", -1.5);
    near("memory.rss > 1e9", 1e9);
    near("memory.rss > 1.5E+3 KB", 1.5e3 * 1024.0);
    near("memory.growth < -1e-3", -1e-3);
}

#[test]
fn parse_errors_report_the_offset() {
    let cases = [
        ("", 0, "found the end"),
        (
            "memory.heapPercnt > 85",
            0,
            "no metric is called `memory.heapPercnt`; perhaps memory.heapPercent",
        ),
        (
            "cache.redis.hitrate < 70",
            0,
            "called `cache.redis.hitrate`; perhaps cache.redis.hitRate",
        ),
        ("colour > 1", 0, "`tagcache alerts metrics` lists them"),
        ("memory.rss > 1e", 13, "`e` is no unit"),
        ("memory.rss > 1e999", 13, "too large"),
        ("not memory.rss > 1", 0, "no metric is called `not`"),
        ("heapPercent > 85", 0, "perhaps memory.heapPercent"),
        ("memory.heapPercent 85", 19, "not `85`"),
        ("memory.heapPercent => 85", 19, "not `=>`"),
        ("memory.heapPercent >", 20, "not the end"),
        ("memory.heapPercent > high", 21, "not `high`"),
        ("memory.heapPercent > 85 MB", 24, "not `MB`"),
        ("memory.heapPercent > 85MB", 21, "`MB` is no unit"),
        ("memory.heapPercent > true", 21, "is a number"),
        ("memory.heapPercent > 1 & 2", 23, "not `&`"),
        ("(memory.heapPercent > 1", 23, "not closed"),
        ("memory.heapPercent > 1)", 22, "not `)`"),
        ("memory.heapPercent > 1 and", 26, "found the end"),
    ];
    for (text, offset, message) in cases {
        let found = mistake(text);
        assert_eq!(found.0, offset, "{text}: {found:?}");
        assert!(found.1.contains(message), "{text}: {found:?}");
    }
    let deep = "(".repeat(MAX_DEPTH + 1);
    assert!(mistake(&deep).1.contains("32 parentheses"));
}

#[test]
fn promql_uses_base_units() {
    let promql = |text: &str| Condition::parse(text).unwrap().to_promql();
    assert_eq!(
        promql("memory.heapPercent > 70"),
        "tagcache_memory_heap_ratio > 0.7"
    );
    assert_eq!(
        promql("gc.pauseMs > 100"),
        "tagcache_longest_pause_seconds > 0.1"
    );
    assert_eq!(
        promql("memory.rss > 1MB and (cache.hitRate < 70 or cache.redis.connected == 0)"),
        "tagcache_memory_resident_bytes > 1048576 and (tagcache_hit_ratio < 0.7 or tagcache_server_up == 0)"
    );
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_with_an_offset_inside_it(
        text in "([a-zA-Z.]{0,8}|memory.heapPercent|[<>=!()]{1,2}|[0-9.%]{1,4}| |and|or|é){0,12}",
    ) {
        if let Err(mistake) = Condition::parse(&text) {
            prop_assert!(mistake.offset <= text.chars().count());
        }
    }
}

#[test]
fn fuzzed_conditions_are_refused_or_can_be_evaluated() {
    let corpus = [
        "memory.heapPercent > 85",
        "memory.heapPercent > 85 and (cache.hitRate < 70 or cache.redis.connected == 0)",
        "memory.rss >= 1.5 GB or status == critical",
        "((cache.redis.reclaimMaxMs != 10 ms)) AND cache.redis.connected == true",
        "memory.heapUsed <= 3e3KB",
        "größe > 1",
    ];
    let corpus = corpus.map(|text| text.as_bytes().to_vec());
    tagcache_tests::fuzz::fuzz("conditions", 3_000, &corpus, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match Condition::parse(&text) {
            Err(mistake) => {
                assert!(mistake.offset <= text.chars().count(), "{mistake:?}");
                assert!(!mistake.message.is_empty());
            }
            Ok(condition) => {
                for snapshot in [heap(0.0), heap(100.0), unknown()] {
                    let (less, more) = (
                        condition.holds(&snapshot, 0.0),
                        condition.holds(&snapshot, 1e9),
                    );
                    // Slack moves thresholds towards holding; equality has none.
                    if !text.contains('=') && less == Some(true) {
                        assert_eq!(more, Some(true));
                    }
                }
            }
        }
    });
}
