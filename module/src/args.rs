//! A cursor over a command's arguments, and what several commands have in common. No other file counts arguments.

use std::ops::RangeInclusive;

use crate::config::Config;
use crate::error::Error;

/// Walks over the arguments from left to right.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [&'a [u8]],
}

impl<'a> Cursor<'a> {
    /// Over the arguments after the command's name.
    pub(crate) const fn new(args: &'a [&'a [u8]]) -> Self {
        Self { rest: args }
    }

    /// The next argument, or a syntax error where there is none.
    pub(crate) fn next(&mut self) -> Result<&'a [u8], Error> {
        let (first, rest) = self.rest.split_first().ok_or(Error::Syntax)?;
        self.rest = rest;
        Ok(first)
    }

    /// The next argument, if there is one.
    pub(crate) fn next_option(&mut self) -> Option<&'a [u8]> {
        self.next().ok()
    }

    /// How many arguments are left.
    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn next_i64(&mut self) -> Result<i64, Error> {
        parse_i64(self.next()?).ok_or(Error::NotAnInteger)
    }

    /// The next argument as a number in this range.
    pub(crate) fn next_in(&mut self, range: RangeInclusive<u64>) -> Result<u64, Error> {
        let number = u64::try_from(self.next_i64()?).map_err(|_| Error::NotAnInteger)?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(Error::NotAnInteger)
        }
    }

    /// `count tag [tag ...]` behind this option, within the limits.
    pub(crate) fn next_tags(
        &mut self,
        option: &'static str,
        config: &Config,
    ) -> Result<&'a [&'a [u8]], Error> {
        let count = self.next_i64()?;
        if count < 1 {
            return Err(Error::NoTags { option });
        }
        if count > i64::from(config.max_tags_per_entry) {
            return Err(Error::TooManyTags {
                given: count,
                limit: config.max_tags_per_entry,
            });
        }
        let (tags, rest) = self
            .rest
            .split_at_checked(count as usize)
            .ok_or(Error::Syntax)?;
        self.rest = rest;
        check_tags(tags, config)
    }

    /// All that is left.
    pub(crate) const fn rest(self) -> &'a [&'a [u8]] {
        self.rest
    }

    /// All that is left, as tags within the limits.
    pub(crate) fn rest_as_tags(self, config: &Config) -> Result<&'a [&'a [u8]], Error> {
        check_tags(self.rest, config)
    }
}

fn check_tags<'a>(tags: &'a [&'a [u8]], config: &Config) -> Result<&'a [&'a [u8]], Error> {
    for tag in tags {
        check_tag(tag, config)?;
    }
    Ok(tags)
}

/// Refuses an empty or too long tag.
pub(crate) fn check_tag<'a>(tag: &'a [u8], config: &Config) -> Result<&'a [u8], Error> {
    let limit = config.max_tag_bytes;
    match tag.len() {
        0 => Err(Error::EmptyTag { limit }),
        given if given > limit as usize => Err(Error::TagTooLong { given, limit }),
        _ => Ok(tag),
    }
}

/// A number as Redis writes it: decimal, no plus sign, no leading zeros, no spaces.
pub(crate) fn parse_i64(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Counted downwards, because the negative numbers reach one further.
    let mut number = 0_i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number
            .checked_mul(10)?
            .checked_sub(i64::from(digit - b'0'))?;
    }
    if negative {
        Some(number)
    } else {
        number.checked_neg()
    }
}

/// Sets `option` once; a second time is a syntax error.
pub(crate) fn set_once<T>(option: &mut Option<T>, value: T) -> Result<(), Error> {
    match option.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Syntax),
    }
}

/// The longest grace, ms: as long as the longest default time to live.
const MAX_GRACE_MS: u64 = 1 << 47;

/// Reads the number behind GRACE, ms.
pub(crate) fn next_grace_ms(cursor: &mut Cursor<'_>) -> Result<u64, Error> {
    cursor.next_in(0..=MAX_GRACE_MS)
}

/// A logical expiry and a grace as the deadline that the server sees, which comes after both.
pub(crate) fn with_grace(
    logical_ms: Option<u64>,
    grace_ms: u64,
    command: &'static str,
) -> Result<Option<u64>, Error> {
    let Some(logical_ms) = logical_ms else {
        return Ok(None);
    };
    match logical_ms.checked_add(grace_ms) {
        Some(deadline) if i64::try_from(deadline).is_ok() => Ok(Some(deadline)),
        _ => Err(Error::InvalidExpire { command }),
    }
}

