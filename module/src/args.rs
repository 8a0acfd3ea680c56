//! A cursor over a command's arguments, and parsers that several commands share. No other file counts arguments.

use std::ops::RangeInclusive;

use crate::config::Config;
use crate::error::Error;
use crate::native;
use crate::record::{MAX_TAG_BYTES, MAX_TAGS};

/// A word that may be an option, whatever its case: its letters in one number, 0 if it is too long for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    const fn of(bytes: &[u8]) -> Self {
        Self(native::word(bytes))
    }

    pub(crate) const fn is(self, option: &[u8]) -> bool {
        self.0 == Self::of(option).0
    }
}

#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [&'a [u8]],
}

impl<'a> Cursor<'a> {
    /// Over the arguments after the command's name.
    pub(crate) const fn new(args: &'a [&'a [u8]]) -> Self {
        Self { rest: args }
    }

    #[inline(always)]
    fn take(&mut self) -> Option<&'a [u8]> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// The next argument, or a syntax error where there is none.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<&'a [u8], Error> {
        self.take().ok_or(Error::Syntax)
    }

    /// The next argument, if there is one, as the name of an option.
    #[inline(always)]
    pub(crate) fn next_option(&mut self) -> Option<Word> {
        self.take().map(Word::of)
    }

    /// Skips this many arguments, or all that are left.
    pub(crate) fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// A syntax error if any argument is left.
    pub(crate) const fn end(&self) -> Result<(), Error> {
        match self.rest {
            [] => Ok(()),
            _ => Err(Error::Syntax),
        }
    }

    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline(always)]
    pub(crate) fn next_i64(&mut self) -> Result<i64, Error> {
        match self.take().map(parse_i64) {
            Some(Some(number)) => Ok(number),
            Some(None) => Err(Error::NotAnInteger),
            None => Err(Error::Syntax),
        }
    }

    #[inline(always)]
    pub(crate) fn next_in(&mut self, range: RangeInclusive<u64>) -> Result<u64, Error> {
        let number = u64::try_from(self.next_i64()?).map_err(|_| Error::NotAnInteger)?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(Error::NotAnInteger)
        }
    }

    /// `count tag [tag ...]`, at least `at_least`: 0 where callers build commands from lists that may be empty.
    pub(crate) fn next_tags(&mut self, at_least: u64) -> Result<&'a [&'a [u8]], Error> {
        let given = self.next_in(at_least..=u64::MAX)?;
        check_tags(self.next_many(given)?, MAX_TAG_BYTES)
    }

    /// `count tag [tag ...]` to be stored: none, or as many as the limits allow.
    #[inline(always)]
    pub(crate) fn next_stored_tags(&mut self, limits: TagLimits) -> Result<&'a [&'a [u8]], Error> {
        let given = self.next_in(0..=u64::MAX)?;
        if given > limits.count {
            let limit = limits.count;
            return Err(Error::TooManyTags { given, limit });
        }
        check_tags(self.next_many(given)?, limits.bytes)
    }

    #[inline(always)]
    fn next_many(&mut self, given: u64) -> Result<&'a [&'a [u8]], Error> {
        let split = self.rest.split_at_checked(given as usize);
        let (counted, rest) = split.ok_or(Error::Syntax)?;
        self.rest = rest;
        Ok(counted)
    }

    pub(crate) fn rest_as_tags(self) -> Result<&'a [&'a [u8]], Error> {
        check_tags(self.rest, MAX_TAG_BYTES)
    }
}

/// How many tags an entry may have, and how long each may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TagLimits {
    count: u64,
    bytes: u64,
}

impl TagLimits {
    /// The widest limits that any node may have set: tags from a primary or a log were accepted there.
    pub(crate) const WIDEST: Self = Self {
        count: MAX_TAGS,
        bytes: MAX_TAG_BYTES,
    };

    pub(crate) const fn of(config: &Config) -> Self {
        Self {
            count: config.max_tags_per_entry,
            bytes: config.max_tag_bytes,
        }
    }
}

