//! Channels: their form in YAML, and how one message is sent.

mod email;
mod http;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;

use super::message::Message;
use super::secret::{Place, Secret};

/// Time limit of one attempt.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why a message was not delivered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another attempt may succeed.
    Retry(String),
    /// Every further attempt will fail too.
    Refused(String),
}

/// A channel that is ready to send. Blocks up to its time-out.
pub(super) trait Channel: Send {
    fn send(&self, message: &Message) -> Result<(), Failure>;
}

/// A channel as in YAML, with the fields of all kinds, so that a mistake has a position.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelYaml {
    #[serde(rename = "type")]
    kind: Kind,
    url: Option<Place>,
    #[serde(default)]
    headers: BTreeMap<String, Place>,
    routing_key: Option<Place>,
    host: Option<String>,
    port: Option<u16>,
    tls: Option<Tls>,
    username: Option<String>,
    password: Option<Place>,
    from: Option<String>,
    #[serde(default)]
    to: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Log,
    Webhook,
    Slack,
    Pagerduty,
    Email,
}

/// Encryption of the connection to a mail server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tls {
    /// TLS after STARTTLS, which the server must offer.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// No encryption; with a password only to this machine.
    None,
}

/// A channel whose fields are right; secrets are not read yet.
#[derive(Clone, Debug)]
pub(super) enum ChannelSpec {
    Log,
    Webhook {
        url: Place,
        headers: BTreeMap<String, Place>,
    },
    Slack {
        url: Place,
    },
    Pagerduty {
        routing_key: Place,
        url: Place,
    },
    Email(Box<EmailSpec>),
}

#[derive(Clone, Debug)]
pub(super) struct EmailSpec {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) tls: Tls,
    pub(super) login: Option<(String, Place)>,
    pub(super) from: lettre::message::Mailbox,
    pub(super) to: Vec<lettre::message::Mailbox>,
}

impl ChannelSpec {
    pub(super) fn check(yaml: ChannelYaml) -> Result<Self, String> {
        let given = yaml.given();
        let allowed: &[&str] = match yaml.kind {
            Kind::Log => &[],
            Kind::Webhook => &["url", "headers"],
            Kind::Slack => &["url"],
            Kind::Pagerduty => &["routing_key", "url"],
            Kind::Email => &["host", "port", "tls", "username", "password", "from", "to"],
        };
        if let Some(field) = given.iter().find(|field| !allowed.contains(field)) {
            return Err(format!(
                "`{field}` does not belong to a channel of this type"
            ));
        }
        match yaml.kind {
            Kind::Log => Ok(Self::Log),
            Kind::Webhook => {
                for name in ["authorization", "proxy-authorization", "cookie"] {
                    let literal = yaml.headers.iter().find(|(header, place)| {
                        header.eq_ignore_ascii_case(name) && matches!(place, Place::Value(_))
                    });
                    if let Some((header, place)) = literal {
                        secret(header, Some(place.clone()))?;
                    }
                }
                Ok(Self::Webhook {
                    url: yaml.url.ok_or("needs `url`")?,
                    headers: yaml.headers,
                })
            }
            Kind::Slack => Ok(Self::Slack {
                url: secret("url", yaml.url)?,
            }),
            Kind::Pagerduty => Ok(Self::Pagerduty {
                routing_key: secret("routing_key", yaml.routing_key)?,
                url: yaml
                    .url
                    .unwrap_or_else(|| Place::Value(http::PAGERDUTY.to_owned())),
            }),
            Kind::Email => Ok(Self::Email(Box::new(email_spec(yaml)?))),
        }
    }

    /// The channel of this name if the file does not describe it: `log` always, `email`, `slack` and `pagerduty` if the
    /// environment describes them.
    pub(super) fn of_environment(
        name: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let var = |name: &str| {
            env(name).ok_or_else(|| format!("describe it under `channels:` or set {name}"))
        };
        match name {
            "log" => Ok(Self::Log),
            "slack" => var("TAGCACHE_SLACK_URL").map(|_| Self::Slack {
                url: Place::Env("TAGCACHE_SLACK_URL".into()),
            }),
            "pagerduty" => var("TAGCACHE_PAGERDUTY_KEY").map(|_| Self::Pagerduty {
                routing_key: Place::Env("TAGCACHE_PAGERDUTY_KEY".into()),
                url: Place::Value(
                    env("TAGCACHE_PAGERDUTY_URL").unwrap_or_else(|| http::PAGERDUTY.into()),
                ),
            }),
            "email" => {
                let to = var("TAGCACHE_SMTP_TO")?;
                let (host, port) = host_and_port(&var("TAGCACHE_SMTP_HOST")?)?;
                let password = env("TAGCACHE_SMTP_PASSWORD");
                email_spec(ChannelYaml {
                    kind: Kind::Email,
                    url: None,
                    headers: BTreeMap::new(),
                    routing_key: None,
                    host: Some(host),
                    port,
                    tls: match env("TAGCACHE_SMTP_TLS").as_deref() {
                        None | Some("starttls") => Some(Tls::Starttls),
                        Some("implicit") => Some(Tls::Implicit),
                        Some("none") => Some(Tls::None),
                        Some(other) => {
                            return Err(format!(
                                "TAGCACHE_SMTP_TLS is `{other}`, not starttls, implicit or none"
                            ));
                        }
                    },
                    username: env("TAGCACHE_SMTP_USERNAME"),
                    password: password.map(|_| Place::Env("TAGCACHE_SMTP_PASSWORD".into())),
                    from: Some(var("TAGCACHE_SMTP_FROM")?),
                    to: to.split(',').map(|to| to.trim().to_owned()).collect(),
                })
                .map(|spec| Self::Email(Box::new(spec)))
            }
            _ => Err("describe it under `channels:`".into()),
        }
    }

