//! Every error that a command can return, and its text.

use thiserror::Error;

use crate::record::MAX_TAG_BYTES;

/// The reason why a command was refused. The text goes to the client unchanged, so it starts with the error's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Error {
    /// The server writes this text itself, since it knows the command's name.
    #[error("ERR wrong number of arguments")]
    WrongArity,
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR invalid cursor")]
    InvalidCursor,
    #[error("ERR invalid expire time in '{command}' command")]
    InvalidExpire { command: &'static str },
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR {given} tags given, the limit is {limit} (tagcache.max-tags-per-entry)")]
    TooManyTags { given: u64, limit: u64 },
    #[error("ERR tag is empty, a tag has 1 to {limit} bytes{}", tag_setting(*limit))]
    EmptyTag { limit: u64 },
    #[error("ERR tag is {given} bytes, the limit is {limit}{}", tag_setting(*limit))]
    TagTooLong { given: u64, limit: u64 },
    #[error("NOPERM this user has no permissions to access one of the tags used as arguments")]
    TagNotPermitted,
    #[error("NOPERM No permissions to access a key")]
    KeyNotPermitted,
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,
    #[error("TRYAGAIN Multiple keys request during rehashing of slot")]
    TryAgain,
    #[error("ERR internal error")]
    Internal,
}

/// The setting to raise, if there is one: tags that are named and not stored have a fixed limit.
fn tag_setting(limit: u64) -> &'static str {
    if limit < MAX_TAG_BYTES {
        " (tagcache.max-tag-bytes)"
    } else {
        ""
    }
}
