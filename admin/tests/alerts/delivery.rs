use std::io::Write as _;
use std::time::Duration;

use serde_json::json;
use tagcache_admin::alerts::{Alerts, Config, Retries};
use tagcache_tests::{DEADLINE, wait_until};

use crate::receiver::Receiver;
use crate::{alerts, heap, one_rule};

#[test]
fn webhook_receives_alarm_and_resolution() {
    let receiver = Receiver::start(&[200]);
    let channel = format!(
        "{{type: webhook, url: '{}', headers: {{X-Key: {{env: KEY}}}}}}",
        receiver.url
    );
    let alerts = alerts(&one_rule(&channel), &[("KEY", "s3cr3t")]);
    for percent in [50, 85, 86, 99] {
        alerts.observe(&heap(percent));
    }
    let request = receiver.next();
    assert!(
        request.head.to_ascii_lowercase().contains("x-key: s3cr3t"),
        "{}",
        request.head
    );
    let summary = "[FIRING] critical: High Memory Usage on web-1 (memory.heapPercent > 85; memory.heapPercent = 86.00)";
    assert_eq!(
        request.body,
        json!({
            "name": "High Memory Usage",
            "phase": "firing",
            "severity": "critical",
            "condition": "memory.heapPercent > 85",
            "values": {"memory.heapPercent": 86.0},
            "instance": "web-1",
            "at": "2025-11-21T10:30:00.000Z",
            "key": "web-1/High Memory Usage",
            "summary": summary,
        })
    );
    // Hysteresis: 81 is still above 85 - 5.
    alerts.observe(&heap(81));
    alerts.observe(&heap(80));
    let body = receiver.next().body;
    assert_eq!(
        (&body["phase"], &body["values"]["memory.heapPercent"]),
        (&json!("resolved"), &json!(80.0))
    );
    wait_until("both are counted", DEADLINE, || {
        alerts.channels()["it"].sent == 2
    });
    assert!(receiver.is_quiet());
}

#[test]
fn delivery_is_retried_after_503_and_429() {
    let receiver = Receiver::start(&[503, 429, 200]);
    let alerts = alerts(
        &one_rule(&format!("{{type: webhook, url: '{}'}}", receiver.url)),
        &[],
    );
    alerts.observe(&heap(99));
    let bodies: Vec<_> = (0..3).map(|_| receiver.next().body).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    wait_until("it is counted", DEADLINE, || {
        alerts.channels()["it"].sent == 1
    });
    let figures = &alerts.channels()["it"];
    assert_eq!((figures.retried, figures.failed), (2, 0));
}

#[test]
fn delivery_is_not_retried_after_404() {
    let receiver = Receiver::start(&[404]);
    let alerts = alerts(
        &one_rule(&format!("{{type: webhook, url: '{}'}}", receiver.url)),
        &[],
    );
    alerts.observe(&heap(99));
    wait_until("it is given up", DEADLINE, || {
        alerts.channels()["it"].failed == 1
    });
    let figures = &alerts.channels()["it"];
    assert_eq!(
        (figures.retried, figures.last_error.as_deref()),
        (0, Some("status 404"))
    );
}

#[test]
fn delivery_to_an_absent_receiver_fails_without_showing_its_url() {
    // Nothing listens on port 1.
    let env = &[("URL", "http://127.0.0.1:1/services/secret-part")];
    let alerts = alerts(&one_rule("{type: slack, url: {env: URL}}"), env);
    alerts.observe(&heap(99));
    wait_until("it is given up", DEADLINE, || {
        alerts.channels()["it"].failed == 1
    });
    let figures = &alerts.channels()["it"];
    assert_eq!(figures.retried, 3);
    let message = format!("{figures:?} {alerts:?}");
    assert!(!message.contains("secret-part"), "{message}");
}

