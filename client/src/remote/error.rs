//! Errors, and what the caller can do about them.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The most characters of a server's message.
const MAX_WORDS: usize = 300;

/// The most characters of an unexpected reply.
const MAX_ANSWER: usize = 100;

/// The error of a loader, shared by all callers that waited for the load.
pub(crate) type LoaderError = Arc<dyn std::error::Error + Send + Sync>;

/// Why a call of [`Cache`](crate::Cache) failed. [`Error::remedy`] returns what the caller can do.
///
/// `node` is the server's address, `message` its error message, `key` the key without namespace, `timeout` how long the
/// call waited, `source` the error of the codec or the loader.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "shared fields are described above")]
pub enum Error {
    /// There is no connection to the server, or it broke before the reply came.
    #[error("server {node} cannot be reached: {reason}")]
    Unreachable { node: String, reason: String },
    /// The server took longer than `command_timeout`. The command may still be executed.
    #[error("server {node} did not answer within {timeout:?}")]
    Timeout { node: String, timeout: Duration },
    /// The server cannot serve now, for instance because it loads its data or its cluster is down.
    #[error("server {node} cannot serve at the moment: {message}")]
    Unavailable { node: String, message: String },
    /// The server runs without the module.
    #[error(
        "server {node} runs without the tagcache module: start it with \
         `--loadmodule /path/to/tagcache.so`, or put `loadmodule /path/to/tagcache.so` into its configuration"
    )]
    ModuleMissing { node: String },
    /// The server's module does not know a command that this client needs.
    #[error(
        "the tagcache module of server {node} (version {version}) has no {command}: replace its \
         tagcache.so by one that is at least as new as this client, and restart it"
    )]
    ModuleTooOld {
        node: String,
        /// The version of the module, 0 if it is not known.
        version: u64,
        /// The command that is missing.
        command: String,
    },
    /// Wrong password, or the ACL user lacks a permission.
    #[error("server {node} denies it: {message}")]
    Denied { node: String, message: String },
    /// The server is a replica, or stopped taking writes because it cannot save them.
    #[error("server {node} takes no writes: {message}")]
    ReadOnly { node: String, message: String },
    /// The server has reached `maxmemory` and may not evict.
    #[error("server {node} is out of memory: {message}")]
    OutOfMemory { node: String, message: String },
    /// The key holds another type than an entry of the module, such as a string made by SET.
    #[error(
        "key {key:?} on server {node} holds another type than a cache entry: remove it, or use a namespace"
    )]
    WrongType {
        node: String,
        /// The key on the server.
        key: String,
    },
    /// The server refuses the arguments, for instance a tag that is too long.
    #[error("server {node} refuses the command: {message}")]
    Rejected { node: String, message: String },
    /// The server's reply does not fit the command.
    #[error("server {node} sent an unexpected reply to {command}: {answer}")]
    UnexpectedAnswer {
        node: String,
        command: &'static str,
        /// The beginning of the reply.
        answer: String,
    },
    /// An invalidation did not reach all servers, or some did not take it. It is sent to them again until they have it
    /// or leave the topology, unless `retried` is false. Waiting invalidations are held in memory: they do not outlive
    /// this process.
    #[error(
        "invalidated {dropped} entries, but not on {missed:?} ({reason}): {}",
        if *.retried { "will be sent again until they have it" } else { "too much is waiting to be sent again" }
    )]
    Partial {
        /// How many entries the other servers dropped.
        dropped: u64,
        /// The addresses of the servers that missed it.
        missed: Vec<String>,
        /// Whether it will be sent again in the background.
        retried: bool,
        /// The error of the first of these servers.
        reason: Box<Error>,
    },
    /// The value cannot be encoded, or the server's value cannot be decoded as the requested type.
    #[error("value of key {key:?}: {}", one_line(source))]
    Codec {
        key: String,
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The loader failed and there was no stale value to serve instead.
    #[error("loading key {key:?}: {}", one_line(source))]
    Loader { key: String, source: LoaderError },
    /// The loader panicked and there was no stale value to serve instead.
    #[error("loading key {key:?}: the loader panicked")]
    LoaderPanicked { key: String },
    /// The loader took longer than its hard time-out and there was no stale value to serve instead.
    #[error("loading key {key:?}: no value within {timeout:?}")]
    LoadTimeout { key: String, timeout: Duration },
    /// Two calls loaded the same key at the same time as values of different types.
    #[error("key {key:?} is being loaded as another type")]
    TypeConflict { key: String },
    /// The key is cached as known to be absent, by [`get_or_load_optional`](crate::Cache::get_or_load_optional), but
    /// this call needs a value.
    #[error("key {key:?} is cached as absent: ask with `get_or_load_optional`")]
    Absent { key: String },
    /// The cache was closed ([`Cache::close`](crate::Cache::close)).
    #[error("the cache was closed")]
    Closed,
    /// A setting of the builder cannot work.
    #[error("{message}")]
    Config {
        /// The setting, and which values would work.
        message: String,
    },
}

