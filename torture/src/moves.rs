//! Nodes of a cluster that are killed while a slot moves between them and tags are invalidated on both: invalidated
//! entries are gone, and everything else is there.

use std::time::{Duration, Instant};

use tagcache_tests::cluster::{builder, join};
use tagcache_tests::{DEADLINE, Engine, RawClient, Reply, Rng, Server, args, call, wait_until};

use crate::crash::{Crashes, Durability, Moment};
use crate::site::{move_slot, moves_slots, start_migration};

const KEYS: usize = 400;
const TAGS: usize = 10;
/// Tags that are invalidated meanwhile, if there is time for it.
const DROPPED: usize = 6;

fn key(n: usize) -> String {
    format!("{{moving}}{n}")
}

/// No two rounds share a tag: an entry that arrives within a second after an invalidation counts as written before it.
fn tag(round: usize, n: usize) -> String {
    format!("round{round}tag{}", n % TAGS)
}

/// `None` where the server cannot move slots in this way.
///
/// # Errors
/// Returns an error if an entry is gone that was not invalidated, or an invalidated one is there.
pub(crate) fn run(
    engine: &Engine,
    moment: Moment,
    time: Duration,
    seed: u64,
) -> Option<Result<Crashes, String>> {
    if moment == Moment::Migration && !moves_slots(engine) {
        return None;
    }
    let mut rng = Rng::new(seed);
    let node = || {
        let logging = builder(engine)
            .arg("--appendonly", "yes")
            .arg("--appendfsync", "always");
        logging.arg("--cluster-node-timeout", "2000").start()
    };
    let mut nodes = [node(), node()];
    join(&nodes[0], &nodes[1]);
    let mut crashes = Crashes {
        durability: Durability::Always,
        moment,
        kills: 0,
        confirmed: 0,
        lost: 0,
    };
    let start = Instant::now();
    while crashes.kills == 0 || start.elapsed() < time {
        let round = crashes.kills;
        match play(&mut nodes, moment, round, &mut rng) {
            Ok(confirmed) => crashes.confirmed += confirmed,
            Err(why) => {
                return Some(Err(format!(
                    "{moment:?}, seed {seed}, kill {}: {why}",
                    round + 1
                )));
            }
        }
        crashes.kills += 1;
    }
    Some(Ok(crashes))
}

fn slot(nodes: &[Server; 2]) -> i64 {
    call!(nodes[0].raw(), "CLUSTER", "KEYSLOT", key(0)).int()
}

/// The owner of the slot, when both agree.
fn owner(nodes: &[Server; 2], slot: i64) -> usize {
    let mut owner = 0;
    let named = |node: &Server| {
        let slots = call!(node.raw(), "CLUSTER", "SLOTS");
        let ranges = slots.items().iter().map(Reply::items);
        let mut ranges = ranges.filter(|range| range[0].int() <= slot && slot <= range[1].int());
        let port = ranges.next().map(|range| range[2].items()[1].int());
        nodes
            .iter()
            .position(|node| Some(i64::from(node.port())) == port)
    };
    wait_until("both nodes name the same owner", DEADLINE, || {
        let (one, other) = (named(&nodes[0]), named(&nodes[1]));
        owner = one.unwrap_or(owner);
        one.is_some() && one == other
    });
    owner
}

