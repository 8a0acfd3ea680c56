//! One primary: its connection is kept up, probed and replaced; calls that block have connections of their own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, RedisResult, Value};
use tokio::sync::{Notify, Semaphore, watch};

use super::command::Invalidation;
use super::connection::{Connection, Listener, Role, Timeouts, open_plain};
use super::error::Error;
use super::missed::Missed;
use super::sentinel::Sentinels;
use super::status::{Record, ServerState, ServerStatus};

/// Where a node is.
pub(crate) enum Place {
    /// Always there, whatever its role.
    Fixed(Client),
    /// There as long as it is a primary: a node of a cluster.
    Primary(Client),
    /// Wherever the sentinels say that the primary is.
    Sentinel(Sentinels),
}

/// How a node is run.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) timeouts: Timeouts,
    pub(crate) max_waiting_connections: usize,
    pub(crate) listener: Arc<dyn Listener>,
}

/// One primary.
pub(crate) struct Node {
    place: Place,
    settings: Settings,
    /// The connection that is up.
    connection: ArcSwapOption<Connection>,
    /// Where the last connection went to.
    client: ArcSwapOption<Client>,
    record: Mutex<Record>,
    missed: Mutex<Missed>,
    /// Set under the lock of what was missed, so that nothing is kept here that nobody will take.
    retired: AtomicBool,
    /// Something went wrong with a call, or there is something to be told: look at once.
    look: Notify,
    /// How many attempts to connect have ended.
    attempts: watch::Sender<u64>,
    waiting: Semaphore,
    idle: Mutex<Vec<MultiplexedConnection>>,
}

/// Pauses between attempts to connect: doubled up to a bound, and spread so that a fleet does not come all at once.
struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(25);
    const LONGEST: Duration = Duration::from_secs(2);

    fn pause(&mut self) -> Duration {
        let pause = self.0.mul_f64(0.5 + fastrand::f64());
        self.0 = (self.0 * 2).min(Self::LONGEST);
        pause
    }
}

impl Node {
    pub(crate) fn new(place: Place, settings: Settings) -> Self {
        let waiting = Semaphore::new(settings.max_waiting_connections);
        Self {
            place,
            settings,
            connection: ArcSwapOption::empty(),
            client: ArcSwapOption::empty(),
            record: Mutex::new(Record::new()),
            missed: Mutex::default(),
            retired: AtomicBool::new(false),
            look: Notify::new(),
            attempts: watch::Sender::new(0),
            waiting,
            idle: Mutex::default(),
        }
    }

    /// Host and port, as far as known.
    pub(crate) fn address(&self) -> String {
        match (&self.place, self.client.load().as_deref()) {
            (Place::Fixed(client) | Place::Primary(client), _) | (_, Some(client)) => {
                client.get_connection_info().addr().to_string()
            }
            (Place::Sentinel(sentinels), None) => sentinels.to_string(),
        }
    }