/// What the caller of a failed call can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// The call is correct: the same call may succeed later. Connections recover by themselves.
    Retry,
    /// The call itself is wrong: change the value, tag, key or type.
    FixCall,
    /// Change the server or the configuration: load the module, grant a permission, add memory.
    FixServer,
    /// The loader failed: see its own error.
    Loader,
}

impl Error {
    /// What the caller can do.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Unavailable { .. }
            | Self::ReadOnly { .. } => Remedy::Retry,
            Self::Partial { reason, .. } => reason.remedy(),
            Self::ModuleMissing { .. }
            | Self::ModuleTooOld { .. }
            | Self::Denied { .. }
            | Self::OutOfMemory { .. }
            | Self::UnexpectedAnswer { .. } => Remedy::FixServer,
            Self::WrongType { .. }
            | Self::Rejected { .. }
            | Self::Codec { .. }
            | Self::TypeConflict { .. }
            | Self::Absent { .. }
            | Self::Closed
            | Self::Config { .. } => Remedy::FixCall,
            Self::Loader { .. } | Self::LoaderPanicked { .. } | Self::LoadTimeout { .. } => {
                Remedy::Loader
            }
        }
    }

    /// Whether the server is the cause, not the call or the loader: such calls go on without the server where they can.
    pub(crate) fn is_server_trouble(&self) -> bool {
        matches!(self, Self::Closed) || matches!(self.remedy(), Remedy::Retry | Remedy::FixServer)
    }

    /// Whether a server refuses the request, at least from this user.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Denied { .. })
            || self.remedy() == Remedy::FixCall && !self.is_server_trouble()
    }

    /// Whether the command may have been executed, or may yet be.
    pub(crate) fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Unreachable { .. })
    }

    /// As [`Self::from_redis`], for an error while connecting: the call that needs the connection is not at fault.
    pub(crate) fn from_handshake(
        node: &str,
        channel: Option<&str>,
        timeout: Duration,
        error: &RedisError,
    ) -> Self {
        match Self::from_redis(node, None, timeout, error) {
            Self::Rejected { node, message } => Self::Unavailable { node, message },
            Self::Config { message } => Self::unavailable(node, message),
            Self::Denied { node, message } if message.contains(" channel") => Self::Denied {
                node,
                message: match channel {
                    Some(channel) => format!("{message} (channel {channel:?})"),
                    None => message,
                },
            },
            Self::Unreachable { node, reason }
                if error.is_connection_dropped() && !error.is_connection_refusal() =>
            {
                let why = "it ended the connection before it answered (`maxclients` reached, protected mode, or TLS?)";
                Self::unreachable(node, format!("{reason}: {why}"))
            }
            error => error,
        }
    }

    pub(crate) fn unavailable(node: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Unavailable {
            node: node.into(),
            message: message.into(),
        }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Config { message }
    }

    pub(crate) fn unreachable(node: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unreachable {
            node: node.into(),
            reason: reason.into(),
        }
    }

    /// A reply that the command's contract does not have.
    pub(crate) fn unexpected(node: &str, command: &'static str, answer: &dyn fmt::Debug) -> Self {
        let mut beginning = Beginning::default();
        // Writing fails once it is full.
        let _ = write!(beginning, "{answer:?}");
        Self::UnexpectedAnswer {
            node: node.to_owned(),
            command,
            answer: beginning.0,
        }
    }

    /// An empty tag, which no server takes.
    pub(crate) fn empty_tag() -> Self {
        Self::config("a tag is empty")
    }

    /// Translates an error of redis-rs about a command on `node`.
    pub(crate) fn from_redis(
        node: &str,
        key: Option<&str>,
        timeout: Duration,
        error: &RedisError,
    ) -> Self {
        let (node, message) = (node.to_owned(), words(error));
        if error.is_timeout() {
            return Self::Timeout { node, timeout };
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => return Self::Denied { node, message },
            ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported => {
                return Self::Config { message };
            }
            ErrorKind::Server(kind) => match kind {
                ServerErrorKind::NoPerm => {
                    // Servers name the command that is denied, but not the key ("a key", "one of the keys").
                    let message = match key {
                        Some(key) if message.contains(" key") => format!("{message} (key {key:?})"),
                        _ => message,
                    };
                    return Self::Denied { node, message };
                }
                ServerErrorKind::ReadOnly => return Self::ReadOnly { node, message },
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::TryAgain
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask => return Self::Unavailable { node, message },
                _ => {}
            },
            ErrorKind::Extension => {}
            _ => return Self::unreachable(node, message),
        }
        match error.code().unwrap_or_default() {
            "NOAUTH" | "WRONGPASS" | "DENIED" => Self::Denied { node, message },
            "MISCONF" => Self::ReadOnly { node, message },
            "BUSY" | "NOREPLICAS" | "UNBLOCKED" => Self::Unavailable { node, message },
            "OOM" => Self::OutOfMemory { node, message },
            "WRONGTYPE" => Self::WrongType {
                node,
                key: key.unwrap_or_default().to_owned(),
            },
            _ if message.contains("unknown command") => {
                let command = message.split(['\'', '`']).nth(1).unwrap_or_default();
                Self::ModuleTooOld {
                    node,
                    version: 0,
                    command: command.to_owned(),
                }
            }
            _ => Self::Rejected { node, message },
        }
    }
}

