//! All servers together: each command goes to the server of its key, or to all primaries.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use super::cluster::{Cluster, slot};
use super::connection::Timeouts;
use super::credentials::Access;
use super::error::Error;
use super::history::History;
use super::lock;
use super::missed::Recent;
use super::node::{Node, Place, Settings};
use super::sentinel::Sentinels;
use super::servers::{Kind, Servers};
use super::status::ServerStatus;
use super::target::Target;

/// A reply, and whether it came from the server of its key, through a connection that tracks it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) value: Value,
    pub(crate) tracked: bool,
}

impl Answer {
    fn tracked(value: Value) -> Self {
        let tracked = true;
        Self { value, tracked }
    }
}

pub(crate) struct Remote {
    servers: Primaries,
    timeouts: Timeouts,
    pub(super) recent: Arc<Mutex<Recent>>,
}

enum Primaries {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// How many redirections one call follows.
const REDIRECTIONS: usize = 5;

impl Remote {
    /// Starts connecting in the background.
    pub(crate) fn start(servers: &Servers, settings: Settings) -> Result<Self, Error> {
        let timeouts = settings.timeouts;
        let recent = Arc::clone(&settings.recent);
        crate::observe::describe();
        let access = Arc::new(servers.access.clone());
        let urls = &servers.urls;
        let primaries = match &servers.kind {
            Kind::Single => {
                let place = Place::Fixed(targets(urls, &access, "server")?.remove(0));
                Primaries::One(Node::start(place, settings, History::default()))
            }
            Kind::Sentinel(service) => {
                let primary = servers.primary.as_deref();
                let mut without_user = servers.access.clone();
                without_user.without_user = true;
                let place = Place::Sentinel(Sentinels {
                    service: service.clone(),
                    all: targets(urls, &Arc::new(without_user), "sentinel")?,
                    asked: AtomicUsize::new(0),
                    primary: Target::new(primary.unwrap_or("redis://127.0.0.1"), &access)?,
                });
                Primaries::One(Node::start(place, settings, History::default()))
            }
            Kind::Cluster => {
                let seeds = targets(urls, &access, "node of the cluster")?;
                Primaries::Cluster(Cluster::start(seeds, settings))
            }
        };
        Ok(Self {
            servers: primaries,
            timeouts,
            recent,
        })
    }

    /// Returns when every known server has been tried once, or after `bound`.
    pub(crate) async fn attempted(&self, bound: Duration) {
        let tried = async {
            if let Primaries::Cluster(cluster) = &self.servers {
                cluster.attempted().await;
            }
            for node in self.primaries() {
                node.attempted().await;
            }
        };
        let _ = tokio::time::timeout(bound, tried).await;
    }

    pub(crate) fn primaries(&self) -> Vec<Arc<Node>> {
        match &self.servers {
            Primaries::One(node) => vec![Arc::clone(node)],
            Primaries::Cluster(cluster) => {
                let map = cluster.map.load();
                map.nodes.values().cloned().collect()
            }
        }
    }

    fn owner(&self, key: &str) -> Result<Arc<Node>, Error> {
        match &self.servers {
            Primaries::One(node) => Ok(Arc::clone(node)),
            Primaries::Cluster(cluster) => {
                let map = cluster.map.load();
                if let Some(node) = map.owner(slot(key)) {
                    return Ok(Arc::clone(node));
                }
                let unknown = || Error::unavailable(cluster.name(), "a slot's node is not known");
                Err(self.hole().unwrap_or_else(unknown))
            }
        }
    }

    /// The error of a cluster that has no map, or slots without a primary.
    pub(crate) fn hole(&self) -> Option<Error> {
        if let Primaries::Cluster(cluster) = &self.servers
            && !cluster.map.load().is_whole()
        {
            cluster.complain();
            let message = "no node knows a primary of each slot";
            return Some(if cluster.map.load().nodes.is_empty() {
                cluster.why_unknown()
            } else {
                Error::unavailable(cluster.name(), message)
            });
        }
        None
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.servers, Primaries::Cluster(_))
    }

    /// Sends a command to the server of its key, through the main connection; follows redirections.
    pub(crate) async fn send(&self, key: &str, cmd: &Cmd) -> Result<Answer, Error> {
        self.send_by(key, cmd, self.deadline()).await
    }

