//! What the program writes, and how it ends.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use serde_json::Value;
use tagcache_admin::alerts::{ConfigError, Problem};

use crate::text::name;

/// Why the program ends with something else than 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The answer is no; whatever there is to say was said.
    No,
    /// The answer is no, for this reason.
    Because(String),
    /// The arguments make no sense together.
    Usage(String),
    /// A server or endpoint does not answer or refuses.
    Server(String),
    /// A rules file is wrong.
    Rules(String),
    /// Who read the output has had enough, as `head` has: no failure, and nothing more to say.
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

    /// What is wrong with a rules file, in the form of a compiler's messages.
    pub(crate) fn rules(file: &Path, error: &ConfigError) -> Self {
        let line = |problem: &Problem| format!("{}: {problem}\n", file.display());
        Self::Rules(error.0.iter().map(line).collect::<Vec<_>>().concat())
    }

    /// What a server's error says.
    pub(crate) fn told(error: &redis::RedisError) -> String {
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

    /// Says it on standard error: as lines for people, or as a document.
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
            // A server's words are in it, and a server may be anybody's.
            note(&format!("tagcache: {}\n", name(line.as_bytes())));
        }
    }
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        Self::Server(format!("the server: {}", Self::told(&error)))
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

/// Writes to standard error; a failure to do so cannot be reported anywhere.
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