/// The result of `asking` a server, if it comes within `timeout`.
pub(crate) async fn within<T>(
    timeout: Duration,
    node: &str,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let asked = tokio::time::timeout(timeout, asking).await;
    asked.unwrap_or_else(|_| {
        let node = node.to_owned();
        Err(Error::Timeout { node, timeout })
    })
}

/// The first characters of a text: the rest is not even formatted.
#[derive(Default)]
struct Beginning(String);

impl fmt::Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_ANSWER - self.0.chars().count();
        self.0.extend(text.chars().take(room));
        if self.0.chars().count() < MAX_ANSWER {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

/// The server's own message, prefix first. Its sender may be no server at all.
fn words(error: &RedisError) -> String {
    let words = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    one_line(&words)
}

/// A foreign text in one line of bounded length.
fn one_line(text: &impl ToString) -> String {
    let mut line = String::new();
    for word in text.to_string().split_whitespace() {
        if line.len() >= MAX_WORDS {
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().take(MAX_WORDS));
    }
    line.chars().take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_error_messages_are_shown_in_one_line() {
        let source = Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
            "no database:\n  1: timeout\n\n  2: none",
        ));
        let key = "key".to_owned();
        let error = Error::Loader { key, source };
        assert_eq!(
            error.to_string(),
            r#"loading key "key": no database: 1: timeout 2: none"#
        );
        let source = Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
            "x\n".repeat(1000),
        ));
        let key = "key".to_owned();
        let error = Error::Codec { key, source }.to_string();
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
    }

    #[test]
    fn unexpected_reply_is_truncated_while_it_is_formatted() {
        struct Endless<'a>(&'a std::cell::Cell<usize>);
        impl fmt::Debug for Endless<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    self.0.set(self.0.get() + 1);
                    f.write_str("0123456789")?;
                }
            }
        }
        let pieces = std::cell::Cell::new(0);
        let Error::UnexpectedAnswer { answer, .. } =
            Error::unexpected("server", "CACHE.FETCH", &Endless(&pieces))
        else {
            panic!("another error");
        };
        assert_eq!((answer.len(), pieces.get()), (100, 10));
    }
}