    /// Keeps the connection up for as long as the task lives.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut backoff = Backoff(Backoff::FIRST);
        loop {
            match self.connect().await {
                Ok(connection) => {
                    backoff = Backoff(Backoff::FIRST);
                    self.attempts.send_modify(|attempts| *attempts += 1);
                    let end = self.serve(&connection).await;
                    // In this order: whoever takes the connection now began to read before the loss is announced.
                    self.connection.store(None);
                    connection.give_up();
                    lock(&self.idle).clear();
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

    /// Lets go of the server for good; answers what it has missed, which whoever takes its place must be told.
    pub(crate) fn retire(&self) -> Missed {
        if let Some(connection) = self.connection.swap(None) {
            connection.give_up();
        }
        let mut missed = lock(&self.missed);
        self.retired.store(true, Ordering::Release);
        std::mem::take(&mut *missed)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Keeps what another node has missed until this one has it.
    pub(crate) fn inherit(&self, missed: &Missed) {
        if missed.len() > 0 {
            lock(&self.missed).put_back(missed.clone());
            self.look.notify_one();
        }
    }

    /// Returns when the first attempt to connect has ended, well or badly.
    pub(crate) async fn attempted(&self) {
        let mut attempts = self.attempts.subscribe();
        // The sender lives as long as this node.
        let _ = attempts.wait_for(|&attempts| attempts > 0).await;
    }

    async fn connect(&self) -> Result<Arc<Connection>, Error> {
        let Settings {
            timeouts, listener, ..
        } = &self.settings;
        let client = match &self.place {
            Place::Fixed(client) | Place::Primary(client) => client.clone(),
            Place::Sentinel(sentinels) => sentinels.locate(*timeouts).await?,
        };
        let name = client.get_connection_info().addr().to_string();
        self.client.store(Some(Arc::new(client.clone())));
        let opening = Connection::open(&client, &name, *timeouts, Arc::clone(listener));
        let within = timeouts.connect * 2;
        let connection = match tokio::time::timeout(within, opening).await {
            Ok(opened) => Arc::new(opened?),
            Err(_) => {
                return Err(Error::Timeout {
                    node: name,
                    timeout: within,
                });
            }
        };
        let role = connection.greeting.role;
        if role == Role::Replica && !matches!(self.place, Place::Fixed(_)) {
            return Err(Error::Unreachable {
                node: name,
                reason: "it is a replica; waiting for the topology to say who is primary"
                    .to_owned(),
            });
        }
        connection.establish(&name)?;
        if role == Role::Primary {
            self.tell_missed(&connection, &name).await?;
        }
        // What is left of the time before is dropped before anybody can read through the new connection.
        listener.connection_restored();
        let state = match role {
            Role::Primary => ServerState::Up,
            Role::Replica => ServerState::ReadOnly,
        };
        lock(&self.record).connected(&connection.greeting, state, &name);
        self.connection.store(Some(Arc::clone(&connection)));
        Ok(connection)
    }

    /// Probes until something is wrong; answers what.
    async fn serve(&self, connection: &Connection) -> Error {
        let name = self.address();
        loop {
            tokio::select! {
                () = connection.ended() => {
                    return Error::Unreachable { node: name, reason: "the connection broke".to_owned() };
                }
                () = tokio::time::sleep(self.settings.timeouts.probe_interval) => {}
                () = self.look.notified() => {}
            }
            if let Err(error) = connection.probe(&name, self.settings.timeouts).await {
                return error;
            }
            // Connections that a burst of waits has left behind are closed bit by bit.
            lock(&self.idle).pop();
            if connection.greeting.role == Role::Primary
                && let Err(error) = self.tell_missed(connection, &name).await
                && error.outcome_is_unknown()
            {
                return error;
            }
        }
    }

    /// Tells the server what it missed. What it refuses for good is not kept.
    async fn tell_missed(&self, connection: &Connection, name: &str) -> Result<(), Error> {
        loop {
            let Some((cmd, taken)) = lock(&self.missed).take() else {
                return Ok(());
            };
            let sent = connection.send(&cmd).await;
            if let Err(error) = sent {
                let error = self.explain(name, None, &error);
                if error.remedy() == super::error::Remedy::Retry {
                    lock(&self.missed).put_back(taken);
                    return Err(error);
                }
                crate::observe::invalidation_refused(name, &error);
            }
        }
    }

    /// The connection, or why there is none.
    fn connection(&self) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.connection.load_full()
            && !connection.is_over()
        {
            return Ok(connection);
        }
        let last = lock(&self.record).last_error.clone();
        Err(match last {
            Some(error) if error.is_server_trouble() => error,
            _ => Error::Unreachable {
                node: self.address(),
                reason: "not connected yet".to_owned(),
            },
        })
    }

    /// Sends a command through the main connection. Never blocks on the server longer than the command time-out;
    /// fails at once where there is no connection.
    pub(crate) async fn send(&self, cmd: &Cmd) -> Result<RedisResult<Value>, Error> {
        let connection = self.connection()?;
        let sent = connection.send(cmd).await;
        self.note(&sent);
        Ok(sent)
    }

    /// Sends commands together through the main connection.
    pub(crate) async fn send_all(
        &self,
        commands: Vec<Cmd>,
    ) -> Result<RedisResult<Vec<Value>>, Error> {
        let connection = self.connection()?;
        let sent = connection.send_all(commands).await;
        self.note(&sent);
        Ok(sent)
    }

    fn note<T>(&self, sent: &RedisResult<T>) {
        if let Err(error) = sent
            && (error.is_timeout() || error.is_io_error())
        {
            self.look.notify_one();
        }
    }

    /// What an error of redis-rs means; remembers that the server takes no writes.
    pub(crate) fn explain(
        &self,
        name: &str,
        key: Option<&str>,
        error: &redis::RedisError,
    ) -> Error {
        let error = Error::from_redis(name, key, self.settings.timeouts.command, error);
        let state = match error {
            Error::ReadOnly { .. } => ServerState::ReadOnly,
            Error::OutOfMemory { .. } => ServerState::OutOfMemory,
            _ => return error,
        };
        let mut record = lock(&self.record);
        record.last_error = Some(error.clone());
        if self.connection.load().is_some() {
            record.enter(state, name);
        }
        error
    }

    /// A write succeeded: whatever kept the server from taking writes is over.
    pub(crate) fn wrote(&self) {
        let mut record = lock(&self.record);
        if matches!(
            record.state,
            ServerState::ReadOnly | ServerState::OutOfMemory
        ) {
            record.enter(ServerState::Up, &self.address());
        }
    }

    /// Sends a command that blocks for up to `wait`, on a connection that nobody else uses.
    pub(crate) async fn send_blocking(
        &self,
        cmd: &Cmd,
        wait: Duration,
    ) -> Result<RedisResult<Value>, Error> {
        self.connection()?;
        let name = self.address();
        let bound = wait + self.settings.timeouts.command;
        let sending = async {
            let Ok(_permit) = self.waiting.acquire().await else {
                return Err(Error::Unreachable {
                    node: name.clone(),
                    reason: "closed".to_owned(),
                });
            };
            let idle = lock(&self.idle).pop();
            let mut connection = match (idle, self.client.load_full()) {
                (Some(connection), _) => connection,
                (None, Some(client)) => open_plain(&client, &name, self.settings.timeouts).await?,
                (None, None) => return self.connection().map(|_| Ok(Value::Nil)),
            };
            let sent = connection.send_packed_command(cmd).await;
            let sent = sent.and_then(Value::extract_error);
            // One that failed may still have an answer to come.
            if sent.is_ok() {
                lock(&self.idle).push(connection);
            }
            Ok(sent)
        };
        match tokio::time::timeout(bound, sending).await {
            Ok(sent) => sent,
            Err(_) => Err(Error::Timeout {
                node: name,
                timeout: bound,
            }),
        }
    }

    /// Keeps an invalidation until the server has it; `false` when there is too much to keep, or nobody left to tell.
    pub(crate) fn miss(&self, kind: Invalidation, tags: &[String]) -> bool {
        let mut missed = lock(&self.missed);
        let kept = !self.is_retired() && missed.add(kind, tags);
        self.look.notify_one();
        kept
    }

    /// Keeps a flush until the server has it; `false` when nobody is left to tell.
    pub(crate) fn miss_flush(&self) -> bool {
        let mut missed = lock(&self.missed);
        let kept = !self.is_retired();
        if kept {
            missed.add_flush();
        }
        self.look.notify_one();
        kept
    }

    pub(crate) fn is_up(&self) -> bool {
        self.connection().is_ok()
    }

    pub(crate) fn status(&self) -> ServerStatus {
        let missed_invalidations = lock(&self.missed).len();
        let address = self.address();
        let record = lock(&self.record);
        ServerStatus {
            address,
            state: record.state,
            since: record.changed.elapsed(),
            last_error: record.last_error.clone(),
            connects: record.connects,
            module_version: record.module_version,
            missed_invalidations,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can leave them half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
