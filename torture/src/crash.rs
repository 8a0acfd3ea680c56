//! Servers that are killed while they write: what they hold afterwards is what they held at some moment, and that
//! moment is no earlier than persistence promises.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tagcache_tests::look::{assert_index_agrees, entry_keys};
use tagcache_tests::state::assert_same;
use tagcache_tests::{Engine, RawClient, Reply, Rng, Server, ServerBuilder, args, call};

const KEYS: usize = 300;
const TAGS: usize = 12;
/// Carried by so many entries that dropping them takes a while.
const BIG: usize = 99;
const BIG_ENTRIES: usize = 3000;

/// What a server promises to still have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Nothing,
    /// The last snapshot.
    Snapshot,
    /// All but the last second; but a server waits up to two for a disk that is busy.
    Everysec,
    Always,
}

/// What the server does when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Any,
    /// It gives memory of invalidated entries back.
    Backlog,
    /// It writes a snapshot or rewrites its log.
    Rewrite,
    /// It sends everything to a replica.
    Resync,
    /// It gives a slot away or receives one, key by key.
    Move,
    /// The same, as a whole.
    Migration,
}

pub(crate) const DURABILITIES: [Durability; 4] = [
    Durability::Nothing,
    Durability::Snapshot,
    Durability::Everysec,
    Durability::Always,
];
pub(crate) const MOMENTS: [Moment; 4] = [
    Moment::Any,
    Moment::Backlog,
    Moment::Rewrite,
    Moment::Resync,
];

/// One command; a value is written once.
#[derive(Clone, Debug)]
enum Change {
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
    /// Entries without a grace are gone by it.
    Revalidate {
        tag: usize,
    },
    /// Those that carry both.
    InvalidateBoth {
        tags: [usize; 2],
    },
    Flush,
}

