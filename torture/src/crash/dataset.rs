//! The changes of one client, and the data that a server should hold after them.

use std::collections::BTreeMap;

use tagcache_tests::look::entry_keys;
use tagcache_tests::{RawClient, Reply, Rng, args};

/// Keys and tags that are changed at random.
pub(super) const KEYS: usize = 300;
const TAGS: usize = 12;

/// One command; each value is written once.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Set {
        key: usize,
        value: u64,
        tags: Vec<usize>,
    },
    Retag {
        key: usize,
        tags: Vec<usize>,
    },
    Delete {
        key: usize,
    },
    Invalidate {
        tag: usize,
    },
    /// Entries without a grace become gone.
    Revalidate {
        tag: usize,
    },
    /// Invalidates the entries that carry both tags.
    InvalidateBoth {
        tags: [usize; 2],
    },
    Flush,
}

/// Value and tags by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dataset(pub(super) BTreeMap<usize, (u64, Vec<usize>)>);

impl Dataset {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Set { key, value, tags } => {
                self.0.insert(*key, (*value, tags.clone()));
            }
            Change::Retag { key, tags } => {
                if let Some(entry) = self.0.get_mut(key) {
                    entry.1.clone_from(tags);
                }
            }
            Change::Delete { key } => {
                self.0.remove(key);
            }
            Change::Invalidate { tag } | Change::Revalidate { tag } => {
                self.0.retain(|_, (_, tags)| !tags.contains(tag));
            }
            Change::InvalidateBoth { tags: both } => {
                self.0
                    .retain(|_, (_, tags)| !both.iter().all(|tag| tags.contains(tag)));
            }
            Change::Flush => self.0.clear(),
        }
    }

    /// The data that a server serves.
    pub(super) fn of(client: &mut RawClient) -> Self {
        let keys: Vec<Vec<u8>> = entry_keys(client).into_iter().collect();
        let fetches: Vec<_> = keys.iter().map(|key| args!["CACHE.FETCH", key]).collect();
        let mut dataset = Self::default();
        let number = |bytes: &[u8]| -> u64 {
            let text = String::from_utf8_lossy(bytes);
            let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
            digits.parse().expect("a name of ours ends with a number")
        };
        for (keys, fetches) in keys.chunks(1000).zip(fetches.chunks(1000)) {
            for (key, reply) in keys.iter().zip(client.pipeline(fetches)) {
                let [Reply::Bulk(state), value, _, _, tags] = reply.items() else {
                    panic!("no reply of FETCH: {reply:?}")
                };
                if state == b"HIT" {
                    let tags = tags.items().iter().map(|tag| number(tag.bytes()) as usize);
                    let entry = (number(value.bytes()), tags.collect());
                    dataset.0.insert(number(key) as usize, entry);
                }
            }
        }
        dataset
    }
}

impl Change {
    pub(super) fn random(rng: &mut Rng) -> Self {
        let key = rng.below(KEYS);
        let tags = |rng: &mut Rng| {
            let mut tags = vec![rng.below(TAGS)];
            let more = rng.below(TAGS);
            if rng.one_in(2) && more != tags[0] {
                tags.push(more);
            }
            tags
        };
        match rng.below(100) {
            0..5 => Self::Invalidate {
                tag: rng.below(TAGS),
            },
            5..7 => Self::Revalidate {
                tag: rng.below(TAGS),
            },
            7..9 => Self::InvalidateBoth {
                tags: [rng.below(TAGS), rng.below(TAGS)],
            },
            9 if rng.one_in(10) => Self::Flush,
            10..20 => Self::Delete { key },
            // Tags that are never invalidated: an entry that gets a tag that was invalidated since its write is
            // removed.
            20..28 => Self::Retag {
                key,
                tags: vec![TAGS + rng.below(4)],
            },
            _ => Self::Set {
                key,
                value: rng.next_u64() >> 1,
                tags: tags(rng),
            },
        }
    }

