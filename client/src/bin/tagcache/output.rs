//! What the program writes, and how it ends.

use std::io::Write as _;
use std::path::Path;

use serde_json::Value;
use tagcache::alerts::{ConfigError, Problem};

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
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
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

    pub(crate) fn print(&self) {
        match self {
            Self::No => {}
            Self::Because(text) | Self::Usage(text) | Self::Server(text) | Self::Rules(text) => {
                for line in text.lines() {
                    eprintln!("tagcache: {line}");
                }
            }
        }
    }
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        // A pipeline tells the error of each of its commands: the first ones say it all.
        let told: String = error.to_string().chars().take(300).collect();
        Self::Server(format!("the server: {told}"))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Rules(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // `tagcache … | head` is no failure of this program's, but its output is not complete.
        Self::Because(error.to_string())
    }
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
