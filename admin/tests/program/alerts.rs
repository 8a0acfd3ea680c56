use std::process::Command;

use serde_json::{Value, json};
use tagcache_admin::memory::METRICS;

use crate::run::{ended, program, run};

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/alerts/guide.yaml");

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn check_accepts_the_rules_of_the_guide_once_channels_are_set() {
    assert_eq!(
        run(&["alerts", "check", "--syntax-only", GUIDE]).ok().out,
        format!("{GUIDE}: 2 rules, no mistakes\n")
    );
    let without = run(&["alerts", "check", GUIDE]);
    assert_eq!(without.code, 4);
    assert!(
        without.err.contains("line 7, column 9: channel `email`"),
        "{}",
        without.err
    );
    let described = ended(
        program()
            .args(["alerts", "check", "--json", GUIDE])
            .env("TAGCACHE_SLACK_URL", "https://example.org/hook")
            .env("TAGCACHE_PAGERDUTY_KEY", "key")
            .env("TAGCACHE_SMTP_HOST", "mail.example.org")
            .env("TAGCACHE_SMTP_FROM", "cache@example.org")
            .env("TAGCACHE_SMTP_TO", "ops@example.org"),
    );
    assert_eq!(
        described.ok().json()["rules"],
        json!(["High Memory Usage", "Critical Memory Usage"])
    );
}

#[test]
fn check_reports_line_and_column() {
    let (_dir, path) = file(
        "alerts:\n  - name: x\n    condition: memory.heapPercent >> 85\n    severity: warning\n",
    );
    let refused = run(&["alerts", "check", &path]);
    assert_eq!(refused.code, 4);
    assert!(
        refused
            .err
            .contains(&format!("{path}: line 3, column 35: ")),
        "{}",
        refused.err
    );
    let json = run(&["alerts", "check", "--json", &path]);
    assert_eq!(
        (json.code, &json.json()["problems"][0]["line"]),
        (4, &json!(3))
    );
}

#[test]
fn export_writes_prometheus_rules_and_a_grafana_dashboard() {
    let rules = run(&["alerts", "export", GUIDE]).ok().out;
    let (_dir, path) = file(&rules);
    match Command::new("promtool")
        .args(["check", "rules", &path])
        .output()
    {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        ),
        Err(_) => {
            eprintln!("skipped: promtool is not installed (Debian's package prometheus has it)");
        }
    }

    let dashboard: Value = run(&["alerts", "export", "--grafana"]).ok().json();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 8);
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    for target in targets {
        let expr = target["expr"].as_str().unwrap();
        let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for name in words.filter(|word| word.starts_with("tagcache_")) {
            let known = METRICS.iter().any(|metric| metric.prometheus == name)
                || name == "tagcache_alert_firing";
            assert!(known, "{name} in {expr}");
        }
    }
}

#[test]
fn test_sends_a_message_and_reports_its_delivery() {
    let (_dir, path) = file(
        "channels:\n  away: {type: webhook, url: 'http://127.0.0.1:1/'}\nalerts:\n  - {name: x, condition: memory.rss > 1, severity: info, channels: [log, away]}\n",
    );
    let log = run(&["alerts", "test", "--channel", "log", &path]).ok();
    assert_eq!(log.out, "log: arrived\n");
    assert!(
        log.err.contains("[FIRING] info: Test of the channel"),
        "{}",
        log.err
    );
    let both = run(&["alerts", "test", "--json", &path]);
    assert_eq!(both.code, 1);
    let arrived: Vec<_> = both
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["arrived"].clone())
        .collect();
    assert_eq!(arrived, [json!(false), json!(true)]);
}

#[test]
fn metrics_lists_every_metric_of_conditions() {
    let text = run(&["alerts", "metrics"]).ok().out;
    assert!(
        text.lines()
            .any(|line| line.starts_with("memory.heapPercent ")),
        "{text}"
    );
    assert_eq!(text.lines().count(), METRICS.len());
}
