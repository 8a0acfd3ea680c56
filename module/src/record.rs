//! An entry as one string: how it lies in RDB files and dumps from encoding 3 on. A server reads and writes one string
//! several times faster than a dozen numbers and strings.
//!
//! `flags`, `origin`, `written at` (unix ms), `hits`, `grace` (ms), `stale since` (unix ms, 0: not by a soft
//! invalidation), the number of tags, for each tag its length and its bytes, and the value to the end. Numbers are LEB128.

use smallvec::SmallVec;

use crate::leb128;

/// Flags.
const GONE: u64 = 1;
const HAS_TTL: u64 = 2;

/// What a payload may claim at most.
const MAX_TAGS: u64 = 16_384;
const MAX_TAG_BYTES: u64 = 65_536;
pub(crate) const MAX_TIME_MS: u64 = (1 << 48) - 1;

/// An entry that is saved, or was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record<'r> {
    /// It was gone when it was saved, so it is gone wherever it is loaded.
    pub(crate) is_gone: bool,
    /// Whether it expires.
    pub(crate) has_ttl: bool,
    /// The node that stamped it; 0: not known.
    pub(crate) origin: u32,
    pub(crate) created_ms: u64,
    pub(crate) hits: u32,
    pub(crate) grace_ms: u64,
    pub(crate) soft_since_ms: Option<u64>,
    pub(crate) tags: SmallVec<[&'r [u8]; 8]>,
    pub(crate) value: &'r [u8],
}

impl<'r> Record<'r> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let tags: usize = self.tags.iter().map(|tag| tag.len() + leb128::MAX).sum();
        let mut bytes = Vec::with_capacity(7 * leb128::MAX + tags + self.value.len());
        let mut push = |number: u64| {
            let mut encoded = [0; leb128::MAX];
            let len = leb128::write(number, &mut encoded);
            bytes.extend_from_slice(&encoded[..len]);
        };
        for number in [
            if self.is_gone { GONE } else { 0 } | if self.has_ttl { HAS_TTL } else { 0 },
            self.origin.into(),
            self.created_ms,
            self.hits.into(),
            self.grace_ms,
            self.soft_since_ms.unwrap_or(0),
            self.tags.len() as u64,
        ] {
            push(number);
        }
        for tag in &self.tags {
            push(tag.len() as u64);
        }
        for tag in &self.tags {
            bytes.extend_from_slice(tag);
        }
        bytes.extend_from_slice(self.value);
        bytes
    }

    /// `None` if the bytes are no record: they may be anything, so each number is checked before it is believed.
    pub(crate) fn decode(bytes: &'r [u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut next = |max: u64| {
            let number = leb128::read(|| {
                let (&first, others) = rest.split_first()?;
                rest = others;
                Some(first)
            });
            number.filter(|&number| number <= max)
        };
        let flags = next(GONE | HAS_TTL)?;
        let mut record = Self {
            is_gone: flags & GONE != 0,
            has_ttl: flags & HAS_TTL != 0,
            origin: next(u32::MAX.into())? as u32,
            created_ms: next(MAX_TIME_MS)?,
            hits: next(u32::MAX.into())? as u32,
            grace_ms: next(MAX_TIME_MS)?,
            soft_since_ms: Some(next(MAX_TIME_MS)?).filter(|&ms| ms > 0),
            ..Self::default()
        };
        let mut lengths: SmallVec<[usize; 8]> = SmallVec::new();
        for _ in 0..next(MAX_TAGS)? {
            lengths.push(next(MAX_TAG_BYTES).filter(|&len| len > 0)? as usize);
        }
        for len in lengths {
            let (tag, others) = rest.split_at_checked(len)?;
            record.tags.push(tag);
            rest = others;
        }
        record.value = rest;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_comes_back(
            is_gone in any::<bool>(), has_ttl in any::<bool>(), origin in any::<u32>(), created_ms in 0..=MAX_TIME_MS, hits in any::<u32>(),
            grace_ms in 0..=MAX_TIME_MS, soft_since_ms in proptest::option::of(1..=MAX_TIME_MS),
            tags in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 0..20),
            value in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let record = || Record {
                is_gone, has_ttl, origin, created_ms, hits, grace_ms, soft_since_ms,
                tags: tags.iter().map(Vec::as_slice).collect(),
                value: &value,
            };
            let bytes = record().encode();
            prop_assert!(Record::decode(&bytes) == Some(record()));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let again = Record::decode(&bytes).map(|record| record.encode());
            if let Some(again) = &again {
                prop_assert!(Record::decode(again) == Record::decode(&bytes));
            }
        }
    }

    #[test]
    fn what_claims_too_much_is_refused() {
        assert_eq!(Record::decode(&[4, 0, 0, 0, 0, 0, 0]), None);
        let head = [0, 0, 0, 0, 0, 0];
        for claims in [
            &[][..],
            &[1],
            &[1, 0],             // An empty tag.
            &[1, 5, b'a'],       // A tag beyond the end.
            &[0xff, 0xff, 0x7f], // More tags than any entry has.
            &[1, 0xff, 0xff, 0x7f],
        ] {
            assert_eq!(
                Record::decode(&[&head, claims].concat()),
                None,
                "{claims:?}"
            );
        }
        assert!(Record::decode(&[&head[..], &[0]].concat()).is_some());
    }
}
