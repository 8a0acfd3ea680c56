use std::process::Command;

use tagcache::alerts::Config;

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
    let told = checked.unwrap();
    assert!(told.contains("2 rules found"), "{told}");
    let broken =
        promtool("groups:\n  - name: x\n    rules:\n      - alert: a\n        expr: '1 >'\n")
            .unwrap();
    assert!(broken.is_err(), "promtool notices mistakes");
}
