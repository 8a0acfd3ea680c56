//! A cluster's primaries and which slots are whose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{Client, ConnectionInfo, Value};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::connection::open_plain;
use super::error::Error;
use super::node::{Node, Place, Settings};
use super::servers::{Tls, client, with_address};

const SLOTS: usize = 16_384;
/// The map is looked at so often even when nobody complains, so that new primaries are tracked and told.
const REFRESH: Duration = Duration::from_secs(15);
/// However many complain, it is not looked at more often.
const PAUSE: Duration = Duration::from_millis(50);

/// The slot of a key: CRC16 of what stands between the first `{` and the next `}`, or of all of it.
pub(crate) fn slot(key: &str) -> u16 {
    let bytes = key.as_bytes();
    let tag = bytes.iter().position(|&b| b == b'{').and_then(|open| {
        let rest = &bytes[open + 1..];
        let close = rest.iter().position(|&b| b == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(bytes)) % SLOTS as u16
}

/// The primaries at one moment.
#[derive(Default)]
pub(crate) struct Map {
    pub(crate) nodes: BTreeMap<String, Member>,
    /// First and last slot, and whose they are; in order.
    ranges: Vec<(u16, u16, String)>,
}

pub(crate) struct Member {
    pub(crate) node: Arc<Node>,
    task: AbortHandle,
}

impl Map {
    pub(crate) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let behind = self.ranges.partition_point(|(first, _, _)| *first <= slot);
        let (_, last, address) = self.ranges.get(behind.checked_sub(1)?)?;
        if slot <= *last {
            self.node(address)
        } else {
            None
        }
    }

    pub(crate) fn node(&self, address: &str) -> Option<&Arc<Node>> {
        self.nodes.get(address).map(|member| &member.node)
    }
}

/// The cluster as it changes.
pub(crate) struct Cluster {
    seeds: Vec<ConnectionInfo>,
    tls: Tls,
    settings: Settings,
    pub(crate) map: ArcSwap<Map>,
    complaint: Notify,
    /// How many looks at the map have ended.
    looks: watch::Sender<u64>,
}

impl Cluster {
    pub(crate) fn new(seeds: Vec<ConnectionInfo>, tls: Tls, settings: Settings) -> Self {
        Self {
            seeds,
            tls,
            settings,
            map: ArcSwap::default(),
            complaint: Notify::new(),
            looks: watch::Sender::new(0),
        }
    }

    /// Asks for a look at the map.
    pub(crate) fn complain(&self) {
        self.complaint.notify_one();
    }

    /// Returns after the next look at the map.
    pub(crate) async fn looked(&self) {
        let mut looks = self.looks.subscribe();
        self.complain();
        // The sender lives as long as this cluster.
        let _ = looks.changed().await;
    }

    /// Keeps the map for as long as the task lives.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            if let Some(ranges) = self.discover().await {
                self.adopt(ranges);
            }
            self.looks.send_modify(|looks| *looks += 1);
            tokio::time::sleep(PAUSE).await;
            let missing = self.map.load().nodes.is_empty();
            let wait = if missing { PAUSE * 4 } else { REFRESH };
            let _ = tokio::time::timeout(wait, self.complaint.notified()).await;
        }
    }

    /// Ends all connections and the tasks that keep them.
    pub(crate) fn close(&self) {
        for member in self.map.swap(Arc::default()).nodes.values() {
            member.task.abort();
            drop(member.node.retire());
        }
    }

    /// The ranges as the first node that answers knows them.
    async fn discover(&self) -> Option<Vec<(u16, u16, String, u16)>> {
        let known = Arc::clone(&self.map.load());
        let members = known.nodes.keys().filter_map(|address| {
            let (host, port) = address.rsplit_once(':')?;
            Some(with_address(
                self.seeds.first()?,
                host.to_owned(),
                port.parse().ok()?,
            ))
        });
        for info in members.chain(self.seeds.iter().cloned()) {
            let Ok(client) = client(info, &self.tls) else {
                continue;
            };
            match self.ask(&client).await {
                Ok(ranges) if !ranges.is_empty() => return Some(ranges),
                Ok(_) => {}
                Err(error) => {
                    let address = client.get_connection_info().addr().to_string();
                    crate::observe::no_topology(&address, &error);
                }
            }
        }
        None
    }

    async fn ask(&self, client: &Client) -> Result<Vec<(u16, u16, String, u16)>, Error> {
        let timeouts = self.settings.timeouts;
        let name = client.get_connection_info().addr().to_string();
        let asking = async {
            let mut connection = open_plain(client, &name, timeouts).await?;
            let mut ask = redis::cmd("CLUSTER");
            ask.arg("SLOTS");
            let answer: Result<Value, _> = ask.query_async(&mut connection).await;
            answer.map_err(|error| Error::from_redis(&name, None, timeouts.command, &error))
        };
        let within = timeouts.connect + timeouts.command;
        let answer = tokio::time::timeout(within, asking).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(Error::Timeout {
                node: name.clone(),
                timeout: within,
            })
        })?;
        // A node may not know how it is called; then it is called as it was asked.
        let own = name
            .rsplit_once(':')
            .map_or(name.as_str(), |(host, _)| host);
        Ok(ranges(&answer, own))
    }

    /// Starts what is new, keeps what is known, lets go of what is no primary any more.
    fn adopt(&self, found: Vec<(u16, u16, String, u16)>) {
        let old = self.map.load_full();
        let mut map = Map::default();
        for (first, last, host, port) in found {
            let address = format!("{host}:{port}");
            if !map.nodes.contains_key(&address) {
                let member = match old.nodes.get(&address) {
                    Some(member) => Member {
                        node: Arc::clone(&member.node),
                        task: member.task.clone(),
                    },
                    None => match self.start(host, port) {
                        Some(member) => member,
                        None => continue,
                    },
                };
                map.nodes.insert(address.clone(), member);
            }
            map.ranges.push((first, last, address));
        }
        map.ranges.sort_unstable();
        let map = Arc::new(map);
        self.map.store(Arc::clone(&map));
        for (address, member) in &old.nodes {
            if !map.nodes.contains_key(address) {
                member.task.abort();
                // Its replica has taken over without having been told either. Which one that is does not matter: an
                // invalidation too many does no harm.
                let missed = member.node.retire();
                for heir in map.nodes.values() {
                    heir.node.inherit(&missed);
                }
            }
        }
    }

    fn start(&self, host: String, port: u16) -> Option<Member> {
        let client = client(with_address(self.seeds.first()?, host, port), &self.tls).ok()?;
        let node = Arc::new(Node::new(Place::Primary(client), self.settings.clone()));
        let task = tokio::spawn(Arc::clone(&node).run()).abort_handle();
        Some(Member { node, task })
    }
}

