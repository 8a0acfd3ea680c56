//! Servers that are killed while they write: afterwards they hold the state of some earlier moment, which is no earlier
//! than persistence promises.

mod dataset;

use std::time::{Duration, Instant};

use tagcache_tests::look::assert_index_agrees;
use tagcache_tests::state::assert_same;
use tagcache_tests::{Engine, RawClient, Reply, Rng, Server, ServerBuilder, call};

use dataset::{Change, Dataset, KEYS, held_after, nearest};

use crate::site::{limit_files, with_quota};

/// A tag of this many entries, so that dropping them takes a while.
const BIG: usize = 99;
const BIG_ENTRIES: usize = 3000;

/// The data that a server promises to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Nothing,
    /// Everything up to the last snapshot.
    Snapshot,
    /// All but the last second; but a server waits up to two seconds for a busy disk, and checks ten times per second.
    Everysec,
    Always,
}

/// A change that was confirmed longer than this before a kill must be there after it.
const EVERYSEC: Duration = Duration::from_millis(2500);

/// The activity of the server when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Any,
    /// It reclaims the memory of invalidated entries.
    Backlog,
    /// It writes a snapshot or rewrites its log.
    Rewrite,
    /// It sends everything to a replica.
    Resync,
    /// Its disk is full: a server that confirms only data on disk ends itself.
    FullDisk,
    /// It exports or imports a slot, key by key.
    Move,
    /// It exports or imports a slot as a whole.
    Migration,
}

pub(crate) const DURABILITIES: [Durability; 4] = [
    Durability::Nothing,
    Durability::Snapshot,
    Durability::Everysec,
    Durability::Always,
];
pub(crate) const MOMENTS: [Moment; 5] = [
    Moment::Any,
    Moment::Backlog,
    Moment::Rewrite,
    Moment::Resync,
    Moment::FullDisk,
];

/// Changes, and the time at which each was confirmed; that of the last one may be missing.
#[derive(Default)]
struct History {
    changes: Vec<Change>,
    confirmed: Vec<Instant>,
}

impl History {
    /// Sends changes one after the other until the server is gone.
    fn write(&mut self, client: &mut RawClient, changes: impl Iterator<Item = Change>) {
        for change in changes {
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

/// The result of killing a server repeatedly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crashes {
    pub(crate) durability: Durability,
    pub(crate) moment: Moment,
    pub(crate) kills: usize,
    pub(crate) confirmed: usize,
    /// The most confirmed changes that one kill lost.
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
/// Returns an error if the server holds a state afterwards that never existed, or that is too old.
pub(crate) fn run(
    engine: &Engine,
    durability: Durability,
    moment: Moment,
    time: Duration,
    seed: u64,
) -> Result<Crashes, String> {
    let builder = if moment == Moment::FullDisk {
        server(&with_quota(engine), durability).expect_complaints()
    } else {
        server(engine, durability)
    };
    run_with(builder, durability, moment, time, seed)
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
            // Some changes must be old enough to be certain.
            least: if durability == Durability::Everysec && crashes.kills.is_multiple_of(2) {
                EVERYSEC.as_millis() as usize
            } else {
                0
            },
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
                let safe = |at: &Instant| killed.saturating_duration_since(*at) > EVERYSEC;
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
    /// The least time until the kill, ms, and the longest time that is added.
    least: usize,
    longest: usize,
}

impl Round {
    /// Returns the changes that were written, how many of them precede the last completed snapshot, and the time of the
    /// kill.
    fn play(&self, server: &mut Server, rng: &mut Rng) -> (History, usize, Instant) {
        let mut history = History::default();
        let first = self.first(rng);
        let mut seeded = Rng::new(rng.next_u64());
        let is_distinguishable = |change: &Change| {
            // A server that must have kept something must not have been emptied either.
            self.least == 0 || !matches!(change, Change::Flush)
        };
        let then = std::iter::repeat_with(move || Change::random(&mut seeded));
        let changes = first.into_iter().chain(then.filter(is_distinguishable));
        let (before, pause) = (self.least + rng.below(self.longest), rng.below(40));
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
            scope.spawn(move || history.write(&mut writing, changes));
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
                Moment::FullDisk => limit_files(server, "1000"),
            }
            if self.moment == Moment::FullDisk {
                // The next change ends the server.
                server.died();
            } else {
                server.kill_9();
            }
            killed = Instant::now();
        });
        if let Some(replica) = replica {
            server.restart();
            // Whatever the replica had from the first attempt, it ends with the same data.
            assert_same(server, &replica, &[0]);
        }
        (history, saved, killed)
    }

    /// The changes that are written first.
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

    #[test]
    fn a_server_that_loses_more_than_promised_is_detected() {
        for promised in [Durability::Everysec, Durability::Always] {
            let keeps_nothing = server(&Engine::default_engine(), Durability::Nothing);
            let time = Duration::from_secs(1);
            let found = run_with(keeps_nothing, promised, Moment::Any, time, 1);
            assert!(found.is_err(), "{promised:?}: {found:?}");
        }
    }
}