    /// Reads the secrets.
    pub(super) fn open(
        &self,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Box<dyn Channel>, String> {
        let url = |place: &Place| http::check_url(place.read(env)?);
        Ok(match self {
            Self::Log => Box::new(Log),
            Self::Webhook {
                url: place,
                headers,
            } => {
                let headers = headers
                    .iter()
                    .map(|(name, place)| Ok((name.clone(), place.read(env)?)))
                    .collect::<Result<Vec<(String, Secret)>, String>>()?;
                Box::new(http::Webhook::new(
                    url(place)?,
                    http::check_headers(headers)?,
                ))
            }
            Self::Slack { url: place } => Box::new(http::Slack::new(url(place)?)),
            Self::Pagerduty {
                routing_key,
                url: place,
            } => Box::new(http::Pagerduty::new(url(place)?, routing_key.read(env)?)),
            Self::Email(spec) => Box::new(email::Email::open(spec, env)?),
        })
    }
}

impl ChannelYaml {
    /// The names of the fields that are set, except the type.
    fn given(&self) -> Vec<&'static str> {
        [
            ("url", self.url.is_some()),
            ("headers", !self.headers.is_empty()),
            ("routing_key", self.routing_key.is_some()),
            ("host", self.host.is_some()),
            ("port", self.port.is_some()),
            ("tls", self.tls.is_some()),
            ("username", self.username.is_some()),
            ("password", self.password.is_some()),
            ("from", self.from.is_some()),
            ("to", !self.to.is_empty()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }
}

/// A secret must not be in the file, which is likely to be kept with the source.
fn secret(name: &str, place: Option<Place>) -> Result<Place, String> {
    match place {
        None => Err(format!("needs `{name}`")),
        Some(Place::Value(_)) => Err(format!(
            "`{name}` is a secret: give {{env: NAME}} or {{file: PATH}}"
        )),
        Some(place) => Ok(place),
    }
}

fn email_spec(yaml: ChannelYaml) -> Result<EmailSpec, String> {
    let address = |text: &str| {
        text.parse()
            .map_err(|error| format!("`{text}` is no address: {error}"))
    };
    let host = yaml.host.ok_or("needs `host`")?;
    let tls = yaml.tls.unwrap_or_default();
    let login = match (yaml.username, yaml.password) {
        (None, None) => None,
        (Some(username), password) => Some((username, secret("password", password)?)),
        (None, Some(_)) => return Err("`password` without `username`".into()),
    };
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if tls == Tls::None && login.is_some() && !here {
        return Err(
            "a password would travel in the clear: `tls: starttls` or `tls: implicit`".into(),
        );
    }
    if yaml.to.is_empty() {
        return Err("needs `to`".into());
    }
    Ok(EmailSpec {
        host,
        port: yaml.port,
        tls,
        login,
        from: address(&yaml.from.ok_or("needs `from`")?)?,
        to: yaml
            .to
            .iter()
            .map(|to| address(to))
            .collect::<Result<_, _>>()?,
    })
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    match text.rsplit_once(':') {
        None => Ok((text.to_owned(), None)),
        Some((host, port)) => {
            let port = port
                .parse()
                .map_err(|_| format!("TAGCACHE_SMTP_HOST: `{port}` is no port"))?;
            Ok((host.to_owned(), Some(port)))
        }
    }
}

/// Writes a line to standard error, from which a service's log is taken.
struct Log;

impl Channel for Log {
    fn send(&self, message: &Message) -> Result<(), Failure> {
        use std::io::Write as _;
        std::io::stderr()
            .write_all(log_line(message).as_bytes())
            .map_err(|error| Failure::Refused(error.to_string()))
    }
}

/// One message is one line, even if the instance's name contains line breaks.
fn log_line(message: &Message) -> String {
    let summary = message.summary().replace(char::is_control, " ");
    format!("{} {summary}\n", message.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> Result<ChannelSpec, String> {
        ChannelSpec::check(serde_saphyr::from_str(yaml).unwrap())
    }

    fn refused(yaml: &str) -> String {
        check(yaml).unwrap_err()
    }

    #[test]
    fn channel_accepts_only_the_fields_of_its_type() {
        assert!(check("{type: log}").is_ok());
        assert!(
            check("{type: webhook, url: 'http://127.0.0.1/', headers: {X-Key: {env: K}}}").is_ok()
        );
        assert!(check("{type: slack, url: {env: U}}").is_ok());
        assert!(check("{type: pagerduty, routing_key: {file: /k}}").is_ok());
        assert!(check("{type: email, host: h, from: a@b.c, to: [d@e.f]}").is_ok());
        assert!(refused("{type: slack}").contains("needs `url`"));
        assert!(refused("{type: log, url: x}").contains("does not belong"));
        assert!(refused("{type: email, host: h, from: a@b.c}").contains("needs `to`"));
        assert!(
            refused("{type: email, host: h, from: nobody, to: [d@e.f]}").contains("no address")
        );
    }

    #[test]
    fn secrets_in_the_file_or_sent_unencrypted_are_refused() {
        assert!(refused("{type: slack, url: 'https://hooks/x'}").contains("is a secret"));
        assert!(refused("{type: pagerduty, routing_key: abc}").contains("is a secret"));
        let hook =
            |headers: &str| format!("{{type: webhook, url: 'http://h/', headers: {headers}}}");
        assert!(refused(&hook("{authorization: Bearer abc}")).contains("is a secret"));
        assert!(check(&hook("{X-Team: cache}")).is_ok());
        let email =
            "type: email, from: a@b.c, to: [d@e.f], tls: none, username: u, password: {env: P}";
        assert!(refused(&format!("{{{email}, host: mail.example.org}}")).contains("in the clear"));
        assert!(check(&format!("{{{email}, host: 127.0.0.1}}")).is_ok());
    }

    #[test]
    fn log_channel_writes_one_line_per_message() {
        let message = Message {
            name: "High".into(),
            phase: crate::alerts::Phase::Firing,
            severity: crate::alerts::Severity::Info,
            condition: "memory.rss > 1".into(),
            values: vec![("memory.rss".into(), None)],
            instance: "web\n1\x1b[2J".into(),
            at: "2025-11-21T10:30:00.000Z".into(),
            key: "k".into(),
        };
        assert_eq!(
            log_line(&message),
            "2025-11-21T10:30:00.000Z [FIRING] info: High on web 1 [2J (memory.rss > 1; memory.rss unknown)\n"
        );
    }

    #[test]
    fn invalid_webhook_headers_are_refused_at_startup() {
        let open = |headers: &str| {
            let yaml = format!("{{type: webhook, url: 'http://h/', headers: {headers}}}");
            let env = |name: &str| Some(format!("s3cr3t\n{name}"));
            check(&yaml).unwrap().open(&env).err()
        };
        assert_eq!(open("{X-Key: v}"), None);
        assert!(open("{X Key: v}").unwrap().contains("`X Key`"));
        let value = open("{X-Key: {env: K}}").unwrap();
        assert!(
            value.contains("`X-Key`") && !value.contains("s3cr3t"),
            "{value}"
        );
    }

    #[test]
    fn channels_can_be_configured_by_environment_variables() {
        let env = |name: &str| {
            let value = match name {
                "TAGCACHE_SMTP_HOST" => "127.0.0.1:2525",
                "TAGCACHE_SMTP_FROM" => "a@b.c",
                "TAGCACHE_SMTP_TO" => "d@e.f, g@h.i",
                "TAGCACHE_SMTP_TLS" => "none",
                "TAGCACHE_SLACK_URL" => "http://127.0.0.1/",
                _ => return None,
            };
            Some(value.to_owned())
        };
        assert!(ChannelSpec::of_environment("log", &env).is_ok());
        assert!(ChannelSpec::of_environment("slack", &env).is_ok());
        let Ok(ChannelSpec::Email(spec)) = ChannelSpec::of_environment("email", &env) else {
            panic!("described");
        };
        assert_eq!((spec.port, spec.to.len()), (Some(2525), 2));
        let missing = ChannelSpec::of_environment("pagerduty", &env).unwrap_err();
        assert!(missing.contains("TAGCACHE_PAGERDUTY_KEY"), "{missing}");
    }
}
