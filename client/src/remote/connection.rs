//! One tracked RESP3 connection to one server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, RedisError, RedisResult, Value};
use tokio::sync::Notify;

use super::command::{self, field, text_of as text};
use super::error::{Error, Remedy, within};
use super::history::Reading;
use super::lock;
use super::message::{self, Push};
use super::missed::Recent;
use super::target::{Target, Wire};

/// Handles the pushes of a server. Called from the connection's driver, in the order of the wire: it must not block,
/// and must have applied the push when it returns.
pub(crate) type Listener = Arc<dyn Fn(&Push<'_>) + Send + Sync>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) command: Duration,
    pub(crate) probe_interval: Duration,
    pub(crate) probe: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// Not a replica.
    pub(crate) is_primary: bool,
    pub(crate) is_clustered: bool,
    pub(crate) module_version: u64,
}

/// A connection with tracking and subscription, as long as it lasts.
pub(crate) struct Connection {
    wire: Wire,
    liveness: Arc<Liveness>,
    probes: AtomicU64,
    /// How long a command may take; probes and the handshake have times of their own.
    timeout: Duration,
    pub(crate) greeting: Greeting,
    /// The error that the server cannot save its data, and therefore takes no writes, from the first PING.
    pub(crate) cannot_save: Option<Error>,
}

/// Whether the connection is still up; shared with the push sink, which notices its end first.
struct Liveness {
    listener: Listener,
    /// Values may have been read through it, so that its end matters.
    established: AtomicBool,
    over: AtomicBool,
    ended: Notify,
}

impl Liveness {
    /// Reports the loss, the first time only.
    fn end(&self) {
        if !self.over.swap(true, Ordering::SeqCst) {
            if self.established.load(Ordering::SeqCst) {
                (self.listener)(&Push::Lost);
            }
            self.ended.notify_one();
        }
    }
}

/// Receives the pushes from the driver of redis-rs. Dropped with the driver, whatever ended it.
struct PushSink {
    channel: String,
    recent: Arc<Mutex<Recent>>,
    liveness: Arc<Liveness>,
}

impl redis::aio::AsyncPushSender for PushSink {
    fn send(&self, info: PushInfo) -> Result<(), redis::aio::SendError> {
        match message::read(&info, &self.channel) {
            Push::Lost => self.liveness.end(),
            Push::Nothing => {}
            push => {
                (self.liveness.listener)(&push);
                lock(&self.recent).notified(&push, Instant::now());
            }
        }
        Ok(())
    }
}

impl Drop for PushSink {
    fn drop(&mut self) {
        self.liveness.end();
    }
}

impl Connection {
    /// Connects, checks the module, turns tracking on and subscribes. Takes at most twice the connect time-out.
    pub(crate) async fn open(
        target: &Target,
        node: &str,
        timeouts: Timeouts,
        listener: Listener,
        recent: Arc<Mutex<Recent>>,
    ) -> Result<Self, Error> {
        let liveness = Arc::new(Liveness {
            listener,
            established: AtomicBool::new(false),
            over: AtomicBool::new(false),
            ended: Notify::new(),
        });
        let channel = message::channel(target.db());
        let sink = PushSink {
            channel: channel.clone(),
            recent,
            liveness: Arc::clone(&liveness),
        };
        let config = AsyncConnectionConfig::new().set_push_sender(sink);
        let failed = |error: RedisError| {
            Error::from_handshake(node, Some(&channel), timeouts.connect, &error)
        };
        let wire = target.open(timeouts, config).await.map_err(failed)?;
        let mut inner = wire.inner.clone();
        let greeting = greet(&mut inner, node, &failed).await?;
        // Servers that cannot serve yet (LOADING, for example), or not this user, still grant HELLO, tracking and
        // subscriptions, but not PING.
        let cannot_save = ping(&mut inner, node, "tagcache", &failed).await?;
        let mut tracking = redis::cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON");
        tracking.exec_async(&mut inner).await.map_err(failed)?;
        inner.subscribe(&channel).await.map_err(failed)?;
        Ok(Self {
            wire,
            liveness,
            probes: AtomicU64::new(0),
            timeout: timeouts.command,
            greeting,
            cannot_save,
        })
    }

