use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tagcache_admin::alerts::{Alerts, Config};
use tagcache_admin::memory::{ProcessSource, Server as Watched};
use tagcache_tests::Server;

use crate::endpoint::{Endpoint, Guide, Local, Unknown, builder};

#[test]
fn metrics_are_in_base_units_and_unknown_ones_left_out() {
    let endpoint = Endpoint::start(builder(Guide).local(Arc::new(Local)).build());
    let text = endpoint.get("/metrics").text;
    let line = |line: &str| assert!(text.contains(&format!("\n{line}\n")), "{line} in\n{text}");
    line("tagcache_memory_limit_bytes 209715200");
    line("tagcache_longest_pause_seconds 0.0015");
    line("# TYPE tagcache_local_hits_total counter");
    line("tagcache_local_entries 15");
    assert!(!text.contains("tagcache_server_up"), "{text}");
    let unknown = Endpoint::start(builder(Unknown).build())
        .get("/metrics")
        .text;
    assert!(
        !unknown.contains("heap") && !unknown.contains("NaN"),
        "{unknown}"
    );
}

#[test]
fn prometheus_accepts_the_metrics() {
    let server = Server::start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let rules = r#"alerts: [{name: 'odd "name" \', condition: memory.rss > 1, severity: info, channels: [log]}]"#;
    let alerts = Arc::new(
        Alerts::builder(Config::from_yaml(rules).unwrap())
            .start()
            .unwrap(),
    );
    let source = ProcessSource::default()
        .local(Arc::new(Local))
        .server(watched.reader());
    let endpoint = Endpoint::start(builder(source).server(watched).alerts(alerts).build());
    let answer = endpoint.get("/metrics");
    assert_eq!(answer.kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        answer.text.contains("tagcache_server_up 1\n"),
        "{}",
        answer.text
    );
    assert!(
        answer.text.contains("tagcache_entries 0\n"),
        "{}",
        answer.text
    );
    assert!(
        answer
            .text
            .contains(r#"tagcache_alert_firing{alert="odd \"name\" \\",severity="info"} 0"#),
        "{}",
        answer.text
    );
    promtool(&answer.text);
}

/// Fails if Prometheus's own check finds a fault in names, units, help or types.
pub(crate) fn promtool(text: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("skipped: promtool is not installed (Debian's package prometheus has it)");
        return;
    };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.is_empty(), "{printed}");
}
