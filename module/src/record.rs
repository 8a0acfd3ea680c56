//! An entry as one string: its form in RDB files and dumps. A server reads and writes one string several times faster
//! than a dozen numbers and strings.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | flags: gone, expires, and which of the optional numbers follow |
//! | 4 | the node that stamped the entry, little-endian; 0 if another node saved it |
//! | 6 | time of the write, unix ms, little-endian |
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

/// The most that a payload may claim, and that a setting may allow. A command may name tags of this length, whatever
/// the settings are.
pub(crate) const MAX_TAGS: u64 = 16_384;
pub(crate) const MAX_TAG_BYTES: u64 = 65_536;
pub(crate) const MAX_TIME_MS: u64 = (1 << 48) - 1;
/// The longest grace, and the longest hold of a tag, ms: some 34 years. Files of earlier builds may contain more.
pub(crate) const MAX_SPAN_MS: u64 = 1 << 40;

/// The parts of an entry, apart from its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) created_ms: u64,
    pub(crate) has_ttl: bool,
    /// The time for which it may be served as stale; 0: not at all.
    pub(crate) grace_ms: u64,
}

/// The index's facts about an entry, apart from its tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) is_gone: bool,
    pub(crate) hits: u32,
    /// Set if the entry is stale by a soft invalidation.
    pub(crate) softness: Option<Softness>,
    /// The entry was stamped by the clock of another node.
    pub(crate) is_foreign: bool,
    /// The entry arrived, and was or may have been refused elsewhere. It stays, gone or not, until that node reports
    /// it, or no node is left to report it. If a gone one were reclaimed before, the report would change nothing, and
    /// so be missing in this node's log.
    pub(crate) is_doubted: bool,
}

/// The time since which entries are stale by a soft invalidation, and the longest time for which they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Softness {
    /// Unix ms.
    pub(crate) since_ms: u64,
    /// Applies whatever grace they have.
    pub(crate) limit_ms: u64,
}

impl Softness {
    /// Stale since `since_ms` for the entry's own grace.
    pub(crate) const fn since(since_ms: u64) -> Self {
        Self {
            since_ms,
            limit_ms: u64::MAX,
        }
    }

    /// The time since which an entry with this grace would have to be stale, to be so no longer than the limit allows.
    pub(crate) const fn since_ms_for(self, grace_ms: u64) -> u64 {
        let less_ms = grace_ms.saturating_sub(self.limit_ms);
        let since_ms = self.since_ms.saturating_sub(less_ms);
        // 0 would mean that it is not stale at all.
        if since_ms == 0 { 1 } else { since_ms }
    }

    /// The time at which an entry with this grace is gone.
    pub(crate) const fn ends_ms_for(self, grace_ms: u64) -> u64 {
        self.since_ms_for(grace_ms).saturating_add(grace_ms)
    }

    /// Limited to end no later than `other`, whatever the grace.
    pub(crate) fn narrowed_by(self, other: Self) -> Self {
        let ends_ms = other.since_ms.saturating_add(other.limit_ms);
        Self {
            limit_ms: self.limit_ms.min(ends_ms.saturating_sub(self.since_ms)),
            ..self
        }
    }
}

/// An entry in its saved form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record<'r> {
    pub(crate) parts: Parts<'r>,
    /// An entry that was gone when it was saved is gone wherever it is loaded.
    pub(crate) facts: Facts,
    /// The node that stamped it; 0: another node saved it, or it is not known.
    pub(crate) origin: u32,
    pub(crate) tags: SmallVec<[&'r [u8]; 8]>,
}

impl<'r> Record<'r> {
    /// The time since which it is stale by a soft invalidation; 0: it is not.
    pub(crate) fn soft_since_ms(&self) -> u64 {
        let softness = self.facts.softness;
        softness.map_or(0, |softness| softness.since_ms_for(self.parts.grace_ms))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let Parts { value, .. } = self.parts;
        let tags: usize = self.tags.iter().map(|tag| tag.len() + leb128::MAX).sum();
        let mut bytes = Vec::with_capacity(16 + 4 * leb128::MAX + tags + value.len());
        let optional = [
            (HAS_HITS, self.facts.hits.into()),
            (HAS_GRACE, self.parts.grace_ms),
            (HAS_SOFT, self.soft_since_ms()),
        ];
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let mut flags = flag(self.facts.is_gone, GONE) | flag(self.parts.has_ttl, HAS_TTL);
        for (flag, number) in optional {
            flags |= if number > 0 { flag } else { 0 };
        }
        bytes.push(flags);
        bytes.extend_from_slice(&self.origin.to_le_bytes());
        bytes.extend_from_slice(&self.parts.created_ms.to_le_bytes()[..6]);
        for (_, number) in optional.into_iter().filter(|&(_, number)| number > 0) {
            leb128::push(&mut bytes, number);
        }
        leb128::push(&mut bytes, self.tags.len() as u64);
        for tag in &self.tags {
            leb128::push(&mut bytes, tag.len() as u64);
            bytes.extend_from_slice(tag);
        }
        bytes.extend_from_slice(value);
        bytes
    }

