use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tagcache_admin::alerts::Config;
use tagcache_admin::memory::{Growth, METRICS, ServerReading, Snapshot, Status};

use crate::{alerts, heap};

/// `promtool check rules`; `None` where promtool is not installed.
fn promtool(rules: &str) -> Option<Result<String, String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.yaml");
    std::fs::write(&path, rules).unwrap();
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&path)
        .output()
        .ok()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some(if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr) + &text(output.stdout))
    })
}

#[test]
fn prometheus_accepts_the_exported_rules() {
    let yaml = "alerts:
  - {name: High Memory Usage, condition: memory.heapPercent > 85, severity: warning, for: 90s}
  - {name: 'Odd \"name\": {{x}}', condition: 'memory.rss > 1.5 GB and (cache.hitRate < 70 or cache.redis.connected == false)', severity: critical}
";
    let Some(checked) = promtool(&Config::from_yaml(yaml).unwrap().to_prometheus()) else {
        eprintln!("skipped: promtool is not installed (Debian's package prometheus has it)");
        return;
    };
    let printed = checked.unwrap();
    assert!(printed.contains("2 rules found"), "{printed}");
    let broken =
        promtool("groups:\n  - name: x\n    rules:\n      - alert: a\n        expr: '1 >'\n")
            .unwrap();
    assert!(broken.is_err(), "promtool notices mistakes");
}

/// Conditions that Prometheus and this crate must evaluate to the same result at each of the moments below.
const CONDITIONS: [&str; 12] = [
    "memory.heapPercent > 70",
    "memory.heapPercent >= 70",
    "memory.heapPercent < 70",
    "memory.heapPercent != 70",
    "memory.heapPercent > 85% or cache.hitRate < 70",
    "memory.heapPercent > 60 and (cache.hitRate < 70 or cache.redis.connected == false)",
    "memory.heapPercent > 60 and cache.hitRate < 70 or memory.status == critical",
    "memory.status >= warning",
    "memory.leakSuspected == true",
    "memory.growth >= 1",
    "memory.heapUsed > 0.07 KB",
    "uptime.seconds < 2m",
];

fn moments() -> Vec<Snapshot> {
    let mut moments = Vec::new();
    for percent in [0, 57, 70, 86] {
        for (hit_rate, server, status, growth) in [
            (None, ServerReading::None, Status::Healthy, None),
            (
                Some(69.9),
                ServerReading::Unreachable("away".into()),
                Status::Warning,
                Some(1.0),
            ),
            (
                Some(70.0),
                ServerReading::Unreachable("away".into()),
                Status::Critical,
                Some(-3.5),
            ),
        ] {
            let mut snapshot = heap(percent);
            Arc::make_mut(&mut snapshot.latest).server = server;
            snapshot.rates.hit_rate = hit_rate;
            snapshot.status = status;
            snapshot.leak_suspected = status == Status::Warning;
            snapshot.growth = growth.map(|mb_per_minute| {
                let mut growth = Growth::default();
                growth.mb_per_minute = mb_per_minute;
                growth
            });
            snapshot.uptime = Duration::from_secs(119 + u64::from(status == Status::Critical));
            moments.push(snapshot);
        }
    }
    moments
}

#[test]
fn exported_rules_fire_in_prometheus_as_in_this_crate() {
    let mut yaml = "alerts:\n".to_owned();
    for (i, condition) in CONDITIONS.iter().enumerate() {
        writeln!(
            yaml,
            "  - {{name: 'R{{{{{i}', condition: '{condition}', severity: info}}"
        )
        .unwrap();
    }
    let mut tests = "rule_files: [rules.yaml]\nevaluation_interval: 1m\ntests:\n".to_owned();
    let mut firing = 0;
    for snapshot in moments() {
        let alerts = alerts(&yaml, &[]);
        alerts.observe(&snapshot);
        tests += "  - interval: 1m\n    input_series:\n";
        for metric in METRICS {
            if let Some(value) = metric.read(&snapshot) {
                let value = metric.unit.to_base(value);
                let name = metric.prometheus;
                writeln!(
                    tests,
                    "      - {{series: '{name}{{instance=\"web-1\"}}', values: '{value}'}}"
                )
                .unwrap();
            }
        }
        tests += "    alert_rule_test:\n";
        for (i, rule) in alerts.rules().iter().enumerate() {
            write!(
                tests,
                "      - eval_time: 0m\n        alertname: 'R{{{{{i}'\n        exp_alerts:"
            )
            .unwrap();
            if rule.state == "firing" {
                firing += 1;
                writeln!(tests, "\n          - exp_labels: {{severity: info, instance: web-1}}\n            exp_annotations: {{summary: 'R{{{{{i} on web-1', condition: '{}'}}",
                    rule.condition).unwrap();
            } else {
                tests += " []\n";
            }
        }
    }
    // Both results must occur among the cases, or the test would prove nothing.
    assert!(
        firing > 20 && firing < CONDITIONS.len() * moments().len() - 20,
        "{firing}"
    );

    let dir = tempfile::tempdir().unwrap();
    let rules = Config::from_yaml(&yaml).unwrap().to_prometheus();
    std::fs::write(dir.path().join("rules.yaml"), rules).unwrap();
    std::fs::write(dir.path().join("tests.yaml"), &tests).unwrap();
    let Ok(output) = Command::new("promtool")
        .current_dir(dir.path())
        .args(["test", "rules", "tests.yaml"])
        .output()
    else {
        eprintln!("skipped: promtool is not installed (Debian's package prometheus has it)");
        return;
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("SUCCESS"), "{printed}");
}