/// Refuses empty and too long tags.
fn check_tags<'a>(tags: &'a [&'a [u8]], limit: u64) -> Result<&'a [&'a [u8]], Error> {
    for tag in tags {
        match tag.len() as u64 {
            0 => return Err(Error::EmptyTag { limit }),
            given if given > limit => return Err(Error::TagTooLong { given, limit }),
            _ => {}
        }
    }
    Ok(tags)
}

/// A number as Redis writes it: decimal, no plus sign, no leading zeros, no spaces.
#[inline(never)]
pub(crate) fn parse_i64(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [digit @ b'0'..=b'9'] => return Some((digit - b'0').into()),
        [b'-', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    // No number of 19 digits is too large for 64 bits.
    if matches!(digits, [] | [b'0', ..]) || digits.len() > 19 {
        return None;
    }
    let (mut number, mut digits) = (0_u64, digits);
    if let Some((eight, rest)) = digits.split_first_chunk() {
        (number, digits) = (parse_eight(*eight)?, rest);
    }
    for digit in digits {
        let digit = u64::from(*digit).wrapping_sub(b'0'.into());
        if digit > 9 {
            return None;
        }
        number = 10 * number + digit;
    }
    if negative {
        0_i64.checked_sub_unsigned(number)
    } else {
        i64::try_from(number).ok()
    }
}

/// Eight digits at once: pairs of neighbours are joined three times (D. Lemire, "Quickly parsing eight digits", 2018).
#[inline(always)]
fn parse_eight(digits: [u8; 8]) -> Option<u64> {
    const EACH: u64 = u64::MAX / 255;
    let digits = u64::from_le_bytes(digits).wrapping_sub(EACH * u64::from(b'0'));
    // A byte that is no digit is above 9 now, or has wrapped around below 0.
    if (digits | digits.wrapping_add(EACH * 0x76)) & (EACH * 0x80) != 0 {
        return None;
    }
    let pairs = (10 * digits + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (100 * pairs + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    Some((10_000 * fours + (fours >> 32)) & 0xffff_ffff)
}

/// Sets `option` once; a second time is a syntax error.
pub(crate) fn set_once<T>(option: &mut Option<T>, value: T) -> Result<(), Error> {
    match option.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Syntax),
    }
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

/// A time to live, as given to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// EX, PX: this many ms from now on; `None` if the number overflows.
    In(Option<i64>),
    /// EXAT, PXAT: unix ms.
    At(Option<i64>),
    /// KEEPTTL.
    Keep,
    /// PERSIST.
    Never,
}

impl Ttl {
    /// Reads the number after an option word that means a time; `None` if the word does not.
    #[inline(always)]
    pub(crate) fn parse(word: Word, cursor: &mut Cursor<'_>) -> Result<Option<Self>, Error> {
        let (unit_ms, is_relative) = match () {
            () if word.is(b"EX") => (1000, true),
            () if word.is(b"PX") => (1, true),
            () if word.is(b"EXAT") => (1000, false),
            () if word.is(b"PXAT") => (1, false),
            () => return Ok(None),
        };
        let ms = cursor.next_i64()?.checked_mul(unit_ms);
        Ok(Some(if is_relative {
            Self::In(ms)
        } else {
            Self::At(ms)
        }))
    }

    /// The deadline, unix ms. Zero, negative and overflowing times are refused, as SET refuses them.
    pub(crate) fn deadline_ms(
        self,
        now_ms: u64,
        command: &'static str,
    ) -> Result<Option<u64>, Error> {
        match self {
            Self::In(Some(..=0)) | Self::At(Some(..=0)) => Err(Error::InvalidExpire { command }),
            _ => self.new_deadline_ms(now_ms, command),
        }
    }

    /// The same for an existing entry: a time before 1970 counts as 1970, and only overflowing times are refused, as
    /// EXPIRE refuses them.
    pub(crate) fn new_deadline_ms(
        self,
        now_ms: u64,
        command: &'static str,
    ) -> Result<Option<u64>, Error> {
        let (ms, base) = match self {
            Self::In(ms) => (ms, now_ms as i64),
            Self::At(ms) => (ms, 0),
            Self::Keep | Self::Never => return Ok(None),
        };
        let deadline = ms.and_then(|ms| ms.checked_add(base));
        let deadline = deadline.ok_or(Error::InvalidExpire { command })?;
        Ok(Some(deadline.max(0) as u64))
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
            ("12345678", 12_345_678),
            ("90817263544", 90_817_263_544),
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
            "12345678901234567890",
            "1234567:",
            "1234/678",
            "1234567\u{b9}",
            "1e3",
            "\u{661}",
        ] {
            assert_eq!(parse_i64(bytes.as_bytes()), None, "{bytes:?}");
        }
    }

    #[test]
    fn impossible_expire_times_are_refused() {
        let deadline = |ttl: Ttl| ttl.deadline_ms(1_000, "cache.set");
        assert_eq!(deadline(Ttl::In(Some(2_000))), Ok(Some(3_000)));
        assert_eq!(deadline(Ttl::At(Some(2_000))), Ok(Some(2_000)));
        for ms in [Some(0), Some(-1_000), None] {
            let error = Err(Error::InvalidExpire {
                command: "cache.set",
            });
            assert_eq!(deadline(Ttl::In(ms)), error);
            assert_eq!(deadline(Ttl::At(ms)), error);
        }
        let command = "cache.set";
        let latest = Ttl::In(Some(i64::MAX));
        assert_eq!(deadline(latest), Err(Error::InvalidExpire { command }));
        let words: [&[u8]; 2] = [b"9223372036854775807", b"7"];
        let mut cursor = Cursor::new(&words);
        let mut parse = |word| Ttl::parse(Word::of(word), &mut cursor);
        assert_eq!(parse(b"exat"), Ok(Some(Ttl::At(None))));
        assert_eq!(parse(b"EX"), Ok(Some(Ttl::In(Some(7_000)))));
    }

    #[test]
    fn an_error_names_the_limit_and_the_value() {
        let limits = TagLimits::of(&Config::default());
        let message = |args: &[&[u8]]| {
            let refused = Cursor::new(args).next_stored_tags(limits);
            refused.expect_err("refused").to_string()
        };
        assert_eq!(
            message(&[b"1", &[b't'; 700]]),
            "ERR tag is 700 bytes, the limit is 512 (tagcache.max-tag-bytes)"
        );
        assert_eq!(
            message(&[b"4294967296", b"a"]),
            "ERR 4294967296 tags given, the limit is 1024 (tagcache.max-tags-per-entry)"
        );
        let negative = Cursor::new(&[b"-1"]).next_stored_tags(limits);
        assert_eq!(negative, Err(Error::NotAnInteger));
    }

    #[test]
    fn tag_limits_apply_only_to_stored_tags() {
        let long = [b't'; 700];
        let args: [&[u8]; 2] = [b"1", &long];
        assert!(Cursor::new(&args).next_tags(1).is_ok());
        assert_eq!(Cursor::new(&[b"0"]).next_tags(1), Err(Error::NotAnInteger));
        let none = Cursor::new(&[b"0"]).next_stored_tags(TagLimits::WIDEST);
        assert_eq!(none, Ok(&[][..]));
    }
}