/// Returns the number of confirmed changes.
fn play(
    nodes: &mut [Server; 2],
    moment: Moment,
    round: usize,
    rng: &mut Rng,
) -> Result<usize, String> {
    let slot = slot(nodes);
    let from = owner(nodes, slot);
    let to = 1 - from;
    let value = |n: usize| format!("round{round}value{n}-{}", "x".repeat(200));
    let sets: Vec<_> = (0..KEYS)
        .map(|n| args!["CACHE.SET", key(n), value(n), "TAGS", 1, tag(round, n)])
        .collect();
    let replies = nodes[from].raw().pipeline(&sets);
    assert!(
        replies.iter().all(|reply| *reply == Reply::ok()),
        "{:?}",
        replies[0]
    );
    // Some servers begin to move a slot as a whole a tenth of a second later.
    let longest = if moment == Moment::Migration { 400 } else { 60 };
    let (victim, pause) = (rng.below(2), rng.below(longest));
    let begun = moved_until_killed(nodes, [from, to], moment, slot, round, (victim, pause));
    nodes[victim].restart();
    for node in nodes.iter() {
        wait_until("the cluster works again", DEADLINE, || {
            tagcache_tests::cluster::info_of_cluster(&mut node.raw(), "cluster_state") == "ok"
        });
    }
    let mut now = owner(nodes, slot);
    if moment == Moment::Move && now == from {
        // Starts again from the beginning, as an operator would.
        move_slot(&nodes[from], &nodes[to], &[], slot).map_err(|e| e.to_string())?;
        now = owner(nodes, slot);
    }
    if moment == Moment::Move {
        // A node that was killed still queries the other for keys that it lacks, when the slot comes back to it.
        for node in nodes.iter() {
            let stable = call!(node.raw(), "CLUSTER", "SETSLOT", slot, "STABLE");
            assert_eq!(stable, Reply::ok());
        }
    }
    let mut client = nodes[now].raw();
    let gets: Vec<_> = (0..KEYS).map(|n| args!["CACHE.GET", key(n)]).collect();
    for (n, reply) in client.pipeline(&gets).into_iter().enumerate() {
        let (tag, what) = (
            n % TAGS,
            format!("key {n} of round {round} is {reply:.40?}"),
        );
        if tag < begun.confirmed && !reply.is_null() {
            return Err(format!("{what}, and its tag was invalidated"));
        }
        if tag >= begun.sent && reply != Reply::bulk(value(n)) {
            return Err(format!("{what}, and nobody invalidated its tag"));
        }
    }
    Ok(KEYS + begun.confirmed)
}

/// The number of tags that were invalidated.
#[derive(Clone, Copy, Debug, Default)]
struct Begun {
    /// Perhaps, on at least one node.
    sent: usize,
    /// Certainly, on both nodes.
    confirmed: usize,
}

impl Begun {
    fn invalidate(&mut self, nodes: [u16; 2], round: usize) -> std::io::Result<()> {
        let [mut one, mut other] = [RawClient::connect(nodes[0])?, RawClient::connect(nodes[1])?];
        for n in 0..DROPPED {
            self.sent = n + 1;
            for client in [&mut one, &mut other] {
                let reply = client.try_call(&args!["CACHE.INVALIDATE", tag(round, n)])?;
                assert!(!reply.is_error(), "{reply:?}");
            }
            self.confirmed = n + 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn moved_until_killed(
    nodes: &mut [Server; 2],
    [from, to]: [usize; 2],
    moment: Moment,
    slot: i64,
    round: usize,
    (victim, pause): (usize, usize),
) -> Begun {
    let ports = [nodes[0].port(), nodes[1].port()];
    let mut begun = Begun::default();
    let pid = nodes[victim].pid();
    std::thread::scope(|scope| {
        let nodes = &*nodes;
        scope.spawn(|| {
            // The invalidations end with the node that is killed.
            let _ = begun.invalidate(ports, round);
        });
        scope.spawn(move || {
            if moment == Moment::Move {
                let _ = move_slot(&nodes[from], &nodes[to], &[], slot);
            } else if let Ok(reply) = start_migration(&nodes[from], &nodes[to], slot, slot) {
                assert!(!reply.is_error(), "{reply:?}");
            }
        });
        std::thread::sleep(Duration::from_millis(pause as u64));
        let killed = std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status();
        assert!(
            killed.is_ok_and(|status| status.success()),
            "kill of a child of ours"
        );
    });
    nodes[victim].died();
    begun
}