/// A time to live as a command gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// EX, PX: from now on, in the unit's milliseconds.
    In { amount: i64, unit_ms: i64 },
    /// EXAT, PXAT.
    At { amount: i64, unit_ms: i64 },
    /// KEEPTTL.
    Keep,
    /// PERSIST.
    Never,
}

impl Ttl {
    /// Reads the number behind an option word that means a time; `None` if the word does not.
    pub(crate) fn parse(word: &[u8], cursor: &mut Cursor<'_>) -> Result<Option<Self>, Error> {
        let (unit_ms, relative) = match () {
            () if word.eq_ignore_ascii_case(b"EX") => (1000, true),
            () if word.eq_ignore_ascii_case(b"PX") => (1, true),
            () if word.eq_ignore_ascii_case(b"EXAT") => (1000, false),
            () if word.eq_ignore_ascii_case(b"PXAT") => (1, false),
            () => return Ok(None),
        };
        let amount = cursor.next_i64()?;
        Ok(Some(if relative {
            Self::In { amount, unit_ms }
        } else {
            Self::At { amount, unit_ms }
        }))
    }

    /// The moment it means, unix ms. Zero, negative and overflowing times are refused, as SET refuses them.
    pub(crate) fn deadline_ms(
        self,
        now_ms: u64,
        command: &'static str,
    ) -> Result<Option<u64>, Error> {
        let refused = || Error::InvalidExpire { command };
        let (amount, unit_ms, base) = match self {
            Self::In { amount, unit_ms } => (amount, unit_ms, now_ms as i64),
            Self::At { amount, unit_ms } => (amount, unit_ms, 0),
            Self::Keep | Self::Never => return Ok(None),
        };
        if amount <= 0 {
            return Err(refused());
        }
        let deadline = amount
            .checked_mul(unit_ms)
            .and_then(|ms| ms.checked_add(base))
            .ok_or_else(refused)?;
        Ok(Some(deadline as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        for (bytes, number) in [
            ("0", 0),
            ("7", 7),
            ("-7", -7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(parse_i64(bytes.as_bytes()), Some(number));
        }
        for bytes in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "1.0",
            "0x1",
            "9223372036854775808",
            "1e3",
            "\u{661}",
        ] {
            assert_eq!(parse_i64(bytes.as_bytes()), None, "{bytes:?}");
        }
    }

    #[test]
    fn times_that_cannot_be_are_refused() {
        let deadline = |ttl: Ttl| ttl.deadline_ms(1_000, "cache.set");
        assert_eq!(
            deadline(Ttl::In {
                amount: 2,
                unit_ms: 1000
            }),
            Ok(Some(3_000))
        );
        assert_eq!(
            deadline(Ttl::At {
                amount: 2,
                unit_ms: 1000
            }),
            Ok(Some(2_000))
        );
        for ttl in [
            Ttl::In {
                amount: 0,
                unit_ms: 1,
            },
            Ttl::In {
                amount: -1,
                unit_ms: 1000,
            },
            Ttl::In {
                amount: i64::MAX,
                unit_ms: 1,
            },
            Ttl::In {
                amount: i64::MAX / 10,
                unit_ms: 1000,
            },
            Ttl::At {
                amount: i64::MAX,
                unit_ms: 1000,
            },
            Ttl::At {
                amount: 0,
                unit_ms: 1,
            },
        ] {
            assert_eq!(
                deadline(ttl),
                Err(Error::InvalidExpire {
                    command: "cache.set"
                })
            );
        }
    }

    #[test]
    fn an_error_names_the_limit_and_the_value() {
        let config = Config::default();
        let long = [b't'; 700];
        assert_eq!(
            check_tag(&long, &config).unwrap_err().to_string(),
            "ERR tag is 700 bytes, the limit is 512 (tagcache.max-tag-bytes)"
        );
        let args: [&[u8]; 2] = [b"4294967296", b"a"];
        assert_eq!(
            Cursor::new(&args)
                .next_tags("TAGS", &config)
                .unwrap_err()
                .to_string(),
            "ERR 4294967296 tags given, the limit is 128 (tagcache.max-tags-per-entry)"
        );
    }
}