#[test]
fn slack_receives_text_and_attachment() {
    let receiver = Receiver::start(&[200]);
    let url: &'static str = Box::leak(receiver.url.clone().into_boxed_str());
    let env: &'static [(&str, &str)] = Box::leak(Box::new([("URL", url)]));
    let alerts = alerts(&one_rule("{type: slack, url: {env: URL}}"), env);
    alerts.observe(&heap(99));
    let body = receiver.next().body;
    let text = body["text"].as_str().unwrap();
    assert!(
        text.contains("High Memory Usage") && text.contains("&gt; 85"),
        "{text}"
    );
    assert_eq!(body["attachments"][0]["color"], "danger");
    assert_eq!(
        body["attachments"][0]["fields"][0]["value"],
        "memory.heapPercent &gt; 85"
    );
    alerts.observe(&heap(10));
    assert_eq!(receiver.next().body["attachments"][0]["color"], "good");
}

#[test]
fn slack_markup_in_a_rule_name_is_escaped() {
    let receiver = Receiver::start(&[200]);
    let url: &'static str = Box::leak(receiver.url.clone().into_boxed_str());
    let env: &'static [(&str, &str)] = Box::leak(Box::new([("URL", url)]));
    let yaml = one_rule("{type: slack, url: {env: URL}}")
        .replace("High Memory Usage", "'<!channel> & <@U1>'");
    let alerts = alerts(&yaml, env);
    alerts.observe(&heap(99));
    let body = receiver.next().body;
    let text = body["text"].as_str().unwrap();
    assert!(
        text.contains("&lt;!channel&gt; &amp; &lt;@U1&gt;"),
        "{text}"
    );
}

#[test]
fn resolution_is_not_sent_if_resolve_is_false() {
    let receiver = Receiver::start(&[200]);
    let yaml =
        one_rule(&format!("{{type: webhook, url: '{}'}}", receiver.url)) + "    resolve: false\n";
    let alerts = alerts(&yaml, &[]);
    for percent in [99, 10, 99] {
        alerts.observe(&heap(percent));
    }
    alerts.stop();
    assert_eq!(alerts.channels()["it"].sent, 2);
    for _ in 0..2 {
        assert_eq!(receiver.next().body["phase"], "firing");
    }
}

#[test]
fn pagerduty_opens_and_resolves_one_incident() {
    let receiver = Receiver::start(&[202]);
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "routing-key\n").unwrap();
    let channel = format!(
        "{{type: pagerduty, routing_key: {{file: '{}'}}, url: '{}'}}",
        key.display(),
        receiver.url
    );
    let alerts = alerts(&one_rule(&channel), &[]);
    alerts.observe(&heap(99));
    alerts.observe(&heap(10));
    let (opened, resolved) = (receiver.next().body, receiver.next().body);
    assert_eq!(opened["routing_key"], "routing-key");
    assert_eq!(opened["event_action"], "trigger");
    assert_eq!(opened["payload"]["source"], "web-1");
    assert_eq!(opened["payload"]["severity"], "critical");
    assert_eq!(opened["payload"]["timestamp"], "2025-11-21T10:30:00.000Z");
    assert_eq!(resolved["event_action"], "resolve");
    assert_eq!(resolved["dedup_key"], opened["dedup_key"]);
}

#[test]
fn alarm_shorter_than_its_hold_time_is_not_sent() {
    let receiver = Receiver::start(&[200]);
    let yaml = one_rule(&format!("{{type: webhook, url: '{}'}}", receiver.url)) + "    for: 1h\n";
    let alerts = alerts(&yaml, &[]);
    alerts.observe(&heap(99));
    alerts.observe(&heap(99));
    assert_eq!(alerts.rules()[0].state, "pending");
    alerts.observe(&heap(10));
    assert_eq!(alerts.rules()[0].state, "quiet");
    drop(alerts);
    assert!(receiver.is_quiet());
}

#[test]
fn channels_that_cannot_be_opened_are_refused_at_startup() {
    let refused = |yaml: &str| {
        let config = Config::from_yaml(yaml).unwrap();
        Alerts::builder(config)
            .env(|_| None)
            .start()
            .unwrap_err()
            .to_string()
    };
    let guide = include_str!("../../src/alerts/guide.yaml");
    let message = refused(guide);
    assert!(message.contains("line 7, column 9: channel `email`: describe it under `channels:` or set TAGCACHE_SMTP_TO"), "{message}");
    assert!(
        message.contains("line 8, column 9: channel `slack`"),
        "{message}"
    );
    assert!(
        message.contains("line 17, column 9: channel `pagerduty`"),
        "{message}"
    );
    let message = refused(&one_rule("{type: slack, url: {env: NOWHERE}}"));
    assert!(
        message.contains("environment variable NOWHERE is not set"),
        "{message}"
    );
}

