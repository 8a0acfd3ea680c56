//! One primary: its connection is kept up, probed and replaced; blocking calls have connections of their own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::connection::{Connection, EPOCH, Listener, Timeouts};
use super::error::{Error, Remedy, within};
use super::history::{History, Lost};
use super::lock;
use super::message::Push;
use super::missed::{Backlog, Missed, Recent};
use super::sentinel::Sentinels;
use super::status::{Record, ServerState, ServerStatus};
use super::target::Target;
use super::waiting::Waiting;
use crate::observe::event;

pub(crate) enum Place {
    /// Used all the time, whatever its role.
    Fixed(Target),
    /// Used as long as it is a primary: a node of a cluster.
    Primary(Target),
    /// The primary that the sentinels name.
    Sentinel(Sentinels),
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) timeouts: Timeouts,
    pub(crate) max_waiting_connections: usize,
    /// Keeps the entries of a server that lost more invalidations than are remembered.
    pub(crate) keeps_after_loss: bool,
    pub(crate) listener: Listener,
    /// The recent invalidations of all nodes.
    pub(crate) recent: Arc<Mutex<Recent>>,
    pub(crate) map_changed: Arc<Notify>,
}

/// Longest pause between attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct Node {
    place: Place,
    settings: Settings,
    /// Keeps the connection up.
    task: OnceLock<AbortHandle>,
    /// The connection that is up.
    connection: ArcSwapOption<Connection>,
    /// The target of the last connection.
    target: ArcSwapOption<Target>,
    record: Mutex<Record>,
    pub(super) missed: Mutex<Backlog>,
    history: Mutex<History>,
    /// Set under the lock of `missed`, so that nothing is kept here after another node has taken over.
    retired: AtomicBool,
    /// A call failed, or there is something to send: look at once.
    look: Notify,
    /// How many attempts to connect have ended.
    attempts: watch::Sender<u64>,
    waiting: Waiting,
}

/// Pauses between attempts: doubled up to a bound, and spread so that a fleet does not connect all at once.
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(25);

    pub(crate) fn up_to(longest: Duration) -> Self {
        Self {
            next: Self::FIRST,
            longest,
        }
    }

    pub(crate) fn restart(&mut self) {
        self.next = Self::FIRST;
    }

    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64());
        self.next = (self.next * 2).min(self.longest);
        pause
    }
}

impl Node {
    /// Starts connecting in the background.
    ///
    /// `history`: that of the node that it replaces, if there is one.
    pub(crate) fn start(place: Place, settings: Settings, history: History) -> Arc<Self> {
        // Its slots may come from another primary, with keys whose invalidation only that one received.
        let recent = lock(&settings.recent).all(Instant::now());
        let waiting = Waiting::new(settings.max_waiting_connections);
        let node = Arc::new(Self {
            place,
            settings,
            task: OnceLock::new(),
            connection: ArcSwapOption::empty(),
            target: ArcSwapOption::empty(),
            record: Mutex::new(Record::new()),
            missed: Mutex::default(),
            history: Mutex::new(history),
            retired: AtomicBool::new(false),
            look: Notify::new(),
            attempts: watch::Sender::new(0),
            waiting,
        });
        node.inherit(&recent);
        let task = tokio::spawn(Arc::clone(&node).run()).abort_handle();
        node.task.set(task).expect("it was made here");
        node
    }

    pub(crate) fn address(&self) -> String {
        match (&self.place, self.target.load().as_deref()) {
            (Place::Fixed(target) | Place::Primary(target), _) | (_, Some(target)) => {
                target.address()
            }
            (Place::Sentinel(sentinels), None) => sentinels.to_string(),
        }
    }