    /// `None` if the bytes are no record: they may be anything, so each number is checked before it is used.
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
            origin: u32::from_le_bytes([o0, o1, o2, o3]),
            ..Self::default()
        };
        record.facts.is_gone = has(GONE);
        record.facts.is_foreign = record.origin == 0;
        record.facts.hits = optional(HAS_HITS, u32::MAX.into())? as u32;
        record.parts.has_ttl = has(HAS_TTL);
        record.parts.created_ms = u64::from_le_bytes([c0, c1, c2, c3, c4, c5, 0, 0]);
        record.parts.grace_ms = optional(HAS_GRACE, MAX_TIME_MS)?;
        let soft_since_ms = Some(optional(HAS_SOFT, MAX_TIME_MS)?).filter(|&ms| ms > 0);
        record.facts.softness = soft_since_ms.map(Softness::since);
        for _ in 0..next(MAX_TAGS)? {
            let len = leb128::take(&mut rest).filter(|len| (1..=MAX_TAG_BYTES).contains(len))?;
            let (tag, others) = rest.split_at_checked(len as usize)?;
            record.tags.push(tag);
            rest = others;
        }
        record.parts.value = rest;
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
        fn an_encoded_record_decodes_to_itself(
            is_gone in any::<bool>(), has_ttl in any::<bool>(), origin in any::<u32>(), created_ms in 0..=MAX_TIME_MS, hits in any::<u32>(),
            grace_ms in 0..=MAX_TIME_MS, soft_since_ms in proptest::option::of(1..=MAX_TIME_MS),
            tags in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 0..20),
            value in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let softness = soft_since_ms.map(Softness::since);
            let record = || Record {
                parts: Parts { value: &value, created_ms, has_ttl, grace_ms },
                facts: Facts { is_gone, hits, softness, is_foreign: origin == 0, is_doubted: false },
                origin,
                tags: tags.iter().map(Vec::as_slice).collect(),
            };
            let bytes = record().encode();
            prop_assert!(Record::decode(&bytes) == Some(record()));
        }

        #[test]
        fn arbitrary_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let again = Record::decode(&bytes).map(|record| record.encode());
            if let Some(again) = &again {
                prop_assert!(Record::decode(again) == Record::decode(&bytes));
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of tags")]
    fn a_record_beyond_the_limits_of_an_entry_is_refused() {
        let long = vec![b't'; MAX_TAG_BYTES as usize];
        let last = (1 << 48) - 1;
        let record = |time_ms, tags: &[&[u8]]| {
            let tags = tags.iter().copied().collect();
            let mut record = Record {
                tags,
                ..Record::default()
            };
            record.parts.grace_ms = time_ms;
            record.facts.softness = Some(Softness::since(time_ms));
            record.encode()
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
    fn damaged_records_are_refused_or_decode_to_valid_ones() {
        let tags: [&[u8]; 3] = [b"a", b"tag", &[b't'; 200]];
        let mut plain = Record::default();
        plain.parts.value = b"value";
        let full = Record {
            parts: Parts {
                value: b"value",
                created_ms: 1 << 41,
                has_ttl: true,
                grace_ms: 60_000,
            },
            facts: Facts {
                hits: 300,
                softness: Some(Softness::since(1 << 41)),
                ..Facts::default()
            },
            origin: 7,
            tags: tags.into_iter().collect(),
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
                assert!(stored + record.parts.value.len() <= bytes.len());
                assert!(record.tags.len() as u64 <= MAX_TAGS);
                let again = record.encode();
                assert!(again.len() <= bytes.len(), "no number is shorter");
                assert_eq!(Record::decode(&again), Record::decode(bytes));
            },
        );
    }

    #[test]
    fn impossible_lengths_counts_and_flags_are_refused() {
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
