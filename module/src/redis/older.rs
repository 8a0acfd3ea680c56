//! Reads RDB encodings 1 to 3, which builds before 0.2.0 wrote, and returns them as encoding 4. They are never written.
//!
//! An entry of encoding 1 or 2 is a sequence of numbers and strings: whether it is gone, its stamp, its hits, from 2 on
//! its grace and since when it is stale, its tags, its value. In encoding 3 it is the string of encoding 4.
//!
//! Auxiliary data is the number of databases and, for each, its number and its clock. In encoding 3 it also contains
//! the history, in the order of encoding 4, as numbers and strings.

use redis_module::{RedisBuffer, raw};

use crate::engine::{Facts, Softness};
use crate::entry::Parts;
use crate::leb128;
use crate::record::{MAX_TAG_BYTES, MAX_TAGS, MAX_TIME_MS, Record};

/// How many numbers are remembered of one tag.
const PAST_NUMBERS: usize = 7;

/// Reads from a payload. It may contain anything, so each value is checked before it is used.
pub(super) struct Reader(pub(super) *mut raw::RedisModuleIO);

impl Reader {
    fn number(&self, max: u64) -> Option<u64> {
        let number = raw::load_unsigned(self.0).ok();
        number.filter(|&number| number <= max)
    }

    fn tag(&self) -> Option<RedisBuffer> {
        let tag = raw::load_string_buffer(self.0).ok();
        tag.filter(|tag| (1..=MAX_TAG_BYTES).contains(&(tag.as_ref().len() as u64)))
    }

    /// An entry of encoding 1 or 2.
    pub(super) fn entry(&self, encoding: i32) -> Option<Vec<u8>> {
        let (mut parts, mut facts) = (Parts::default(), Facts::default());
        facts.is_gone = self.number(1)? == 1;
        parts.created_ms = self.number(MAX_TIME_MS)?;
        facts.hits = self.number(u32::MAX.into())? as u32;
        if encoding > 1 {
            parts.grace_ms = self.number(MAX_TIME_MS)?;
            let since_ms = self.number(MAX_TIME_MS)?;
            facts.softness = (since_ms > 0).then(|| Softness::since(since_ms));
        }
        let count = self.number(MAX_TAGS)?;
        let tags: Option<Vec<RedisBuffer>> = (0..count).map(|_| self.tag()).collect();
        let (tags, value) = (tags?, raw::load_string_buffer(self.0).ok()?);
        parts.value = value.as_ref();
        let record = Record {
            parts,
            facts,
            origin: 0,
            tags: tags.iter().map(RedisBuffer::as_ref).collect(),
        };
        Some(record.encode())
    }

    /// Auxiliary data of encoding 1, 2 or 3.
    pub(super) fn histories(&self, encoding: i32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for _ in 0..self.number(u64::MAX)? {
            self.copy_numbers(2, &mut bytes)?;
            if encoding < 3 {
                // An empty floor, an empty row for all entries, and no tag.
                bytes.resize(bytes.len() + 2 * PAST_NUMBERS + 1, 0);
                continue;
            }
            self.copy_numbers(2 * PAST_NUMBERS, &mut bytes)?;
            let tags = self.number(u64::MAX)?;
            leb128::push(&mut bytes, tags);
            for _ in 0..tags {
                let tag = self.tag()?;
                leb128::push(&mut bytes, tag.as_ref().len() as u64);
                bytes.extend_from_slice(tag.as_ref());
                self.copy_numbers(PAST_NUMBERS, &mut bytes)?;
            }
        }
        Some(bytes)
    }

    fn copy_numbers(&self, count: usize, bytes: &mut Vec<u8>) -> Option<()> {
        for _ in 0..count {
            leb128::push(bytes, self.number(u64::MAX)?);
        }
        Some(())
    }
}