    async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::up_to(LONGEST_PAUSE);
        loop {
            match self.connect().await {
                Ok(connection) => {
                    let since = Instant::now();
                    self.attempts.send_modify(|attempts| *attempts += 1);
                    let end = self.serve(&connection).await;
                    // In this order: a call that takes the connection now began to read before the loss is announced.
                    self.connection.store(None);
                    connection.give_up();
                    self.waiting.clear();
                    // A connection that breaks at once is no success.
                    if since.elapsed() > LONGEST_PAUSE {
                        backoff.restart();
                    }
                    lock(&self.record).failed(&end, &self.address());
                }
                Err(error) => {
                    lock(&self.record).failed(&error, &self.address());
                    self.attempts.send_modify(|attempts| *attempts += 1);
                }
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Gives the server up for good; returns the invalidations that it missed, which its successor must be sent.
    pub(crate) fn retire(&self) -> Missed {
        if let Some(task) = self.task.get() {
            task.abort();
        }
        if let Some(connection) = self.connection.swap(None) {
            connection.give_up();
        }
        let mut missed = lock(&self.missed);
        self.retired.store(true, Ordering::Release);
        crate::observe::server_left(&self.address());
        missed.take_all()
    }

    /// As [`Self::retire`], when the whole cache is closed.
    pub(crate) fn close(&self) -> usize {
        let unsent = self.retire().len();
        lock(&self.record).failed(&Error::Closed, &self.address());
        unsent
    }

    /// The readings of its server's clock.
    pub(crate) fn history(&self) -> History {
        lock(&self.history).clone()
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Keeps the invalidations that another node missed until this one has them.
    pub(crate) fn inherit(&self, missed: &Missed) {
        if missed.len() > 0 {
            let mut backlog = lock(&self.missed);
            backlog.waiting.merge(missed.clone());
            backlog.is_promised = true;
            self.look.notify_one();
        }
    }

    /// Returns when the first attempt to connect has ended, with or without success.
    pub(crate) async fn attempted(&self) {
        let mut attempts = self.attempts.subscribe();
        // The sender lives as long as this node.
        let _ = attempts.wait_for(|&attempts| attempts > 0).await;
    }

    async fn connect(&self) -> Result<Arc<Connection>, Error> {
        let Settings {
            timeouts,
            listener,
            recent,
            ..
        } = &self.settings;
        let target = match &self.place {
            Place::Fixed(target) | Place::Primary(target) => target.clone(),
            Place::Sentinel(sentinels) => sentinels.locate(*timeouts).await?,
        };
        let name = target.address();
        if self.target.load().is_some() && name != self.address() {
            // It has taken over, perhaps without the last invalidations that its predecessor received.
            let recent = lock(recent).all(Instant::now());
            self.inherit(&recent);
        }
        self.target.store(Some(Arc::new(target.clone())));
        let (listening, noting) = (Arc::clone(listener), Arc::clone(recent));
        let opening = Connection::open(&target, &name, *timeouts, listening, noting);
        let connection = Arc::new(within(timeouts.connect * 2, &name, opening).await?);
        let is_primary = connection.greeting.is_primary;
        if !is_primary && !matches!(self.place, Place::Fixed(_)) {
            let reason = "it is a replica; waiting for the topology to say who is primary";
            return Err(Error::unreachable(name, reason));
        }
        connection.establish(&name)?;
        if is_primary {
            self.make_up_for_losses(&connection, &name).await?;
        }
        let takes_writes = self.send_missed(&connection, &name).await?;
        if is_primary && !takes_writes && lock(&self.missed).is_promised {
            let reason = "it lacks confirmed invalidations and takes none";
            return Err(Error::unreachable(name, reason));
        }
        // Entries from before the loss are dropped before any call can read through the new connection.
        listener(&Push::Restored);
        let state = if is_primary && takes_writes {
            ServerState::Up
        } else {
            ServerState::ReadOnly
        };
        {
            let mut record = lock(&self.record);
            record.connected(&connection.greeting, state, &name);
            if let Some(cannot_save) = &connection.cannot_save {
                record.refused(cannot_save, true, &name);
            }
        }
        self.connection.store(Some(Arc::clone(&connection)));
        Ok(connection)
    }

    /// A server that began anew from its data, or was promoted, may lack confirmed invalidations: they are sent again
    /// before any read uses the connection.
    async fn make_up_for_losses(&self, connection: &Connection, name: &str) -> Result<(), Error> {
        let asked = Instant::now();
        let Some(reading) = connection.clock(name).await? else {
            return Ok(());
        };
        let mut recent = lock(&self.settings.recent).all(asked);
        let since = lock(&self.settings.recent).since(asked);
        let lost = lock(&self.history).connected(reading, asked, since);
        if lost == Lost::Nothing {
            return Ok(());
        }
        let forgotten = lost == Lost::Forgotten;
        if forgotten && !self.settings.keeps_after_loss {
            recent.merge(lock(&self.settings.recent).namespace());
        }
        event!(
            warn,
            "server began anew, recent invalidations are sent again",
            server = name,
            forgotten = forgotten
        );
        self.inherit(&recent);
        Ok(())
    }

    /// Probes until something is wrong; returns the error.
    async fn serve(&self, connection: &Connection) -> Error {
        let name = self.address();
        let mut saves = connection.cannot_save.is_none();
        let mut epoch = None;
        loop {
            tokio::select! {
                () = connection.ended() => {
                    return Error::unreachable(name, "the connection broke");
                }
                () = tokio::time::sleep(self.settings.timeouts.probe_interval) => {}
                () = self.look.notified() => {}
            }
            match connection.probe(&name, self.settings.timeouts).await {
                Ok(None) if saves => {}
                Ok(None) => {
                    saves = true;
                    lock(&self.record).enter(ServerState::Up, &name);
                }
                Ok(Some(cannot_save)) => {
                    saves = false;
                    lock(&self.record).refused(&cannot_save, true, &name);
                }
                Err(error) => return error,
            }
            // A replica's clock is its primary's. Later invalidations are announced after this moment.
            let asked = Instant::now();
            if connection.greeting.is_primary
                && let Ok(Some(reading)) = connection.clock(&name).await
            {
                let since = lock(&self.settings.recent).since(Instant::now());
                if !lock(&self.history).probed(&reading, asked, since) {
                    return Error::unreachable(name, "it began anew");
                }
            }
            if let Place::Sentinel(sentinels) = &self.place
                && sentinels.moved_from(&name, self.settings.timeouts).await
            {
                return Error::unreachable(name, "the sentinels name another primary");
            }
            if let Place::Primary(_) = self.place
                && let Some(now) = connection.cluster_info(EPOCH).await
                && epoch.replace(now) != Some(now)
            {
                self.settings.map_changed.notify_one();
            }
            self.waiting.shrink();
            if let Err(error) = self.send_missed(connection, &name).await {
                return error;
            }
        }
    }

    /// Sends the server the invalidations that it missed. One that it will never take is dropped; one that it does not
    /// take now is kept. Returns whether it takes writes, as far as this shows. Fails when it does not reply.
    async fn send_missed(&self, connection: &Connection, name: &str) -> Result<bool, Error> {
        if !connection.greeting.is_primary {
            return Ok(false);
        }
        if matches!(self.place, Place::Fixed(_))
            && connection.greeting.is_clustered
            && connection.cluster_info("cluster_size:").await > Some(1)
        {
            let why = "it is one of several primaries of a cluster: name that by Servers::cluster";
            return Err(Error::unavailable(name, why));
        }
        lock(&self.missed).retry_denied();
        loop {
            let next = lock(&self.missed).next();
            let Some(cmd) = next else {
                return Ok(true);
            };
            let Err(error) = connection.send(&cmd).await else {
                lock(&self.missed).confirmed();
                self.wrote();
                self.settings.map_changed.notify_one();
                continue;
            };
            let error = self.explain(None, &error);
            // If this user may not flush, that must not keep the rest from being sent.
            let never = matches!(error, Error::Denied { .. }) && lock(&self.missed).is_flushing();
            // A tag or a key is denied, not the command; others are not.
            let is_name = |words: &str| words.contains(" tags ") || words.contains(" key");
            let denied = matches!(&error, Error::Denied { message, .. } if is_name(message));
            if never || denied || error.remedy() == Remedy::FixCall {
                if !lock(&self.missed).refused(denied) {
                    event!(
                        error,
                        "missed invalidation refused",
                        server = name,
                        error = error
                    );
                }
                continue;
            }
            lock(&self.missed).put_back();
            return match error {
                error if error.outcome_is_unknown() => Err(error),
                Error::ReadOnly { .. } => Ok(false),
                _ => Ok(true),
            };
        }
    }

    /// Returns the connection, or the error why there is none. A node just found (a slot moved to it) is still
    /// connecting for the first time: waits for that attempt.
    async fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, Error> {
        if *self.attempts.borrow() == 0 {
            let _ = tokio::time::timeout_at(deadline.into(), self.attempted()).await;
        }
        match self.connection.load_full() {
            Some(connection) if !connection.is_over() => Ok(connection),
            _ => Err(self.why_not()),
        }
    }

    fn why_not(&self) -> Error {
        let trouble = lock(&self.record).trouble();
        trouble.unwrap_or_else(|| Error::unreachable(self.address(), "not connected yet"))
    }

    /// Sends a command through the main connection. Returns by `deadline`; fails at once if there is no connection and
    /// an attempt has ended.
    pub(crate) async fn send(
        &self,
        cmd: &Cmd,
        deadline: Instant,
    ) -> Result<RedisResult<Value>, Error> {
        let sending = async { Ok(self.connection(deadline).await?.send(cmd).await) };
        self.by(deadline, sending).await
    }

    /// Sends commands together through the main connection.
    pub(crate) async fn send_all(
        &self,
        commands: Vec<Cmd>,
        deadline: Instant,
    ) -> Result<RedisResult<Vec<Value>>, Error> {
        let sending = async { Ok(self.connection(deadline).await?.send_all(commands).await) };
        self.by(deadline, sending).await
    }

    async fn by<T>(
        &self,
        deadline: Instant,
        sending: impl Future<Output = Result<RedisResult<T>, Error>>,
    ) -> Result<RedisResult<T>, Error> {
        let sent = tokio::time::timeout_at(deadline.into(), sending).await;
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut).into();
        self.noted(sent.unwrap_or_else(|_| Ok(Err(late()))))
    }

    /// Passes on the result of a command. A failed one is a reason to check the connection, and the cluster.
    fn noted<T>(&self, sent: Result<RedisResult<T>, Error>) -> Result<RedisResult<T>, Error> {
        let (look, map_changed) = (&self.look, &self.settings.map_changed);
        match &sent {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.is_timeout() || error.is_io_error() => {
                look.notify_one();
                map_changed.notify_one();
            }
            Ok(Err(error)) if error.kind() != ErrorKind::Server(ServerErrorKind::ReadOnly) => {}
            Ok(Err(_)) | Err(_) => map_changed.notify_one(),
        }
        sent
    }

    /// Translates an error of redis-rs, and records it if it concerns the server.
    pub(crate) fn explain(&self, key: Option<&str>, error: &redis::RedisError) -> Error {
        let name = self.address();
        let error = Error::from_redis(&name, key, self.settings.timeouts.command, error);
        let connected = self.connection.load().is_some();
        lock(&self.record).refused(&error, connected, &name);
        error
    }

    /// A write succeeded: the reason why the server took no writes may be gone.
    pub(crate) fn wrote(&self) {
        let mut record = lock(&self.record);
        if record.may_recover() {
            record.enter(ServerState::Up, &self.address());
        }
    }

    /// Sends a command that blocks for up to `wait`, on a connection that no other call uses.
    pub(crate) async fn send_blocking(
        &self,
        cmd: &Cmd,
        wait: Duration,
    ) -> Result<RedisResult<Value>, Error> {
        let (name, timeouts) = (self.address(), self.settings.timeouts);
        let sending = async {
            self.connection(Instant::now() + timeouts.command).await?;
            let target = self.target.load_full().ok_or_else(|| self.why_not())?;
            self.waiting.send(&target, &name, cmd, wait, timeouts).await
        };
        self.noted(sending.await)
    }

    /// Keeps an invalidation until the server has it; `false` when too much is kept, or the node is retired.
    pub(crate) fn miss(&self, missed: &Missed) -> bool {
        let mut backlog = lock(&self.missed);
        let kept = !self.is_retired() && backlog.waiting.add(missed);
        if kept && matches!(self.place, Place::Primary(_)) {
            backlog.late.merge(missed.clone());
        }
        self.look.notify_one();
        kept
    }

    pub(crate) fn status(&self) -> ServerStatus {
        let missed_invalidations = lock(&self.missed).len();
        let address = self.address();
        lock(&self.record).status(address, missed_invalidations)
    }
}
