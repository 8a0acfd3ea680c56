//! Channels that take a POST with JSON: webhooks, Slack and services that accept its format, PagerDuty.

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{HeaderName, HeaderValue};
use ureq::tls::{RootCerts, TlsConfig};

use super::{Channel, Failure, TIMEOUT};
use crate::alerts::message::{Message, Phase};
use crate::alerts::rules::Severity;
use crate::alerts::secret::Secret;

/// PagerDuty's Events API, version 2.
pub(super) const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

/// The URL, if a POST can be sent to it.
pub(super) fn check_url(url: Secret) -> Result<Secret, String> {
    let parsed: Result<ureq::http::Uri, _> = url.expose().parse();
    match parsed {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => {
            Ok(url)
        }
        // The text may be a secret.
        _ => Err("the URL is not http://… or https://…".into()),
    }
}

/// By default ureq uses a list of its own, without the certificate authorities of companies.
fn with_system_roots() -> TlsConfig {
    TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build()
}

/// The headers, if they can be sent.
pub(super) fn check_headers(
    headers: Vec<(String, Secret)>,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let header = |(name, value): (String, Secret)| {
        let wrong = |what: &str| format!("header `{name}`: {what}");
        let checked = name
            .parse()
            .map_err(|_| wrong("this is no header's name"))?;
        // The value may be a secret.
        let mut value: HeaderValue = value
            .expose()
            .parse()
            .map_err(|_| wrong("the value has characters that no header may have"))?;
        value.set_sensitive(true);
        Ok((checked, value))
    };
    headers.into_iter().map(header).collect()
}

struct Post {
    agent: Agent,
    url: Secret,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Post {
    fn new(url: Secret, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            // A redirect would send secret headers to a host that is not configured.
            .max_redirects(0)
            .http_status_as_error(false)
            .tls_config(with_system_roots())
            .user_agent(concat!("tagcache/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            url,
            headers,
        }
    }

    fn send(&self, body: &Value) -> Result<(), Failure> {
        let mut request = self
            .agent
            .post(self.url.expose())
            .content_type("application/json");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = request
            .send(body.to_string())
            .map_err(|error| Failure::Retry(self.without_url(&error.to_string())))?;
        match response.status().as_u16() {
            200..=299 => Ok(()),
            status @ (408 | 425 | 429 | 500..=599) => {
                Err(Failure::Retry(format!("status {status}")))
            }
            status => Err(Failure::Refused(format!("status {status}"))),
        }
    }

    /// A webhook's URL is a secret: everyone who knows it can post.
    fn without_url(&self, text: &str) -> String {
        text.replace(self.url.expose(), "the URL")
    }
}

/// Sends the [`Message`] as JSON without changes.
pub(super) struct Webhook(Post);

impl Webhook {
    pub(super) fn new(url: Secret, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self(Post::new(url, headers))
    }
}

impl Channel for Webhook {
    fn send(&self, message: &Message) -> Result<(), Failure> {
        let values: serde_json::Map<String, Value> = message
            .values
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        self.0.send(&json!({
            "name": message.name,
            "phase": message.phase,
            "severity": message.severity,
            "condition": message.condition,
            "values": values,
            "instance": message.instance,
            "at": message.at,
            "key": message.key,
            "summary": message.summary(),
        }))
    }
}

/// Slack's incoming webhooks, and those of Mattermost, Rocket.Chat and others with the same format.
pub(super) struct Slack(Post);

impl Slack {
    pub(super) fn new(url: Secret) -> Self {
        Self(Post::new(url, Vec::new()))
    }
}

impl Channel for Slack {
    fn send(&self, message: &Message) -> Result<(), Failure> {
        let colour = match (message.phase, message.severity) {
            (Phase::Resolved, _) => "good",
            (Phase::Firing, Severity::Info) => "#439FE0",
            (Phase::Firing, Severity::Warning) => "warning",
            (Phase::Firing, Severity::Error | Severity::Critical) => "danger",
        };
        let field = |title: &str, value: &str| json!({"title": title, "value": escape(value), "short": true});
        self.0.send(&json!({
            "text": escape(&message.summary()),
            "attachments": [{
                "color": colour,
                "fallback": escape(&message.summary()),
                "fields": [
                    field("Condition", &message.condition),
                    field("Values", &message.values_text()),
                    field("Instance", &message.instance),
                    field("Severity", message.severity.as_str()),
                ],
            }],
        }))
    }
}

/// Escapes Slack's three control characters; a condition may contain two of them.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// PagerDuty's Events API, version 2: an alarm that ends resolves the incident that it opened.
pub(super) struct Pagerduty {
    post: Post,
    routing_key: Secret,
}

impl Pagerduty {
    pub(super) fn new(url: Secret, routing_key: Secret) -> Self {
        Self {
            post: Post::new(url, Vec::new()),
            routing_key,
        }
    }
}

/// The API takes at most 255 characters. The end is kept, because it contains the rule's name, which distinguishes the
/// incidents of different rules.
fn dedup_key(key: &str) -> String {
    let more = key.chars().count().saturating_sub(255);
    key.chars().skip(more).collect()
}

impl Channel for Pagerduty {
    fn send(&self, message: &Message) -> Result<(), Failure> {
        let mut body = json!({
            "routing_key": self.routing_key.expose(),
            "dedup_key": dedup_key(&message.key),
            "event_action": match message.phase {
                Phase::Firing => "trigger",
                Phase::Resolved => "resolve",
            },
        });
        if message.phase == Phase::Firing {
            // The API takes at most 1024 characters of summary.
            let summary: String = message.summary().chars().take(1024).collect();
            body["payload"] = json!({
                "summary": summary,
                "source": message.instance,
                "severity": message.severity,
                "timestamp": message.at,
                "component": "tagcache",
                "custom_details": {
                    "condition": message.condition,
                    "values": message.values_text(),
                },
            });
        }
        self.post.send(&body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_message_does_not_contain_the_url() {
        let post = Post::new(Secret::new("http://h/secret-part"), Vec::new());
        let message = post.without_url("bad uri: http://h/secret-part");
        assert_eq!(message, "bad uri: the URL");
    }

    #[test]
    fn incident_key_is_at_most_255_characters() {
        assert_eq!(dedup_key("web-1/High Memory"), "web-1/High Memory");
        let long = format!("{}/High Memory", "é".repeat(300));
        let key = dedup_key(&long);
        assert_eq!(key.chars().count(), 255);
        assert!(key.ends_with("é/High Memory"));
    }
}