/// Running rules whose messages are sent again after an hour only.
fn patient(yaml: &str) -> Alerts {
    Alerts::builder(Config::from_yaml(yaml).unwrap())
        .retries(Retries {
            attempts: 6,
            first_pause: Duration::from_secs(3600),
            longest_pause: Duration::from_secs(3600),
        })
        .start()
        .unwrap()
}

#[test]
fn stop_retries_each_waiting_message_once() {
    let (a, b) = (Receiver::start(&[503, 200]), Receiver::start(&[503]));
    let yaml = format!(
        "channels:\n  a: {{type: webhook, url: '{}'}}\n  b: {{type: webhook, url: '{}'}}\nalerts:\n  - {{name: x, condition: memory.heapPercent > 85, severity: info, channels: [a, b], cooldown: 0s}}\n",
        a.url, b.url
    );
    let alerts = patient(&yaml);
    alerts.observe(&heap(99));
    for channel in ["a", "b"] {
        wait_until("it is in its pause", DEADLINE, || {
            alerts.channels()[channel].retried == 1
        });
    }
    // Waits behind the earlier message.
    alerts.observe(&heap(10));
    alerts.stop();
    let figures = alerts.channels();
    assert_eq!((figures["a"].sent, figures["a"].failed), (2, 0));
    assert_eq!((figures["b"].sent, figures["b"].failed), (0, 2));
    // One more attempt per message, not six.
    assert_eq!(figures["b"].retried, 1);
    let phases: Vec<_> = (0..3).map(|_| a.next().body["phase"].clone()).collect();
    assert_eq!(phases, ["firing", "firing", "resolved"]);

    // After the end no message is accepted, and a second end does nothing.
    alerts.observe(&heap(99));
    assert_eq!(alerts.channels()["a"].dropped, 1);
    alerts.stop();
    assert!(a.is_quiet());
}

#[test]
fn messages_above_the_queue_limit_are_dropped() {
    // Accepts connections and never responds.
    let stuck = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/", stuck.local_addr().unwrap());
    let alerts = patient(&one_rule(&format!("{{type: webhook, url: '{url}'}}")));
    for _ in 0..200 {
        alerts.observe(&heap(99));
        alerts.observe(&heap(10));
    }
    // 256 messages wait, and one is being sent if it was already taken out of the queue.
    let dropped = alerts.channels()["it"].dropped;
    assert!((143..=144).contains(&dropped), "{dropped}");
    drop(stuck);
}

#[test]
fn a_redirect_is_not_followed() {
    let receiver = Receiver::start(&[307]);
    let alerts = alerts(
        &one_rule(&format!("{{type: webhook, url: '{}'}}", receiver.url)),
        &[],
    );
    alerts.observe(&heap(99));
    wait_until("it is given up", DEADLINE, || {
        alerts.channels()["it"].failed == 1
    });
    assert_eq!(
        alerts.channels()["it"].last_error.as_deref(),
        Some("status 307")
    );
}

#[test]
fn invalid_response_is_retried_without_showing_the_url() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream
                .unwrap()
                .write_all(b"220 this is no HTTP, and no TLS\r\n");
        }
    });
    for scheme in ["http", "https"] {
        let url: &'static str =
            Box::leak(format!("{scheme}://user:pass-word@{address}/secret-part").into_boxed_str());
        let env: &'static [(&str, &str)] = Box::leak(Box::new([("URL", url)]));
        let alerts = alerts(&one_rule("{type: slack, url: {env: URL}}"), env);
        alerts.observe(&heap(99));
        wait_until("it is given up", DEADLINE, || {
            alerts.channels()["it"].failed == 1
        });
        let figures = &alerts.channels()["it"];
        assert_eq!(figures.retried, 3, "{figures:?}");
        let message = figures.last_error.as_deref().unwrap();
        assert!(
            !message.contains("secret-part") && !message.contains("pass-word"),
            "{message}"
        );
    }
}