/// Reads `[[first, last, [host, port, ...], ...], ...]`.
fn ranges(answer: &Value, own: &str) -> Vec<(u16, u16, String, u16)> {
    let Value::Array(ranges) = answer else {
        return Vec::new();
    };
    let read = |range: &Value| {
        let Value::Array(range) = range else {
            return None;
        };
        let [
            Value::Int(first),
            Value::Int(last),
            Value::Array(primary),
            ..,
        ] = range.as_slice()
        else {
            return None;
        };
        let [host, Value::Int(port), ..] = primary.as_slice() else {
            return None;
        };
        let host = match host {
            Value::BulkString(host) => String::from_utf8_lossy(host).into_owned(),
            Value::SimpleString(host) => host.clone(),
            _ => String::new(),
        };
        let host = if host.is_empty() || host == "?" {
            own.to_owned()
        } else {
            host
        };
        Some((
            u16::try_from(*first).ok()?,
            u16::try_from(*last).ok()?,
            host,
            u16::try_from(*port).ok()?,
        ))
    };
    ranges.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("foo{bar}baz"), slot("bar"));
        assert_eq!(
            slot("{}x"),
            crc16::State::<crc16::XMODEM>::calculate(b"{}x") % 16_384
        );
        assert_eq!(slot("a{{b}c}"), slot("{b"));
    }

    #[test]
    fn ranges_are_read_and_nameless_hosts_are_called_as_they_were_asked() {
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
        let expected = vec![(0, 9, "own".to_owned(), 1), (10, 16_383, "b".to_owned(), 2)];
        assert_eq!(ranges(&answer, "own"), expected);
        assert_eq!(ranges(&Value::Nil, "own"), Vec::new());
    }
}