/// Value and tags by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Dataset(BTreeMap<usize, (u64, Vec<usize>)>);

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

    /// What a server serves.
    fn of(client: &mut RawClient) -> Self {
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
    fn random(rng: &mut Rng) -> Self {
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
            // Tags that nobody invalidates: an entry that gets one that was invalidated since its write is removed.
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

    fn command(&self) -> Vec<Vec<u8>> {
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

/// After how many of the changes a server held this, between `from` and all of them: the most, if there are several.
fn held_after(base: &Dataset, changes: &[Change], from: usize, held: &Dataset) -> Option<usize> {
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

/// What differs where least differs, for people to look at.
fn nearest(base: &Dataset, changes: &[Change], held: &Dataset) -> String {
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

/// Changes and when each was confirmed; of the last one it may be unknown.
#[derive(Default)]
struct History {
    changes: Vec<Change>,
    confirmed: Vec<Instant>,
}

impl History {
    /// Sends changes one after the other until the server is gone.
    fn write(&mut self, client: &mut RawClient, rng: &mut Rng, first: Vec<Change>) {
        let mut first = first.into_iter();
        loop {
            let change = first.next().unwrap_or_else(|| Change::random(rng));
            let sent = client.try_call(&change.command());
            self.changes.push(change);
            match sent {
                Ok(reply) => assert!(!reply.is_error(), "{reply:?}"),
                Err(_) => return,
            }
            self.confirmed.push(Instant::now());
        }
    }
}

/// What a server held after it was killed again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crashes {
    pub(crate) durability: Durability,
    pub(crate) moment: Moment,
    pub(crate) kills: usize,
    pub(crate) confirmed: usize,
    /// Confirmed changes that were gone, at most by one kill.
    pub(crate) lost: usize,
}

fn server(engine: &Engine, durability: Durability) -> ServerBuilder {
    let builder = Server::builder().engine(engine).module_args(&[
        "reclaim-inline",
        "0",
        "reclaim-budget-us",
        "50",
    ]);
    match durability {
        Durability::Nothing | Durability::Snapshot => builder,
        Durability::Everysec => builder
            .arg("--appendonly", "yes")
            .arg("--appendfsync", "everysec"),
        Durability::Always => builder
            .arg("--appendonly", "yes")
            .arg("--appendfsync", "always"),
    }
}

/// Kills a server at random moments.
///
/// # Errors
/// When what it holds afterwards was never there, or too long ago.
pub(crate) fn run(
    engine: &Engine,
    durability: Durability,
    moment: Moment,
    time: Duration,
    seed: u64,
) -> Result<Crashes, String> {
    run_with(server(engine, durability), durability, moment, time, seed)
}

fn run_with(
    builder: ServerBuilder,
    durability: Durability,
    moment: Moment,
    time: Duration,
    seed: u64,
) -> Result<Crashes, String> {
    let mut rng = Rng::new(seed);
    let mut server = builder.start();
    let mut crashes = Crashes {
        durability,
        moment,
        kills: 0,
        confirmed: 0,
        lost: 0,
    };
    let mut base = Dataset::default();
    let start = Instant::now();
    while crashes.kills == 0 || start.elapsed() < time {
        let round = Round {
            durability,
            moment,
            longest: if rng.one_in(4) { 1500 } else { 300 },
        };
        let (history, saved, killed) = round.play(&mut server, &mut rng);
        server.restart();
        let held = Dataset::of(&mut server.raw());
        let confirmed = history.confirmed.len();
        let from = match durability {
            Durability::Nothing => 0,
            Durability::Snapshot => saved,
            Durability::Everysec => {
                let safe =
                    |at: &Instant| killed.saturating_duration_since(*at) > Duration::from_secs(2);
                history.confirmed.partition_point(safe)
            }
            Durability::Always => confirmed,
        };
        let changes = if durability == Durability::Nothing {
            &[]
        } else {
            &history.changes[..]
        };
        let after = held_after(&base, changes, from, &held).ok_or_else(|| {
            format!(
                "{durability:?}, {moment:?}, seed {seed}, kill {}: {} entries that were never there together after change \
                 {from} or one of the next {}; nearest: {}",
                crashes.kills + 1,
                held.0.len(),
                changes.len() - from,
                nearest(&base, changes, &held),
            )
        })?;
        assert_index_agrees(&server, &[0], &[b"tag0", b"tag99"]);
        crashes.kills += 1;
        crashes.confirmed += confirmed;
        if durability != Durability::Nothing {
            crashes.lost = crashes.lost.max(confirmed.saturating_sub(after));
            base = held;
        }
    }
    Ok(crashes)
}

struct Round {
    durability: Durability,
    moment: Moment,
    /// Milliseconds until the kill.
    longest: usize,
}

impl Round {
    /// What was written, how much of it before the last snapshot that was waited for, and when the kill came.
    fn play(&self, server: &mut Server, rng: &mut Rng) -> (History, usize, Instant) {
        let mut history = History::default();
        let first = self.first(rng);
        let mut seeded = Rng::new(rng.next_u64());
        let (before, pause) = (rng.below(self.longest), rng.below(40));
        let mut writing = server.raw();
        let mut saved = 0;
        if self.durability == Durability::Snapshot && rng.one_in(2) {
            for change in (0..rng.below(500)).map(|_| Change::random(rng)) {
                assert!(!writing.call(&change.command()).is_error());
                history.changes.push(change);
                history.confirmed.push(Instant::now());
            }
            assert_eq!(call!(writing, "SAVE"), Reply::ok());
            saved = history.changes.len();
        }
        let mut replica = None;
        let mut killed = Instant::now();
        std::thread::scope(|scope| {
            let history = &mut history;
            scope.spawn(move || history.write(&mut writing, &mut seeded, first));
            std::thread::sleep(Duration::from_millis(before as u64));
            match self.moment {
                Moment::Any | Moment::Backlog | Moment::Move | Moment::Migration => {}
                Moment::Rewrite => {
                    let logs = matches!(self.durability, Durability::Everysec | Durability::Always);
                    let word = if logs { "BGREWRITEAOF" } else { "BGSAVE" };
                    call!(server.raw(), word);
                    std::thread::sleep(Duration::from_millis(pause as u64));
                }
                Moment::Resync => {
                    let engine = server.engine().clone();
                    replica = Some(Server::builder().engine(&engine).replica_of(server).start());
                    std::thread::sleep(Duration::from_millis(pause as u64));
                }
            }
            server.kill_9();
            killed = Instant::now();
        });
        if let Some(replica) = replica {
            server.restart();
            // Whatever it had of the first attempt, it has the same in the end.
            assert_same(server, &replica, &[0]);
        }
        (history, saved, killed)
    }

    /// What is written first.
    fn first(&self, rng: &mut Rng) -> Vec<Change> {
        if self.moment != Moment::Backlog {
            return Vec::new();
        }
        let mut changes: Vec<Change> = (0..BIG_ENTRIES)
            .map(|n| Change::Set {
                key: KEYS + n,
                value: rng.next_u64() >> 1,
                tags: vec![BIG],
            })
            .collect();
        changes.push(Change::Invalidate { tag: BIG });
        changes
    }
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
    fn what_is_held_was_there_at_a_moment_that_is_late_enough() {
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
        // The second write without the first, and one that was invalidated beside one that was written later.
        assert_eq!(holds(0, &after(&changes[1..2])), None);
        assert_eq!(holds(0, &after(&[set(2, 20), set(1, 11)])), None);
    }

    #[test]
    fn a_server_that_keeps_less_than_it_should_is_found() {
        let keeps_nothing = server(&Engine::default_engine(), Durability::Nothing);
        let (promised, time) = (Durability::Always, Duration::from_secs(1));
        let found = run_with(keeps_nothing, promised, Moment::Any, time, 1);
        assert!(found.is_err(), "{found:?}");
    }

    #[test]
    fn each_change_takes_away_what_it_names() {
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
