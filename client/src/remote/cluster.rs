//! The primaries of a cluster and the slots of each.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::Value;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::command::{items, number_of, text_of};
use super::connection::{EPOCH, ask, cluster_info};
use super::error::{Error, Remedy};
use super::history::History;
use super::lock;
use super::node::{Backoff, Node, Place, Settings};
use super::status::{Record, ServerState, ServerStatus};
use super::target::Target;

const SLOTS: usize = 16_384;
/// Nodes that are asked for their map at a time.
const ASKED: usize = 5;
/// The map is refreshed at this interval without complaints, too: new primaries are tracked and sent what they lack.
const REFRESH: Duration = Duration::from_secs(15);
/// Longest pause between refreshes, however many callers complain, while refreshing brings nothing new.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A primary without slots, used while slots moved to it, is kept for this time after the last call to it.
const SLOTLESS_KEPT: Duration = Duration::from_secs(60);

/// The slot of a key: CRC16 of the part between the first `{` and the next `}`, or else of the whole key.
pub(crate) fn slot(key: &str) -> u16 {
    let bytes = key.as_bytes();
    let tag = bytes.iter().position(|&b| b == b'{').and_then(|open| {
        let rest = &bytes[open + 1..];
        let close = rest.iter().position(|&b| b == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(bytes)) % SLOTS as u16
}

#[derive(Default)]
pub(crate) struct Map {
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    /// First slot, last slot and primary of each range; in order.
    ranges: Vec<Range>,
}

/// A range of slots and the address of its primary.
type Range = (u16, u16, String);

fn covered(ranges: &[Range]) -> usize {
    let slots = |(first, last, _): &Range| usize::from(last.saturating_sub(*first)) + 1;
    ranges.iter().map(slots).sum()
}

/// The maps that nodes returned: for each, how many nodes returned it, and the newest epoch among them.
#[derive(Default)]
struct Maps(Vec<(Vec<Range>, usize, Option<u64>)>);

impl Maps {
    fn add(&mut self, ranges: Vec<Range>, epoch: Option<u64>) {
        match self.0.iter_mut().find(|(known, ..)| *known == ranges) {
            Some((_, nodes, newest)) => (*nodes, *newest) = (*nodes + 1, epoch.max(*newest)),
            None if ranges.is_empty() => {}
            None => self.0.push((ranges, 1, epoch)),
        }
    }

    /// How many nodes agree on a map that covers all slots.
    fn agreed(&self) -> usize {
        let whole = self.0.iter().filter(|(map, ..)| covered(map) >= SLOTS);
        whole.map(|(_, nodes, _)| *nodes).max().unwrap_or_default()
    }

    /// The map that covers most slots; of these the one that most nodes know; of these the newest.
    fn into_best(self) -> Option<Vec<Range>> {
        let rank = |(map, n, epoch): (Vec<_>, _, _)| (covered(&map).min(SLOTS), n, epoch, map);
        self.0.into_iter().map(rank).max().map(|(.., map)| map)
    }
}

impl Map {
    pub(crate) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let behind = self.ranges.partition_point(|(first, _, _)| *first <= slot);
        let (_, last, address) = self.ranges.get(behind.checked_sub(1)?)?;
        if slot <= *last {
            self.nodes.get(address)
        } else {
            None
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        covered(&self.ranges) >= SLOTS
    }
}

#[derive(Default)]
struct Slotless {
    seen: BTreeMap<String, Instant>,
    /// The cluster is closed: no node is started any more.
    closed: bool,
}

pub(crate) struct Cluster {
    seeds: Vec<Target>,
    settings: Settings,
    /// Keeps the map up to date.
    task: OnceLock<AbortHandle>,
    pub(crate) map: ArcSwap<Map>,
    /// The state of the cluster as a whole: whether any node reports which primaries it has.
    record: Mutex<Record>,
    /// Primaries without slots, and when a call was last sent to them. Held while the map changes.
    slotless: Mutex<Slotless>,
    /// How many refreshes of the map have ended.
    looks: watch::Sender<u64>,
}

impl Cluster {
    /// Starts keeping the map up to date, in the background.
    pub(crate) fn start(seeds: Vec<Target>, settings: Settings) -> Arc<Self> {
        let cluster = Arc::new(Self::new(seeds, settings));
        let task = tokio::spawn(Arc::clone(&cluster).run()).abort_handle();
        cluster.task.set(task).expect("it was made here");
        cluster
    }

    fn new(seeds: Vec<Target>, settings: Settings) -> Self {
        Self {
            seeds,
            settings,
            task: OnceLock::new(),
            map: ArcSwap::default(),
            record: Mutex::new(Record::new()),
            slotless: Mutex::default(),
            looks: watch::Sender::new(0),
        }
    }

    pub(crate) fn complain(&self) {
        self.settings.map_changed.notify_one();
    }

    /// Returns when the first refresh of the map has ended, with or without success.
    pub(crate) async fn attempted(&self) {
        let mut looks = self.looks.subscribe();
        // The sender lives as long as this cluster.
        let _ = looks.wait_for(|&looks| looks > 0).await;
    }

    /// Returns after the next refresh of the map.
    pub(crate) async fn looked(&self) {
        let mut looks = self.looks.subscribe();
        self.complain();
        // The sender lives as long as this cluster.
        let _ = looks.changed().await;
    }

    pub(crate) fn name(&self) -> String {
        let first = self.seeds.first().map(Target::address);
        format!("cluster of {}", first.unwrap_or_default())
    }

    pub(crate) fn why_unknown(&self) -> Error {
        let unknown = || Error::unreachable(self.name(), "no node of it has been reached yet");
        lock(&self.record).trouble().unwrap_or_else(unknown)
    }

    pub(crate) fn status(&self) -> ServerStatus {
        lock(&self.record).status(self.name(), 0)
    }

    async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::up_to(LONGEST_PAUSE);
        loop {
            let is_first = self.map.load().nodes.is_empty();
            let news = match self.discover().await {
                Ok(ranges) => {
                    let news = self.adopt(&ranges);
                    // In this order: without a map the cluster is not up, whatever the state of its nodes.
                    lock(&self.record).enter(ServerState::Up, &self.name());
                    news
                }
                Err(error) => {
                    lock(&self.record).failed(&error, &self.name());
                    false
                }
            };
            self.send_late_ones_again();
            self.looks.send_modify(|looks| *looks += 1);
            // However many callers complain: while refreshing brings nothing new, it is done less and less often.
            if news {
                backoff.restart();
            }
            tokio::time::sleep(backoff.pause()).await;
            // A first map may come from one node only: the nodes that it names are asked as well.
            let missing = is_first || !self.map.load().is_whole();
            let wait = if missing { Duration::ZERO } else { REFRESH };
            let notified = self.settings.map_changed.notified();
            let waited = tokio::time::timeout(wait, notified).await;
            if waited.is_err() && !missing {
                backoff.restart();
            }
        }
    }

    /// Ends all connections and the tasks that keep them. Returns how many tags its primaries were still to be sent.
    pub(crate) fn close(&self) -> usize {
        if let Some(task) = self.task.get() {
            task.abort();
        }
        lock(&self.slotless).closed = true;
        lock(&self.record).failed(&Error::Closed, &self.name());
        crate::observe::server_left(&self.name());
        let map = self.map.swap(Arc::default());
        let unsent = map.nodes.values().map(|node| node.retire().len());
        unsent.max().unwrap_or_default()
    }

    /// The node at this address, which is a primary, even if the map does not contain it.
    pub(crate) fn without_slots(&self, address: &str) -> Option<Arc<Node>> {
        let mut slotless = lock(&self.slotless);
        let map = self.map.load_full();
        if let Some(node) = map.nodes.get(address) {
            if let Some(seen) = slotless.seen.get_mut(address) {
                *seen = Instant::now();
            }
            return Some(Arc::clone(node));
        }
        if slotless.closed {
            return None;
        }
        let node = self.start_node(address, History::default())?;
        let mut nodes = map.nodes.clone();
        nodes.insert(address.to_owned(), Arc::clone(&node));
        slotless.seen.insert(address.to_owned(), Instant::now());
        let ranges = map.ranges.clone();
        self.map.store(Arc::new(Map { nodes, ranges }));
        Some(node)
    }

    /// The best map that some of the nodes know. They are asked in random order; otherwise a node that is cut off might
    /// be believed forever.
    async fn discover(&self) -> Result<Vec<Range>, Error> {
        let (known, timeouts) = (self.map.load_full(), self.settings.timeouts);
        let members = known.nodes.keys();
        let mut members: Vec<_> = members.filter_map(|node| self.target(node)).collect();
        let mut seeds = self.seeds.clone();
        seeds.retain(|seed| !known.nodes.contains_key(&seed.address()));
        fastrand::shuffle(&mut members);
        fastrand::shuffle(&mut seeds);
        members.append(&mut seeds);
        let message = "none of its nodes knows a primary with slots";
        let (mut last, mut maps) = (Error::unavailable(self.name(), message), Maps::default());
        for some in members.chunks(ASKED) {
            let mut asked: FuturesUnordered<_> = some.iter().map(|node| self.ask(node)).collect();
            let begun = Instant::now();
            while maps.agreed() * 2 <= some.len() {
                // With a whole map at hand, nodes that might agree get no more time than connecting takes.
                let more = if maps.agreed() > 0 { 0 } else { 2 };
                let until = begun + timeouts.connect + timeouts.command * more;
                let next = tokio::time::timeout_at(until.into(), asked.next()).await;
                match next.unwrap_or_default() {
                    None => break,
                    Some(Ok((ranges, epoch))) => maps.add(ranges, epoch),
                    Some(Err(error)) => {
                        crate::observe::event!(debug, "no topology", error = error);
                        // An error that an operator must fix helps more than that of a node that cannot be reached.
                        if last.remedy() != Remedy::FixServer {
                            last = error;
                        }
                    }
                }
            }
            if maps.agreed() > 0 {
                break;
            }
        }
        maps.into_best().ok_or(last)
    }

    /// The ranges as a node knows them, and its epoch if this user may read it.
    async fn ask(&self, node: &Target) -> Result<(Vec<Range>, Option<u64>), Error> {
        let about = |what| redis::cmd("CLUSTER").arg(what).clone();
        let commands = ["SLOTS", "INFO"].map(about);
        let answers = ask(node, &commands, self.settings.timeouts).await?;
        let name = node.address();
        let mut ranges = answers.first().map(ranges).unwrap_or_default();
        // A node may not know its own address; then it is the one at which it was asked.
        ranges.retain_mut(|(_, _, announced)| {
            let address = self.address(announced, &name);
            address.is_some_and(|address| {
                *announced = address;
                true
            })
        });
        ranges.sort_unstable();
        let info = answers.get(1);
        Ok((ranges, info.and_then(|info| cluster_info(info, EPOCH))))
    }

    /// Translates the address that the node at `by` announces into a reachable one; `None` if it is invalid.
    pub(super) fn address(&self, announced: &str, by: &str) -> Option<String> {
        let (host, port) = announced.rsplit_once(':')?;
        if host.is_empty() {
            let host = by.rsplit_once(':').map_or(by, |(host, _)| host);
            return Some(format!("{host}:{port}"));
        }
        let (seed, port) = (self.seeds.first()?, port.parse().ok()?);
        Some(seed.announced(host.to_owned(), port).address())
    }

    fn target(&self, address: &str) -> Option<Target> {
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse().ok()?;
        Some(self.seeds.first()?.at(host.to_owned(), port))
    }

    /// Starts new nodes, keeps known ones and retires former primaries. Returns whether the map changed.
    fn adopt(&self, found: &[Range]) -> bool {
        let mut slotless = lock(&self.slotless);
        if slotless.closed {
            return false;
        }
        let old = self.map.load_full();
        let mut map = Map::default();
        // A node that takes over the slots of a former primary was its replica, and may lack what that one had.
        let stays: HashSet<String> = found.iter().map(|(.., address)| address.clone()).collect();
        let before = |address: &str| {
            let takes = |(from, to, had): &&Range| {
                let of = |(a, z, owner): &Range| owner == address && from <= z && a <= to;
                !stays.contains(had) && found.iter().any(of)
            };
            let leaving = old.ranges.iter().find(takes);
            let node = leaving.and_then(|(.., had)| old.nodes.get(had));
            node.map_or_else(History::default, |node| node.history())
        };
        for (first, last, address) in found {
            if !map.nodes.contains_key(address) {
                let known = old.nodes.get(address).cloned();
                let Some(node) = known.or_else(|| self.start_node(address, before(address))) else {
                    continue;
                };
                map.nodes.insert(address.clone(), node);
            }
            map.ranges.push((*first, *last, address.clone()));
        }
        map.ranges.sort_unstable();
        if !map.is_whole() {
            // A primary that is in no map may still serve slots that have no other primary.
            for (address, node) in &old.nodes {
                let known = map.nodes.entry(address.clone());
                known.or_insert_with(|| Arc::clone(node));
            }
        }
        slotless.seen.retain(|address, seen| {
            !map.nodes.contains_key(address) && seen.elapsed() < SLOTLESS_KEPT
        });
        for address in slotless.seen.keys() {
            if let Some(node) = old.nodes.get(address) {
                map.nodes.insert(address.clone(), Arc::clone(node));
            }
        }
        let news = map.ranges != old.ranges;
        let map = Arc::new(map);
        self.map.store(Arc::clone(&map));
        for (address, node) in &old.nodes {
            if !map.nodes.contains_key(address) {
                // Its replica has taken over and lacks them too. All nodes are sent them, which does no harm.
                let missed = node.retire();
                for successor in map.nodes.values() {
                    successor.inherit(&missed);
                }
            }
        }
        news
    }

    /// Sends all nodes once more the invalidations that one of them got late. Meanwhile its slots, with entries that
    /// were written there, may have moved to a node that had executed the invalidation before.
    fn send_late_ones_again(&self) {
        let nodes = &self.map.load().nodes;
        let late = |node: &Arc<Node>| lock(&node.missed).take_late();
        for late in nodes.values().filter_map(late) {
            for node in nodes.values() {
                node.inherit(&late);
            }
        }
    }

    fn start_node(&self, address: &str, history: History) -> Option<Arc<Node>> {
        let place = Place::Primary(self.target(address)?);
        Some(Node::start(place, self.settings.clone(), history))
    }
}

/// Reads `[[first, last, [host, port, ...], ...], ...]`.
fn ranges(answer: &Value) -> Vec<Range> {
    let number = |value: &Value| u16::try_from(number_of(value)?).ok();
    let read = |range: &Value| {
        let [first, last, primary, ..] = items(range) else {
            return None;
        };
        let [host, port, ..] = items(primary) else {
            return None;
        };
        // Servers have several words for an unknown host.
        let host = text_of(host)
            .filter(|host| *host != "?")
            .unwrap_or_default();
        let address = format!("{host}:{}", number(port)?);
        Some((number(first)?, number(last)?, address))
    };
    items(answer).iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::super::command::Invalidation;
    use super::super::connection::Timeouts;
    use super::super::history::Reading;
    use super::super::missed::{Missed, Recent};
    use super::*;

    #[test]
    fn slots_match_the_cluster_specification() {
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("foo{bar}baz"), slot("bar"));
        assert_eq!(
            slot("{}x"),
            crc16::State::<crc16::XMODEM>::calculate(b"{}x") % 16_384
        );
        assert_eq!(slot("a{{b}c}"), slot("{b"));
    }

    /// A cluster of which no node can be reached.
    fn cluster() -> Cluster {
        let second = Duration::from_secs(1);
        let settings = Settings {
            timeouts: Timeouts {
                connect: second,
                command: second,
                probe_interval: second,
                probe: second,
            },
            max_waiting_connections: 1,
            keeps_after_loss: false,
            listener: Arc::new(|_| {}),
            recent: Arc::new(Mutex::new(Recent::new(String::new()))),
            map_changed: Arc::default(),
        };
        let seed = Target::new("redis://127.0.0.1:1", &Arc::default()).expect("an address");
        Cluster::new(vec![seed], settings)
    }

    #[test]
    fn best_slot_map_has_most_slots_then_nodes_then_epoch() {
        let at = |first, last, port: u16| (first, last, format!("127.0.0.1:{port}"));
        let whole = |port| vec![at(0, 16_383, port)];
        let best = |answers: &[(Vec<Range>, Option<u64>)]| {
            let mut maps = Maps::default();
            for (map, epoch) in answers {
                maps.add(map.clone(), *epoch);
            }
            (maps.agreed(), maps.into_best())
        };
        assert_eq!(best(&[]), (0, None));
        assert_eq!(best(&[(vec![], Some(9))]), (0, None));
        let hole = vec![at(0, 9_999, 1)];
        let holes = [
            (hole.clone(), Some(9)),
            (hole.clone(), None),
            (vec![at(0, 99, 2)], None),
        ];
        assert_eq!(best(&holes), (0, Some(hole.clone())));
        let one = [(hole.clone(), Some(9)), (hole, Some(9)), (whole(3), None)];
        assert_eq!(best(&one), (1, Some(whole(3))));
        let most = [(whole(1), Some(9)), (whole(2), Some(1)), (whole(2), None)];
        assert_eq!(best(&most), (2, Some(whole(2))));
        let tie = [(whole(1), Some(9)), (whole(2), Some(8)), (whole(3), None)];
        assert_eq!(best(&tie), (1, Some(whole(1))));
    }

    fn all_slots_at(port: u16) -> Vec<Range> {
        vec![(0, 16_383, format!("127.0.0.1:{port}"))]
    }

    fn addresses(cluster: &Cluster) -> Vec<String> {
        cluster.map.load().nodes.keys().cloned().collect()
    }

    #[tokio::test]
    async fn missed_invalidations_of_a_leaving_primary_go_to_the_others() {
        let cluster = cluster();
        assert!(cluster.adopt(&all_slots_at(1)));
        assert!(!cluster.adopt(&all_slots_at(1)));
        let first = Arc::clone(cluster.map.load().owner(7).expect("all slots are there"));
        let missed = Missed::of(Invalidation::Hard, &["tag".to_owned()]);
        assert!(first.miss(&missed));
        assert!(cluster.adopt(&all_slots_at(2)));
        assert_eq!(addresses(&cluster), ["127.0.0.1:2"]);
        let successor = Arc::clone(cluster.map.load().owner(7).expect("all slots are there"));
        assert_eq!(successor.status().missed_invalidations, 1);
        let late = first.miss(&missed);
        assert!(!late && first.is_retired(), "nobody will send it");
        assert_eq!(cluster.close(), 1);
    }

    #[tokio::test]
    async fn new_primary_inherits_the_history_of_a_leaving_one() {
        let (cluster, now) = (cluster(), Instant::now());
        let range = |first, last, port: u16| (first, last, format!("127.0.0.1:{port}"));
        let mut history = History::default();
        let read = Reading {
            lineage: "of the one that leaves".to_owned(),
            clock: 7,
            start: 0,
        };
        history.connected(read, now, now);
        let mut old = Map::default();
        let starts = [
            (range(0, 99, 1), History::default()),
            (range(100, 16_383, 2), history),
        ];
        for (range, history) in starts {
            let node = cluster.start_node(&range.2, history).expect("an address");
            old.nodes.insert(range.2.clone(), node);
            old.ranges.push(range);
        }
        cluster.map.store(Arc::new(old));
        let found = [range(0, 49, 3), range(50, 99, 1), range(100, 16_383, 3)];
        assert!(cluster.adopt(&found));
        let of = |slot| {
            format!(
                "{:?}",
                cluster.map.load().owner(slot).map(|node| node.history())
            )
        };
        assert!(of(0).contains("of the one that leaves"), "{}", of(0));
        assert!(!of(50).contains("leaves"), "{}", of(50));
        cluster.close();
    }

    #[tokio::test]
    async fn node_without_slots_is_kept_until_it_has_some() {
        let cluster = cluster();
        cluster.adopt(&all_slots_at(1));
        let other = cluster.without_slots("127.0.0.1:2").expect("an address");
        cluster.adopt(&all_slots_at(1));
        assert_eq!(addresses(&cluster), ["127.0.0.1:1", "127.0.0.1:2"]);
        assert!(
            cluster
                .map
                .load()
                .owner(7)
                .is_some_and(|node| !Arc::ptr_eq(node, &other))
        );
        cluster.adopt(&all_slots_at(2));
        assert!(
            cluster
                .map
                .load()
                .owner(7)
                .is_some_and(|node| Arc::ptr_eq(node, &other))
        );
        assert_eq!(addresses(&cluster), ["127.0.0.1:2"]);
        cluster.adopt(&all_slots_at(1));
        assert_eq!(addresses(&cluster), ["127.0.0.1:1"]);
        cluster.close();
        assert!(cluster.without_slots("127.0.0.1:3").is_none());
        assert!(!cluster.adopt(&all_slots_at(3)));
        assert_eq!(addresses(&cluster), [""; 0]);
    }

    #[test]
    fn slot_ranges_are_parsed_and_empty_hosts_use_the_own_address() {
        let node = |host: &str, port| {
            Value::Array(vec![
                Value::BulkString(host.as_bytes().to_vec()),
                Value::Int(port),
            ])
        };
        let answer = Value::Array(vec![
            Value::Array(vec![
                Value::Int(0),
                Value::Int(9),
                node("", 1),
                node("replica", 3),
            ]),
            Value::Array(vec![Value::Int(10), Value::Int(16_383), node("b", 2)]),
            Value::Nil,
        ]);
        let expected = vec![(0, 9, ":1".to_owned()), (10, 16_383, "b:2".to_owned())];
        assert_eq!(ranges(&answer), expected);
        assert_eq!(ranges(&Value::Nil), Vec::new());
        let own = cluster().address(":1", "own:7");
        assert_eq!(own.as_deref(), Some("own:1"));
    }
}
