//! An entry as one string: how it lies in RDB files and dumps. A server reads and writes one string several times faster
//! than a dozen numbers and strings.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | flags: gone, expires, and which of the optional numbers follow |
//! | 4 | the node that stamped it, little-endian, 0 if that is another one than saved it |
//! | 6 | when it was written, unix ms, little-endian |
//! | … | hits, grace (ms), stale since (unix ms), each LEB128 and only if its flag is set |
//! | … | the number of tags, LEB128, and for each its length, LEB128, and its bytes |
//! | … | the value |

use smallvec::SmallVec;

use crate::leb128;

/// Flags.
const GONE: u8 = 1;
const HAS_TTL: u8 = 2;
const HAS_HITS: u8 = 4;
const HAS_GRACE: u8 = 8;
const HAS_SOFT: u8 = 16;

/// What a payload may claim at most.
pub(crate) const MAX_TAGS: u64 = 16_384;
pub(crate) const MAX_TAG_BYTES: u64 = 65_536;
pub(crate) const MAX_TIME_MS: u64 = (1 << 48) - 1;
/// The longest grace, and the longest hold of a tag, ms: some 34 years. Files of earlier builds may say more.
pub(crate) const MAX_SPAN_MS: u64 = 1 << 40;

/// An entry that is saved, or was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record<'r> {
    /// It was gone when it was saved, so it is gone wherever it is loaded.
    pub(crate) is_gone: bool,
    /// Whether it expires.
    pub(crate) has_ttl: bool,
    /// The node that stamped it; 0: another one than that which saved it, or not known.
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
        let mut bytes = Vec::with_capacity(16 + 4 * leb128::MAX + tags + self.value.len());
        let soft_since_ms = self.soft_since_ms.unwrap_or(0);
        let optional = [
            (HAS_HITS, self.hits.into()),
            (HAS_GRACE, self.grace_ms),
            (HAS_SOFT, soft_since_ms),
        ];
        let mut flags =
            if self.is_gone { GONE } else { 0 } | if self.has_ttl { HAS_TTL } else { 0 };
        for (flag, number) in optional {
            flags |= if number > 0 { flag } else { 0 };
        }
        bytes.push(flags);
        bytes.extend_from_slice(&self.origin.to_le_bytes());
        bytes.extend_from_slice(&self.created_ms.to_le_bytes()[..6]);
        let push = |bytes: &mut Vec<u8>, number| leb128::write(number, |byte| bytes.push(byte));
        for (_, number) in optional.into_iter().filter(|&(_, number)| number > 0) {
            push(&mut bytes, number);
        }
        push(&mut bytes, self.tags.len() as u64);
        for tag in &self.tags {
            push(&mut bytes, tag.len() as u64);
            bytes.extend_from_slice(tag);
        }
        bytes.extend_from_slice(self.value);
        bytes
    }

    /// `None` if the bytes are no record: they may be anything, so each number is checked before it is believed.
    pub(crate) fn decode(bytes: &'r [u8]) -> Option<Self> {
        let (&[flags, o0, o1, o2, o3, c0, c1, c2, c3, c4, c5], mut rest) =
            bytes.split_first_chunk()?;
        if flags >= 2 * HAS_SOFT {
            return None;
        }
        let has = |flag| flags & flag != 0;
        let mut next = |max: u64| leb128::take(&mut rest).filter(|&number| number <= max);
        let mut optional = |flag, max| if has(flag) { next(max) } else { Some(0) };
        let mut record = Self {
            is_gone: has(GONE),
            has_ttl: has(HAS_TTL),
            origin: u32::from_le_bytes([o0, o1, o2, o3]),
            created_ms: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, 0, 0]),
            hits: optional(HAS_HITS, u32::MAX.into())? as u32,
            grace_ms: optional(HAS_GRACE, MAX_TIME_MS)?,
            soft_since_ms: Some(optional(HAS_SOFT, MAX_TIME_MS)?).filter(|&ms| ms > 0),
            ..Self::default()
        };
        for _ in 0..next(MAX_TAGS)? {
            let len = leb128::take(&mut rest).filter(|len| (1..=MAX_TAG_BYTES).contains(len))?;
            let (tag, others) = rest.split_at_checked(len as usize)?;
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
    use tagcache_tests::fuzz::fuzz;

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
    #[cfg_attr(miri, ignore = "thousands of tags")]
    fn no_more_is_believed_than_an_entry_can_have() {
        let long = vec![b't'; MAX_TAG_BYTES as usize];
        let last = (1 << 48) - 1;
        let record = |time_ms, tags: &[&[u8]]| {
            let tags = tags.iter().copied().collect();
            let (grace_ms, soft_since_ms) = (time_ms, Some(time_ms));
            Record {
                grace_ms,
                soft_since_ms,
                tags,
                ..Record::default()
            }
            .encode()
        };
        let is_read = |bytes: Vec<u8>| Record::decode(&bytes).is_some();
        assert!(is_read(record(last, &[&long])));
        assert!(!is_read(record(last + 1, &[&long])));
        assert!(!is_read(record(last, &[&[&long[..], b"t"].concat()])));
        assert!(!is_read(record(last, &[b""])));
        let most = vec![&b"t"[..]; MAX_TAGS as usize + 1];
        assert!(is_read(record(last, &most[1..])));
        assert!(!is_read(record(last, &most)));
    }

    #[test]
    fn damaged_records_are_refused_or_are_records_again() {
        let tags: [&[u8]; 3] = [b"a", b"tag", &[b't'; 200]];
        let plain = Record {
            value: b"value",
            ..Record::default()
        };
        let full = Record {
            has_ttl: true,
            origin: 7,
            created_ms: 1 << 41,
            hits: 300,
            grace_ms: 60_000,
            soft_since_ms: Some(1 << 41),
            tags: tags.into_iter().collect(),
            value: b"value",
            ..Record::default()
        };
        let corpus = [plain.encode(), full.encode()];
        fuzz(
            "records",
            if cfg!(miri) { 50 } else { 20_000 },
            &corpus,
            |bytes| {
                let Some(record) = Record::decode(bytes) else {
                    return;
                };
                let stored: usize = record.tags.iter().map(|tag| tag.len()).sum();
                assert!(stored + record.value.len() <= bytes.len());
                assert!(record.tags.len() as u64 <= MAX_TAGS);
                let again = record.encode();
                assert!(again.len() <= bytes.len(), "no number is shorter");
                assert_eq!(Record::decode(&again), Record::decode(bytes));
            },
        );
    }

    #[test]
    fn what_claims_too_much_is_refused() {
        let head = [0; 11];
        let whole = [&head[..], &[0]].concat();
        assert!(Record::decode(&whole).is_some());
        assert_eq!(Record::decode(&[&[32], &whole[1..]].concat()), None);
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
        for flag in [HAS_HITS, HAS_GRACE, HAS_SOFT] {
            let mut claims = [&head[..], &[0xff; 9], &[0]].concat();
            claims[0] = flag;
            assert_eq!(Record::decode(&claims), None, "{flag}");
        }
    }
}