    /// The time by which a command that begins now has its reply, or has failed.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeouts.command
    }

    async fn send_by(&self, key: &str, cmd: &Cmd, deadline: Instant) -> Result<Answer, Error> {
        let sending = async {
            let mut node = self.owner(key)?;
            for attempt in 0..REDIRECTIONS {
                let error = match node.send(cmd, deadline).await? {
                    Ok(value) => return Ok(Answer::tracked(value)),
                    Err(error) => error,
                };
                let next = self.redirected(key, &node, cmd, &error, (attempt, deadline));
                node = match next.await {
                    Ok(Some(node)) => node,
                    Ok(None) => return Err(node.explain(Some(key), &error)),
                    Err(last) => return last,
                };
            }
            let message = format!("slot {} is moving", slot(key));
            Err(Error::unavailable(node.address(), message))
        };
        crate::observe::in_command(cmd, sending).await
    }

    /// Sends a command that blocks for up to `wait` on a connection of its own. In a cluster a redirection is an error:
    /// the waiting caller asks again.
    pub(crate) async fn send_blocking(
        &self,
        key: &str,
        cmd: &Cmd,
        wait: Duration,
    ) -> Result<Value, Error> {
        let node = self.owner(key)?;
        let sent = crate::observe::in_command(cmd, node.send_blocking(cmd, wait)).await;
        sent?.map_err(|error| node.explain(Some(key), &error))
    }

    /// Sends one command per key, those for one server together. Redirected ones are sent once more, alone.
    pub(crate) async fn send_each(&self, commands: Vec<(&str, Cmd)>) -> Vec<Result<Answer, Error>> {
        let (mut answers, mut groups) = (BTreeMap::new(), BTreeMap::new());
        for (at, (key, _)) in commands.iter().enumerate() {
            match self.owner(key) {
                Ok(node) => {
                    let group = groups.entry(Arc::as_ptr(&node).addr());
                    group.or_insert((node, Vec::new())).1.push(at);
                }
                Err(error) => _ = answers.insert(at, Err(error)),
            }
        }
        let deadline = self.deadline();
        let sending = groups.values().map(|(node, members)| {
            let batch = members.iter().map(|&at| commands[at].1.clone());
            let sending = node.send_all(batch.collect(), deadline);
            crate::observe::in_command(&commands[members[0]].1, sending)
        });
        let mut redirected = Vec::new();
        for ((node, members), sent) in groups.values().zip(join_all(sending).await) {
            let explain = |key, error| node.explain(key, &error);
            let values = match sent.and_then(|sent| sent.map_err(|error| explain(None, error))) {
                Ok(values) => values,
                Err(error) => {
                    answers.extend(members.iter().map(|&at| (at, Err(error.clone()))));
                    continue;
                }
            };
            for (&at, value) in members.iter().zip(values) {
                let answer = match value.extract_error() {
                    Ok(value) => Ok(Answer::tracked(value)),
                    Err(error) if is_redirection(&error) => {
                        redirected.push(at);
                        continue;
                    }
                    Err(error) => Err(explain(Some(commands[at].0), error)),
                };
                answers.insert(at, answer);
            }
        }
        let again = redirected.iter().map(|&at| {
            let (key, cmd) = &commands[at];
            self.send_by(key, cmd, deadline)
        });
        let again = join_all(again).await;
        answers.extend(redirected.into_iter().zip(again));
        let unanswered = || Error::unavailable("servers", "fewer answers than commands");
        let answer = |at| answers.remove(&at).unwrap_or_else(|| Err(unanswered()));
        (0..commands.len()).map(answer).collect()
    }

    /// Sends one command for the keys of each slot: `several` builds it from their positions, `apart` splits its reply
    /// into one per key. Keys without a reply or with nil, and keys whose command was surely not executed (one of them
    /// holds another type, their slot is moving, the user or the module lacks the command), are sent alone: `one`.
    pub(crate) async fn send_together(
        &self,
        keys: &[&str],
        several: impl Fn(&[usize]) -> Cmd,
        apart: impl Fn(Value, usize) -> Vec<Value>,
        one: impl Fn(usize) -> Cmd,
    ) -> Vec<Result<Answer, Error>> {
        let mut slots: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (at, key) in keys.iter().enumerate() {
            let slot = if self.is_cluster() { slot(key) } else { 0 };
            slots.entry(slot).or_default().push(at);
        }
        let commands = slots.values().map(|group| match group[..] {
            [at] => (keys[at], one(at)),
            _ => (keys[group[0]], several(group)),
        });
        let sent = self.send_each(commands.collect()).await;
        let mut answers = BTreeMap::new();
        for (group, answer) in slots.values().zip(sent) {
            match answer {
                answer if group.len() == 1 => _ = answers.insert(group[0], answer),
                Ok(Answer { value, tracked }) => {
                    let each = group.iter().zip(apart(value, group.len()));
                    let known = each.filter(|(_, value)| *value != Value::Nil);
                    answers.extend(known.map(|(&at, value)| (at, Ok(Answer { value, tracked }))));
                }
                Err(error) if error.outcome_is_unknown() => {
                    answers.extend(group.iter().map(|&at| (at, Err(error.clone()))));
                }
                Err(_) => {}
            }
        }
        let alone = (0..keys.len()).filter(|at| !answers.contains_key(at));
        let alone: Vec<usize> = alone.collect();
        let commands = alone.iter().map(|&at| (keys[at], one(at)));
        let sent = self.send_each(commands.collect()).await;
        answers.extend(alone.into_iter().zip(sent));
        answers.into_values().collect()
    }

    /// Sends a command to every primary that is up.
    pub(crate) async fn ask_all(&self, cmd: &Cmd) -> Vec<(String, Result<Value, Error>)> {
        let nodes = self.primaries();
        let sent = join_all(nodes.iter().map(|node| node.send(cmd, self.deadline()))).await;
        let explained = nodes.iter().zip(sent).map(|(node, sent)| {
            let answer = sent.and_then(|sent| sent.map_err(|error| node.explain(None, &error)));
            (node.address(), answer)
        });
        explained.collect()
    }

    /// A write of this key succeeded.
    pub(crate) fn wrote(&self, key: &str) {
        if let Primaries::One(_) = self.servers {
            // A server that takes over, or begins anew, may have an older value.
            lock(&self.recent).add_key(key, Instant::now());
        }
        if let Ok(node) = self.owner(key) {
            node.wrote();
        }
    }

    pub(crate) fn status(&self) -> Vec<ServerStatus> {
        let known: Vec<_> = self.primaries().iter().map(|node| node.status()).collect();
        match &self.servers {
            // Without a map, this is the state of the cluster as a whole.
            Primaries::Cluster(cluster) if known.is_empty() => vec![cluster.status()],
            _ => known,
        }
    }

    /// Returns the node to ask next, if the error is a redirection; `Err`: the final reply, of another node.
    async fn redirected(
        &self,
        key: &str,
        node: &Arc<Node>,
        cmd: &Cmd,
        error: &RedisError,
        (attempt, deadline): (usize, Instant),
    ) -> Result<Option<Arc<Node>>, Result<Answer, Error>> {
        let (Primaries::Cluster(cluster), ErrorKind::Server(kind)) = (&self.servers, error.kind())
        else {
            return Ok(None);
        };
        // A node that does not know its own address redirects to an empty one: use the address at which it was asked.
        let target = error
            .redirect_node()
            .and_then(|(announced, _)| cluster.address(announced, &node.address()));
        match kind {
            ServerErrorKind::Moved => {
                cluster.complain();
                let known =
                    target.and_then(|address| cluster.map.load().nodes.get(&address).cloned());
                if let Some(node) = known {
                    return Ok(Some(node));
                }
                let _ = tokio::time::timeout_at(deadline.into(), cluster.looked()).await;
                Ok(self.owner(key).ok())
            }
            ServerErrorKind::Ask => {
                // A primary that has no slots yet is in no map.
                let Some(node) = target.and_then(|address| cluster.without_slots(&address)) else {
                    return Ok(None);
                };
                let asking = vec![redis::cmd("ASKING"), cmd.clone()];
                let sent = node.send_all(asking, deadline).await;
                let answer = match sent {
                    Ok(Ok(mut values)) => values.pop().unwrap_or(Value::Nil).extract_error(),
                    Ok(Err(error)) => Err(error),
                    Err(error) => return Err(Err(error)),
                };
                // The key has not moved for good: its changes are not announced through this connection alone.
                let tracked = false;
                let answer = answer.map(|value| Answer { value, tracked });
                Err(answer.map_err(|error| node.explain(Some(key), &error)))
            }
            ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown => {
                cluster.complain();
                let pause = Duration::from_millis(10 << attempt);
                tokio::time::sleep(pause).await;
                Ok(Some(Arc::clone(node)))
            }
            _ => Ok(None),
        }
    }

    /// Ends all connections, for good.
    pub(crate) fn close(&self) {
        let unsent = match &self.servers {
            Primaries::One(node) => node.close(),
            Primaries::Cluster(cluster) => cluster.close(),
        };
        if unsent > 0 {
            crate::observe::event!(error, "missed invalidations lost", tags = unsent);
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
    }
}

fn is_redirection(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
        )
    )
}

/// The servers of these URLs. Errors in them must be returned now, not found in the background.
fn targets(urls: &[String], access: &Arc<Access>, what: &str) -> Result<Vec<Target>, Error> {
    if urls.is_empty() {
        return Err(Error::config(format!("no {what} was named")));
    }
    urls.iter().map(|url| Target::new(url, access)).collect()
}
