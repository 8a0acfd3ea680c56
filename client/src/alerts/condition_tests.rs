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
fn the_guides_conditions_hold_above_their_thresholds() {
    let text = "memory.heapPercent > 85";
    assert_eq!(holds(text, &heap(85.0)), Some(false));
    assert_eq!(holds(text, &heap(85.1)), Some(true));
    assert_eq!(holds(text, &unknown()), None);
}

#[test]
fn and_binds_tighter_than_or_and_parentheses_tighter_than_both() {
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
fn what_is_unknown_decides_nothing() {
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
fn a_slack_moves_thresholds_towards_holding() {
    let holds = |text: &str, percent| Condition::parse(text).unwrap().holds(&heap(percent), 5.0);
    assert_eq!(holds("memory.heapPercent > 85", 80.1), Some(true));
    assert_eq!(holds("memory.heapPercent > 85", 80.0), Some(false));
    assert_eq!(holds("memory.heapPercent < 20", 24.9), Some(true));
    assert_eq!(holds("memory.heapPercent < 20", 25.0), Some(false));
}

#[test]
fn numbers_may_carry_the_metrics_units() {
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
}

#[test]
fn mistakes_say_where_they_are() {
    let cases = [
        ("", 0, "found the end"),
        (
            "memory.heapPercnt > 85",
            0,
            "no metric is called `memory.heapPercnt`",
        ),
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
fn prometheus_sees_base_units() {
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
    fn any_text_is_parsed_or_refused_with_a_place_inside_it(
        text in "([a-zA-Z.]{0,8}|memory.heapPercent|[<>=!()]{1,2}|[0-9.%]{1,4}| |and|or|é){0,12}",
    ) {
        if let Err(mistake) = Condition::parse(&text) {
            prop_assert!(mistake.offset <= text.chars().count());
        }
    }
}