    /// Call this once, before the first read: from here on the listener is notified when the connection ends.
    pub(crate) fn establish(&self, node: &str) -> Result<(), Error> {
        let broken = || Error::unreachable(node, "the connection broke while it was set up");
        self.liveness.established.store(true, Ordering::SeqCst);
        let is_over = self.liveness.over.load(Ordering::SeqCst);
        (!is_over).then_some(()).ok_or_else(broken)
    }

    pub(crate) async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let mut inner = self.wire.inner.clone();
        // As in a pipeline, redis-rs does not turn an error reply into an `Err` here.
        self.in_time(inner.send_packed_command(cmd))
            .await?
            .extract_error()
    }

    /// Sends commands together; each has its own reply.
    pub(crate) async fn send_all(&self, commands: Vec<Cmd>) -> RedisResult<Vec<Value>> {
        let count = commands.len();
        let mut pipeline = redis::Pipeline::with_capacity(count);
        for cmd in commands {
            pipeline.add_command(cmd);
        }
        let mut inner = self.wire.inner.clone();
        self.in_time(inner.send_packed_commands(&pipeline, 0, count))
            .await
    }

    async fn in_time<T>(&self, sending: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        let sent = tokio::time::timeout(self.timeout, sending).await;
        sent.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    /// Checks that the server is alive, that its replies are in step, and that role and module are as before. Returns
    /// the error if it cannot save its data.
    pub(crate) async fn probe(
        &self,
        node: &str,
        timeouts: Timeouts,
    ) -> Result<Option<Error>, Error> {
        let sent = Instant::now();
        let nonce = format!("tagcache-{}", self.probes.fetch_add(1, Ordering::Relaxed));
        let mut inner = self.wire.inner.clone();
        let failed = |error| Error::from_redis(node, None, timeouts.probe, &error);
        let asked = async {
            let cannot_save = ping(&mut inner, node, &nonce, &failed).await?;
            Ok((greet(&mut inner, node, &failed).await?, cannot_save))
        };
        let (greeting, cannot_save) = within(timeouts.probe, node, asked).await?;
        if greeting == self.greeting {
            (self.liveness.listener)(&Push::CaughtUp(sent));
            Ok(cannot_save)
        } else {
            let reason = format!("it was {:?}, it is {greeting:?}", self.greeting);
            Err(Error::unreachable(node, reason))
        }
    }

    /// The server's lineage and clock; `None` if its module has none, or does not let this user read them. A missing
    /// reply is an error.
    pub(crate) async fn clock(&self, node: &str) -> Result<Option<Reading>, Error> {
        let mut cmd = redis::cmd("CACHE.CLOCK");
        let failed = |error| Error::from_redis(node, None, self.timeout, &error);
        let mut answer = self.send(cmd.arg("START")).await.map_err(failed);
        if matches!(&answer, Err(error) if error.remedy() == Remedy::FixCall) {
            // An older module, which does not know START.
            answer = self.send(&redis::cmd("CACHE.CLOCK")).await.map_err(failed);
        }
        let answer = match answer {
            Err(Error::Denied { .. } | Error::ModuleTooOld { .. }) => return Ok(None),
            answer => answer?,
        };
        let read = redis::from_redis_value_ref::<(String, u64, u64)>(&answer).or_else(|_| {
            let (lineage, clock) = redis::from_redis_value_ref(&answer)?;
            Ok((lineage, clock, clock))
        });
        let odd = |_: redis::ParsingError| Error::unexpected(node, "CACHE.CLOCK", &answer);
        let (lineage, clock, start) = read.map_err(odd)?;
        Ok(Some(Reading {
            lineage,
            clock,
            start,
        }))
    }

    /// The number in this field of CLUSTER INFO; its name ends with a colon. `None` if this user may not read it.
    pub(crate) async fn cluster_info(&self, name: &str) -> Option<u64> {
        let answer = self.send(redis::cmd("CLUSTER").arg("INFO")).await;
        cluster_info(&answer.ok()?, name)
    }

    /// Ends the connection, whatever is in flight.
    pub(crate) fn give_up(&self) {
        self.liveness.end();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.liveness.over.load(Ordering::Acquire)
    }

    /// Returns when the connection has ended. For one task only.
    pub(crate) async fn ended(&self) {
        while !self.is_over() {
            self.liveness.ended.notified().await;
        }
    }
}

