//! Mail over SMTP.

use std::fmt::Write as _;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{SmtpTransport, Transport as _};

use super::{Channel, EmailSpec, Failure, TIMEOUT, Tls};
use crate::alerts::message::{Message, Phase};
use crate::alerts::secret::Place;

pub(super) struct Email {
    transport: SmtpTransport,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Email {
    pub(super) fn open(
        spec: &EmailSpec,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let builder = match spec.tls {
            Tls::Starttls => SmtpTransport::starttls_relay(&spec.host),
            Tls::Implicit => SmtpTransport::relay(&spec.host),
            Tls::None => Ok(SmtpTransport::builder_dangerous(&spec.host)),
        };
        let mut builder = builder
            .map_err(|error| error.to_string())?
            .timeout(Some(TIMEOUT));
        if let Some(port) = spec.port {
            builder = builder.port(port);
        }
        if let Some((username, password)) = &spec.login {
            let password = Place::read(password, env)?;
            builder = builder.credentials(Credentials::new(
                username.clone(),
                password.expose().to_owned(),
            ));
        }
        Ok(Self {
            transport: builder.build(),
            from: spec.from.clone(),
            to: spec.to.clone(),
        })
    }
}

impl Channel for Email {
    fn send(&self, message: &Message) -> Result<(), Failure> {
        let phase = match message.phase {
            Phase::Firing => "FIRING",
            Phase::Resolved => "RESOLVED",
        };
        let subject = format!(
            "[{phase}] {}: {} on {}",
            message.severity, message.name, message.instance
        );
        let add = |mail: MessageBuilder, to: &Mailbox| mail.to(to.clone());
        let mail = self
            .to
            .iter()
            .fold(lettre::Message::builder().from(self.from.clone()), add)
            .subject(subject)
            // Mails without this header are taken for spam. The library adds the date.
            .message_id(None)
            .header(ContentType::TEXT_PLAIN)
            .body(body(message))
            .map_err(|error| Failure::Refused(error.to_string()))?;
        match self.transport.send(&mail) {
            Ok(_) => Ok(()),
            // Wrong credentials or recipients fail again on every attempt.
            Err(error) if error.is_permanent() => Err(Failure::Refused(error.to_string())),
            Err(error) => Err(Failure::Retry(error.to_string())),
        }
    }
}

fn body(message: &Message) -> String {
    let mut text = format!("{}\n\n", message.summary());
    for (name, value) in [
        ("Rule", message.name.as_str()),
        ("Severity", message.severity.as_str()),
        ("Condition", &message.condition),
        ("Values", &message.values_text()),
        ("Instance", &message.instance),
        ("Time", &message.at),
    ] {
        let _ = writeln!(text, "{name:<10} {value}");
    }
    text
}
