//! The servers as one: each command goes to where its key is, or to all primaries.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::task::AbortHandle;

use super::cluster::{Cluster, slot};
use super::command::{self, Invalidation};
use super::connection::Timeouts;
use super::error::Error;
use super::node::{Node, Place, Settings};
use super::sentinel::Sentinels;
use super::servers::{Kind, Servers, client, parse};
use super::status::ServerStatus;

/// An answer, and whether it came from where its key belongs, through a connection that tracks it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) value: Value,
    pub(crate) tracked: bool,
}

/// The servers as one.
pub(crate) struct Remote {
    servers: Primaries,
    tasks: Vec<AbortHandle>,
    timeouts: Timeouts,
}

enum Primaries {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// How often one call follows redirections.
const REDIRECTIONS: usize = 5;

impl Remote {
    /// Starts to connect, in the background.
    pub(crate) fn start(servers: &Servers, settings: Settings) -> Result<Self, Error> {
        let timeouts = settings.timeouts;
        let tls = &servers.tls;
        let (servers, task) = match &servers.kind {
            Kind::Single(url) => one(Place::Fixed(client(parse(url)?, tls)?), settings),
            Kind::Sentinel {
                service,
                sentinels,
                primary,
            } => {
                let infos = sentinels.iter().map(|url| parse(url));
                let clients = infos.map(|info| client(info?, tls));
                let clients = clients.collect::<Result<Vec<_>, _>>()?;
                if clients.is_empty() {
                    return Err(nobody_named("sentinel"));
                }
                let primary = parse(primary.as_deref().unwrap_or("redis://127.0.0.1"))?;
                let place = Sentinels {
                    service: service.clone(),
                    clients,
                    primary,
                    tls: tls.clone(),
                };
                one(Place::Sentinel(place), settings)
            }
            Kind::Cluster(urls) => {
                let seeds = urls
                    .iter()
                    .map(|url| parse(url))
                    .collect::<Result<Vec<_>, _>>()?;
                if seeds.is_empty() {
                    return Err(nobody_named("node of the cluster"));
                }
                for seed in &seeds {
                    // What cannot work shall be said now, not by the background.
                    client(seed.clone(), tls)?;
                }
                let cluster = Arc::new(Cluster::new(seeds, tls.clone(), settings));
                let task = tokio::spawn(Arc::clone(&cluster).run()).abort_handle();
                (Primaries::Cluster(cluster), task)
            }
        };
        Ok(Self {
            servers,
            tasks: vec![task],
            timeouts,
        })
    }

    /// Returns when every server that is known has been tried once, or after `bound`.
    pub(crate) async fn attempted(&self, bound: Duration) {
        let tried = async {
            if let Primaries::Cluster(cluster) = &self.servers {
                while cluster.map.load().nodes.is_empty() {
                    cluster.looked().await;
                }
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
                map.nodes
                    .values()
                    .map(|member| Arc::clone(&member.node))
                    .collect()
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
                cluster.complain();
                Err(Error::Unavailable {
                    node: "cluster".to_owned(),
                    message: format!("no primary serves slot {}", slot(key)),
                })
            }
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.servers, Primaries::Cluster(_))
    }

    /// Sends a command to where its key is, through the main connection; follows redirections.
    pub(crate) async fn send(&self, key: &str, cmd: &Cmd) -> Result<Answer, Error> {
        let mut node = self.owner(key)?;
        for attempt in 0..REDIRECTIONS {
            let error = match self.reached(node.send(cmd).await)? {
                Ok(value) => {
                    return Ok(Answer {
                        value,
                        tracked: true,
                    });
                }
                Err(error) => error,
            };
            node = match self.redirected(key, &node, cmd, &error, attempt).await {
                Redirected::To(node) => node,
                Redirected::Answered(answer) => return answer,
                Redirected::No => return Err(node.explain(&node.address(), Some(key), &error)),
            };
        }
        Err(Error::Unavailable {
            node: node.address(),
            message: format!("slot {} is moving", slot(key)),
        })
    }

    /// Sends a command that blocks for up to `wait` on a connection of its own. In a cluster a redirection is an
    /// error: whoever waits asks again.
    pub(crate) async fn send_blocking(
        &self,
        key: &str,
        cmd: &Cmd,
        wait: Duration,
    ) -> Result<Value, Error> {
        let node = self.owner(key)?;
        let sent = node.send_blocking(cmd, wait).await;
        self.reached(sent)?
            .map_err(|error| node.explain(&node.address(), Some(key), &error))
    }