/// Opens a connection without tracking, for calls that block.
pub(crate) async fn open_plain(
    target: &Target,
    node: &str,
    timeouts: Timeouts,
) -> Result<Wire, Error> {
    let opened = target.open(timeouts, AsyncConnectionConfig::new()).await;
    opened.map_err(|error| Error::from_handshake(node, None, timeouts.connect, &error))
}

/// The epoch of a cluster as a node knows it: it rises with each change of the slots' owners.
pub(crate) const EPOCH: &str = "cluster_current_epoch:";

/// The number after `name` in a reply to CLUSTER INFO.
pub(crate) fn cluster_info(answer: &Value, name: &str) -> Option<u64> {
    let mut lines = text(answer)?.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Sends commands through a connection of its own, to sentinels and to nodes that may not belong to the cluster.
/// Returns the replies up to the first error; an error of the first command is returned as such.
pub(crate) async fn ask(
    target: &Target,
    commands: &[Cmd],
    timeouts: Timeouts,
) -> Result<Vec<Value>, Error> {
    let (name, mut answers) = (target.address(), Vec::new());
    let asking = async {
        let mut wire = open_plain(target, &name, timeouts).await?;
        for cmd in commands {
            let answer = wire.inner.send_packed_command(cmd).await;
            match answer.and_then(Value::extract_error) {
                Ok(answer) => answers.push(answer),
                Err(_) if !answers.is_empty() => break,
                Err(error) => {
                    let timeout = timeouts.command;
                    return Err(Error::from_handshake(&name, None, timeout, &error));
                }
            }
        }
        Ok(answers)
    };
    within(timeouts.connect + timeouts.command, &name, asking).await
}

/// Checks that the server serves, and that its replies are in step. A server that cannot save its data refuses PING
/// like writes (MISCONF), but serves reads: that error is returned as `Ok`.
async fn ping(
    inner: &mut MultiplexedConnection,
    node: &str,
    nonce: &str,
    failed: &impl Fn(RedisError) -> Error,
) -> Result<Option<Error>, Error> {
    let mut ping = redis::cmd("PING");
    ping.arg(nonce);
    let echo: RedisResult<String> = ping.query_async(inner).await;
    match echo {
        Ok(echo) if echo == nonce => Ok(None),
        Ok(_) => Err(Error::unreachable(node, "its replies are out of step")),
        Err(error) => match Error::from_redis(node, None, Duration::ZERO, &error) {
            cannot_save @ Error::ReadOnly { .. } => Ok(Some(cannot_save)),
            _ => Err(failed(error)),
        },
    }
}

/// 0.2.0: the caller chooses the token of a lease.
const OLDEST_MODULE: u64 = 200;

/// HELLO without arguments changes nothing and returns role and modules; no ACL rule can deny it.
async fn greet(
    inner: &mut MultiplexedConnection,
    node: &str,
    failed: &impl Fn(RedisError) -> Error,
) -> Result<Greeting, Error> {
    let hello: RedisResult<Value> = redis::cmd("HELLO").query_async(inner).await;
    let hello = hello.map_err(failed)?;
    let modules = field(&hello, "modules").map_or(&[][..], command::items);
    let is_ours = |module: &&Value| field(module, "name").and_then(text) == Some("tagcache");
    let Some(module) = modules.iter().find(is_ours) else {
        let node = node.to_owned();
        return Err(Error::ModuleMissing { node });
    };
    let version = command::number(module, "ver").unwrap_or_default();
    if version < OLDEST_MODULE {
        return Err(Error::ModuleTooOld {
            node: node.to_owned(),
            version,
            command: "CACHE.FETCH … TOKEN".to_owned(),
        });
    }
    Ok(Greeting {
        is_primary: field(&hello, "role").and_then(text) == Some("master"),
        is_clustered: field(&hello, "mode").and_then(text) == Some("cluster"),
        module_version: version,
    })
}
