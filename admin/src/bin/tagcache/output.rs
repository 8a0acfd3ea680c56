//! Output and exit codes of the program.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use serde_json::Value;
use tagcache_admin::alerts::{ConfigError, Problem};

use crate::text::name;

/// The reason why the program ends with a code other than 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The result is negative, and the output already explains it.
    No,
    /// The result is negative, for this reason.
    Because(String),
    /// The arguments do not fit together.
    Usage(String),
    /// A server or endpoint does not reply or refuses.
    Server(String),
    /// A rules file is wrong.
    Rules(String),
    /// The reader of the output closed it, as `head` does: no failure, and no message.
    HungUp,
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::HungUp => 0,
            Self::No | Self::Because(_) => 1,
            Self::Usage(_) => 2,
            Self::Server(_) => 3,
            Self::Rules(_) => 4,
        }
    }

    /// The mistakes in a rules file, in the form of a compiler's messages.
    pub(crate) fn rules(file: &Path, error: &ConfigError) -> Self {
        let line = |problem: &Problem| format!("{}: {problem}\n", file.display());
        Self::Rules(error.0.iter().map(line).collect::<Vec<_>>().concat())
    }

    /// The message for a server's error.
    pub(crate) fn server_message(error: &redis::RedisError) -> String {
        let text = error.to_string();
        if text.contains("unknown command") && text.to_ascii_uppercase().contains("CACHE.") {
            return "the module is not loaded (tagcache doctor names the remedy)".into();
        }
        if error.is_timeout() {
            return "no reply in time".into();
        }
        if error.kind() == redis::ErrorKind::Parse {
            return "the reply is not Redis's protocol: another program listens there".into();
        }
        // A pipeline returns the error of each of its commands: the first ones are enough.
        error.to_string().chars().take(300).collect()
    }

    /// The message, empty if it was printed before.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::No | Self::HungUp => "",
            Self::Because(text) | Self::Usage(text) | Self::Server(text) | Self::Rules(text) => {
                text
            }
        }
    }

    /// Writes the failure to standard error: as lines for people, or as a document.
    pub(crate) fn print(&self, json: bool) {
        let text = self.text().trim_end();
        if text.is_empty() {
            return;
        }
        if json {
            let value = serde_json::json!({"error": text, "exitCode": self.code()});
            note(&format!("{value}\n"));
            return;
        }
        for line in text.lines() {
            // Escaped, since the text contains a server's message, and the server may not be trusted.
            note(&format!("tagcache: {}\n", name(line.as_bytes())));
        }
    }
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        Self::Server(format!("the server: {}", Self::server_message(&error)))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Rules(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::HungUp,
            _ => Self::Because(error.to_string()),
        }
    }
}

/// Writes to standard error; a failure of that cannot be reported anywhere.
pub(crate) fn note(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes a document, or its text for people.
pub(crate) fn show(
    json: bool,
    value: &Value,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{value}")?;
    } else {
        out.write_all(text().as_bytes())?;
    }
    out.flush()?;
    Ok(())
}