    /// Sends one command for each key, those for one server together. Redirected ones go once more, alone.
    pub(crate) async fn send_each(&self, commands: Vec<(&str, Cmd)>) -> Vec<Result<Answer, Error>> {
        let mut groups: Vec<(Arc<Node>, Vec<usize>)> = Vec::new();
        let mut answers: Vec<Option<Result<Answer, Error>>> = Vec::new();
        for (at, (key, _)) in commands.iter().enumerate() {
            answers.push(None);
            match self.owner(key) {
                Ok(node) => match groups
                    .iter_mut()
                    .find(|(known, _)| Arc::ptr_eq(known, &node))
                {
                    Some((_, members)) => members.push(at),
                    None => groups.push((node, vec![at])),
                },
                Err(error) => answers[at] = Some(Err(error)),
            }
        }
        let sending = groups.iter().map(|(node, members)| {
            let batch = members.iter().map(|&at| commands[at].1.clone()).collect();
            async move { node.send_all(batch).await }
        });
        let sent = join_all(sending).await;
        for ((node, members), sent) in groups.iter().zip(sent) {
            let values = match self.reached(sent) {
                Ok(Ok(values)) => values,
                Ok(Err(error)) => {
                    let error = node.explain(&node.address(), None, &error);
                    for &at in members {
                        answers[at] = Some(Err(error.clone()));
                    }
                    continue;
                }
                Err(error) => {
                    for &at in members {
                        answers[at] = Some(Err(error.clone()));
                    }
                    continue;
                }
            };
            for (&at, value) in members.iter().zip(values) {
                let (key, cmd) = &commands[at];
                answers[at] = Some(match value.extract_error() {
                    Ok(value) => Ok(Answer {
                        value,
                        tracked: true,
                    }),
                    Err(error) if is_redirection(&error) => self.send(key, cmd).await,
                    Err(error) => Err(node.explain(&node.address(), Some(key), &error)),
                });
            }
        }
        let unanswered = || Error::Unavailable {
            node: "servers".to_owned(),
            message: "fewer answers than commands".to_owned(),
        };
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(unanswered())))
            .collect()
    }

    /// Invalidates on every primary. Who cannot be reached is told later.
    pub(crate) async fn invalidate(
        &self,
        kind: Invalidation,
        tags: &[String],
    ) -> Result<u64, Error> {
        let cmd = command::invalidate(kind, tags);
        self.tell_all(&cmd, |node| node.miss(kind, tags)).await
    }

    /// Flushes every primary. Who cannot be reached is told later.
    pub(crate) async fn flush(&self) -> Result<u64, Error> {
        self.tell_all(&command::flush(), Node::miss_flush).await
    }

    async fn tell_all(&self, cmd: &Cmd, keep: impl Fn(&Node) -> bool) -> Result<u64, Error> {
        let nodes = self.primaries();
        if nodes.is_empty() {
            return Err(Error::Unreachable {
                node: "cluster".to_owned(),
                reason: "no node of it has been reached yet".to_owned(),
            });
        }
        let sent = join_all(nodes.iter().map(|node| node.send(cmd))).await;
        let (mut dropped, mut missed, mut retried) = (0, Vec::new(), true);
        let mut refused = None;
        for (node, sent) in nodes.iter().zip(sent) {
            let error = match self.reached(sent) {
                Ok(Ok(Value::Int(count))) => {
                    dropped += u64::try_from(count).unwrap_or_default();
                    node.wrote();
                    continue;
                }
                Ok(Ok(odd)) => unexpected(node, "CACHE.INVALIDATE", &odd),
                Ok(Err(error)) => node.explain(&node.address(), None, &error),
                Err(error) => error,
            };
            // What a server refuses for good it would refuse again.
            if error.remedy() == super::error::Remedy::Retry || !node.is_up() {
                missed.push(node.address());
                retried &= keep(node) || node.is_retired() && self.all_keep(&keep);
            } else {
                refused = Some(error);
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
        if missed.is_empty() {
            return Ok(dropped);
        }
        crate::observe::invalidation_missed(&missed, retried);
        Err(Error::Partial {
            dropped,
            missed,
            retried,
        })
    }

    /// The node that missed something has left while it was told: those that are left are told instead.
    fn all_keep(&self, keep: &impl Fn(&Node) -> bool) -> bool {
        let heirs = self.primaries();
        // All of them, also behind one that does not keep it.
        let kept = heirs.iter().filter(|heir| keep(heir)).count();
        kept > 0 && kept == heirs.len()
    }

    /// Sends a command to every primary that is up.
    pub(crate) async fn ask_all(&self, cmd: &Cmd) -> Vec<(String, Result<Value, Error>)> {
        let nodes = self.primaries();
        let sent = join_all(nodes.iter().map(|node| node.send(cmd))).await;
        let explained = nodes.iter().zip(sent).map(|(node, sent)| {
            let name = node.address();
            let answer = self
                .reached(sent)
                .and_then(|sent| sent.map_err(|error| node.explain(&name, None, &error)));
            (name, answer)
        });
        explained.collect()
    }

    /// A write of this key succeeded.
    pub(crate) fn wrote(&self, key: &str) {
        if let Ok(node) = self.owner(key) {
            node.wrote();
        }
    }

    pub(crate) fn status(&self) -> Vec<ServerStatus> {
        self.primaries().iter().map(|node| node.status()).collect()
    }

    /// Passes on what a node answered; one that cannot be reached is a reason to look at the cluster again.
    fn reached<T>(&self, sent: Result<RedisResult<T>, Error>) -> Result<RedisResult<T>, Error> {
        let lost = match &sent {
            Ok(Ok(_)) => false,
            Ok(Err(error)) => {
                error.is_io_error()
                    || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly))
            }
            Err(_) => true,
        };
        if lost && let Primaries::Cluster(cluster) = &self.servers {
            cluster.complain();
        }
        sent
    }

    async fn redirected(
        &self,
        key: &str,
        node: &Arc<Node>,
        cmd: &Cmd,
        error: &RedisError,
        attempt: usize,
    ) -> Redirected {
        let (Primaries::Cluster(cluster), ErrorKind::Server(kind)) = (&self.servers, error.kind())
        else {
            return Redirected::No;
        };
        let target = error.redirect_node().map(|(address, _)| {
            // A node that does not know its own name redirects to an empty one: the name it was asked by.
            if address.starts_with(':') {
                let own = node.address();
                let host = own.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
                host + address
            } else {
                address.to_owned()
            }
        });
        match kind {
            ServerErrorKind::Moved => {
                cluster.complain();
                let known = target.and_then(|address| cluster.map.load().node(&address).cloned());
                if let Some(node) = known {
                    return Redirected::To(node);
                }
                let _ = tokio::time::timeout(self.timeouts.command, cluster.looked()).await;
                self.owner(key).map_or(Redirected::No, Redirected::To)
            }
            ServerErrorKind::Ask => {
                let Some(node) =
                    target.and_then(|address| cluster.map.load().node(&address).cloned())
                else {
                    return Redirected::No;
                };
                let sent = node.send_all(vec![redis::cmd("ASKING"), cmd.clone()]).await;
                let answer = match sent {
                    Ok(Ok(mut values)) => values.pop().unwrap_or(Value::Nil).extract_error(),
                    Ok(Err(error)) => Err(error),
                    Err(error) => return Redirected::Answered(Err(error)),
                };
                // The key has not arrived for good: what happens to it is not told through this connection alone.
                Redirected::Answered(match answer {
                    Ok(value) => Ok(Answer {
                        value,
                        tracked: false,
                    }),
                    Err(error) => Err(node.explain(&node.address(), Some(key), &error)),
                })
            }
            ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown => {
                cluster.complain();
                let pause = Duration::from_millis(10 << attempt);
                tokio::time::sleep(pause).await;
                Redirected::To(Arc::clone(node))
            }
            _ => Redirected::No,
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        match &self.servers {
            Primaries::One(node) => drop(node.retire()),
            Primaries::Cluster(cluster) => cluster.close(),
        }
    }
}

enum Redirected {
    To(Arc<Node>),
    Answered(Result<Answer, Error>),
    No,
}

fn is_redirection(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain
        )
    )
}

fn one(place: Place, settings: Settings) -> (Primaries, AbortHandle) {
    let node = Arc::new(Node::new(place, settings));
    let task = tokio::spawn(Arc::clone(&node).run()).abort_handle();
    (Primaries::One(node), task)
}

fn nobody_named(what: &str) -> Error {
    Error::Config {
        message: format!("no {what} was named"),
    }
}

fn unexpected(node: &Node, command: &'static str, answer: &Value) -> Error {
    Error::unexpected(&node.address(), command, answer)
}