    pub(super) fn command(&self) -> Vec<Vec<u8>> {
        let tag_names = |command: &mut Vec<Vec<u8>>, tags: &[usize]| {
            command.extend(args!["TAGS", tags.len()]);
            command.extend(tags.iter().map(|tag| format!("tag{tag}").into_bytes()));
        };
        match self {
            Self::Set { key, value, tags } => {
                let mut command = args!["CACHE.SET", format!("key{key}"), value];
                tag_names(&mut command, tags);
                command
            }
            Self::Retag { key, tags } => {
                let mut command = args!["CACHE.RETAG", format!("key{key}")];
                tag_names(&mut command, tags);
                command
            }
            Self::Delete { key } => args!["CACHE.DEL", format!("key{key}")],
            Self::Invalidate { tag } => args!["CACHE.INVALIDATE", format!("tag{tag}")],
            Self::Revalidate { tag } => args!["CACHE.REVALIDATE", format!("tag{tag}")],
            Self::InvalidateBoth { tags: [one, other] } => {
                args![
                    "CACHE.INVALIDATEWHERE",
                    "ALL",
                    2,
                    format!("tag{one}"),
                    format!("tag{other}")
                ]
            }
            Self::Flush => args!["CACHE.FLUSH"],
        }
    }
}

/// The number of changes after which a server held this data, from `from` to all of them: the highest, if there are
/// several.
pub(super) fn held_after(
    base: &Dataset,
    changes: &[Change],
    from: usize,
    held: &Dataset,
) -> Option<usize> {
    let mut dataset = base.clone();
    let mut found = (from == 0 && dataset == *held).then_some(0);
    for (at, change) in changes.iter().enumerate() {
        dataset.apply(change);
        if at + 1 >= from && dataset == *held {
            found = Some(at + 1);
        }
    }
    found
}

/// Describes the smallest difference, for people to read.
pub(super) fn nearest(base: &Dataset, changes: &[Change], held: &Dataset) -> String {
    let mut dataset = base.clone();
    let mut least = (usize::MAX, String::new());
    for (at, change) in changes.iter().enumerate() {
        dataset.apply(change);
        let missing = dataset
            .0
            .iter()
            .filter(|(key, entry)| held.0.get(key) != Some(entry));
        let surplus = held
            .0
            .iter()
            .filter(|(key, _)| !dataset.0.contains_key(key));
        let (missing, surplus): (Vec<_>, Vec<_>) = (missing.collect(), surplus.collect());
        let count = missing.len() + surplus.len();
        if count < least.0 {
            least = (
                count,
                format!(
                    "after {}, missing {missing:?}, surplus {surplus:?}, next {:?}",
                    at + 1,
                    changes.get(at + 1)
                ),
            );
        }
    }
    least.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: usize, value: u64) -> Change {
        Change::Set {
            key,
            value,
            tags: vec![1, 2],
        }
    }

    fn after(changes: &[Change]) -> Dataset {
        let mut dataset = Dataset::default();
        for change in changes {
            dataset.apply(change);
        }
        dataset
    }

    #[test]
    fn kept_data_must_equal_a_recent_enough_state() {
        let changes = [
            set(1, 10),
            set(2, 20),
            Change::Invalidate { tag: 2 },
            set(1, 11),
        ];
        let empty = Dataset::default();
        let holds = |from, held: &Dataset| held_after(&empty, &changes, from, held);
        assert_eq!(holds(0, &empty), Some(3), "the later one of two");
        assert_eq!(holds(4, &empty), None, "too long ago");
        assert_eq!(holds(0, &after(&changes[..2])), Some(2));
        assert_eq!(holds(3, &after(&changes[..2])), None);
        assert_eq!(holds(4, &after(&changes)), Some(4));
        // The second write without the first, and an invalidated write together with a later one.
        assert_eq!(holds(0, &after(&changes[1..2])), None);
        assert_eq!(holds(0, &after(&[set(2, 20), set(1, 11)])), None);
    }

    #[test]
    fn each_change_removes_the_entries_it_names() {
        let other = Change::Set {
            key: 2,
            value: 20,
            tags: vec![3],
        };
        let left = |change: Change| {
            after(&[set(1, 10), other.clone(), change])
                .0
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(left(Change::Delete { key: 1 }), [2]);
        assert_eq!(left(Change::Invalidate { tag: 3 }), [1]);
        assert_eq!(left(Change::Revalidate { tag: 1 }), [2]);
        assert_eq!(left(Change::InvalidateBoth { tags: [1, 2] }), [2]);
        assert_eq!(left(Change::InvalidateBoth { tags: [1, 3] }), [1, 2]);
        assert_eq!(left(Change::Flush), [0; 0]);
        let retagged = after(&[
            set(1, 10),
            Change::Retag {
                key: 1,
                tags: vec![4],
            },
        ]);
        assert_eq!(retagged.0[&1], (10, vec![4]));
    }
}
