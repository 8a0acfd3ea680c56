use crate::smtp::Sink;
use crate::{alerts, heap, one_rule};

#[test]
fn alarm_and_resolution_are_sent_by_email() {
    let sink = Sink::start(0);
    let channel = format!(
        "{{type: email, host: 127.0.0.1, port: {}, tls: none, username: cache, password: {{env: PASSWORD}}, from: Cache <cache@example.org>, to: [ops@example.org, 'Night shift <night@example.org>']}}",
        sink.port
    );
    let alerts = alerts(&one_rule(&channel), &[("PASSWORD", "s3cr3t")]);
    alerts.observe(&heap(91));
    let mail = sink.next();
    assert_eq!(mail.from, "<cache@example.org>");
    assert_eq!(mail.to, ["<ops@example.org>", "<night@example.org>"]);
    let subject = "Subject: [FIRING] critical: High Memory Usage on web-1";
    assert!(mail.text.contains(subject), "{}", mail.text);
    assert!(
        mail.text.contains("memory.heapPercent = 91.00"),
        "{}",
        mail.text
    );
    assert!(!mail.text.contains("s3cr3t"));
    for header in ["Date: ", "Message-ID: <"] {
        let named = mail.text.lines().filter(|line| line.starts_with(header));
        assert_eq!(named.count(), 1, "{header} in {}", mail.text);
    }
    // PLAIN, base64 of NUL cache NUL s3cr3t.
    assert_eq!(mail.auth.as_deref(), Some("PLAIN AGNhY2hlAHMzY3IzdA=="));

    alerts.observe(&heap(80));
    assert!(sink.next().text.contains("Subject: [RESOLVED]"));
}

#[test]
fn temporarily_refused_mail_is_retried() {
    let sink = Sink::start(2);
    let channel = format!(
        "{{type: email, host: 127.0.0.1, port: {}, tls: none, from: a@example.org, to: [b@example.org]}}",
        sink.port
    );
    let alerts = alerts(&one_rule(&channel), &[]);
    alerts.observe(&heap(91));
    assert!(sink.next().text.contains("[FIRING]"));
    tagcache_tests::wait_until("it is counted", tagcache_tests::DEADLINE, || {
        let figures = &alerts.channels()["it"];
        (figures.sent, figures.retried, figures.failed) == (1, 2, 0)
    });
}

#[test]
fn permanently_refused_mail_is_not_retried() {
    let sink = Sink::refusing(9, "550 no such sender");
    let channel = format!(
        "{{type: email, host: 127.0.0.1, port: {}, tls: none, from: a@example.org, to: [b@example.org]}}",
        sink.port
    );
    let alerts = alerts(&one_rule(&channel), &[]);
    alerts.observe(&heap(91));
    tagcache_tests::wait_until("it is given up", tagcache_tests::DEADLINE, || {
        alerts.channels()["it"].failed == 1
    });
    let figures = &alerts.channels()["it"];
    assert_eq!(figures.retried, 0);
    assert!(
        figures
            .last_error
            .as_deref()
            .unwrap()
            .contains("no such sender")
    );
}

#[test]
fn mail_that_requires_tls_is_not_sent_without_it() {
    let sink = Sink::start(0);
    let channel = format!(
        "{{type: email, host: 127.0.0.1, port: {}, tls: starttls, from: a@example.org, to: [b@example.org]}}",
        sink.port
    );
    let alerts = alerts(&one_rule(&channel), &[]);
    alerts.observe(&heap(91));
    tagcache_tests::wait_until("it is given up", tagcache_tests::DEADLINE, || {
        alerts.channels()["it"].failed == 1
    });
    assert_eq!(alerts.channels()["it"].sent, 0);
}

#[test]
fn non_ascii_subject_is_encoded_as_one_header() {
    let sink = Sink::start(0);
    let yaml = format!(
        "channels:\n  it: {{type: email, host: 127.0.0.1, port: {}, tls: none, from: a@example.org, to: [b@example.org]}}\nalerts:\n  - {{name: 'Speicher über 85 %: {}', condition: memory.heapPercent > 85, severity: info, channels: [it]}}\n",
        sink.port,
        "値".repeat(60)
    );
    let alerts = alerts(&yaml, &[]);
    alerts.observe(&heap(91));
    let mail = sink.next();
    let (head, _) = mail.text.split_once("\n\n").unwrap();
    assert!(head.is_ascii(), "{head}");
    let names: Vec<_> = head
        .lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(
        names.iter().filter(|name| **name == "Subject").count(),
        1,
        "{head}"
    );
    assert!(head.contains("Subject: [FIRING] info: "), "{head}");
    assert!(head.contains("=?utf-8?b?"), "{head}");
}
