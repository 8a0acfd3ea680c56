//! A server with the module, as the monitor and the admin endpoint see it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{
    Client, Connection, ConnectionAddr, ConnectionLike, ErrorKind, FromRedisValue, InfoDict,
    IntoConnectionInfo, RedisError, RedisResult, ServerErrorKind, cmd,
};

use tagcache::memory::{CacheFigures, ProcessSource, Sample, ServerReading, ServerUsage, Source};

/// Time limit of a connection attempt and of a command's reply.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to one server, opened on demand and again after it broke. Calls block up to 2 s for a reply and, if the
/// connection must be opened, 2 s for it and for each step of its handshake (user, protocol, database; none by
/// default); one call at a time. Clones share the connection.
#[derive(Clone)]
pub struct Server {
    client: Client,
    connection: Arc<Mutex<Option<Connection>>>,
    own: Arc<Own>,
    /// Memory limit of the server's container, which the server does not know.
    limit: Option<u64>,
}

/// Hits of the endpoint's own reads, which must not count as use of the cache.
#[derive(Default)]
struct Own {
    hits: AtomicU64,
    /// The server's counter at the last read: if it decreases, the server was restarted.
    seen: AtomicU64,
    /// The value that was returned last: if hits are counted before they are subtracted, the counter must not decrease.
    returned_last: AtomicU64,
}

impl Own {
    fn without(&self, hits: u64) -> u64 {
        if hits < self.seen.swap(hits, Ordering::Relaxed) {
            self.hits.store(0, Ordering::Relaxed);
            self.returned_last.store(0, Ordering::Relaxed);
        }
        let others = hits.saturating_sub(self.hits.load(Ordering::Relaxed));
        self.returned_last
            .fetch_max(others, Ordering::Relaxed)
            .max(others)
    }
}

impl Server {
    /// The server at this URL, such as `redis://127.0.0.1:6379/0`. Does not connect yet. With `rediss://`, ring becomes
    /// the process's cryptography provider for rustls, unless the application has installed one.
    ///
    /// # Errors
    /// When the URL is invalid or of another kind.
    pub fn open(url: &str) -> RedisResult<Self> {
        let info = url.into_connection_info()?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            // redis-rs uses the process's provider, and panics if several are compiled in and none is installed.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        // A name in CLIENT LIST is not worth the wait for two replies.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        Ok(Self {
            client: Client::open(info.set_redis_settings(settings))?,
            connection: Arc::default(),
            own: Arc::default(),
            limit: None,
        })
    }

    /// Sets the memory limit of the server's container, in bytes: a server does not know it, and without `maxmemory`
    /// its limit is the machine's memory.
    #[must_use]
    pub fn memory_limit(self, bytes: Option<u64>) -> Self {
        Self {
            limit: bytes,
            ..self
        }
    }

    fn tightest(&self, limit: Option<u64>) -> Option<u64> {
        [limit, self.limit].into_iter().flatten().min()
    }

    /// Another server, with the same user, password and settings. Does not connect yet.
    ///
    /// # Errors
    /// When the settings do not fit the address.
    pub fn at(&self, host: &str, port: u16) -> RedisResult<Self> {
        let info = self.client.get_connection_info().clone();
        let address = match info.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        Ok(Self {
            client: Client::open(info.set_addr(address))?,
            connection: Arc::default(),
            own: Arc::default(),
            limit: self.limit,
        })
    }

    /// The selected database.
    pub fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    /// The server's figures, or the reason why there are none. Three commands.
    pub fn state(&self) -> ServerReading {
        match self.figures() {
            Ok(figures) => ServerReading::Up(Arc::new(figures)),
            Err(error) => ServerReading::Unreachable(error.to_string().into()),
        }
    }

    /// The server's figures for a [`ProcessSource`].
    pub fn reader(&self) -> impl Fn() -> ServerReading + Send + Sync + use<> {
        let server = self.clone();
        move || server.state()
    }

    /// The server's figures.
    ///
    /// # Errors
    /// When the server does not reply.
    pub fn figures(&self) -> RedisResult<ServerUsage> {
        self.with(|connection| {
            // No pipeline: without a first reply it would wait for each of the others.
            let info = unless_refused(cmd("INFO").query(connection))?;
            let mut figures = info.as_ref().map(from_info).unwrap_or_default();
            figures.memory_limit = self.tightest(figures.memory_limit);
            figures.key_count = unless_refused(cmd("DBSIZE").query(connection))?;
            // Without the module this command fails; the other figures are still returned.
            figures.cache = match cmd("CACHE.STATS").query(connection) {
                Ok(stats) => Some(from_stats(&stats)),
                Err(error) if breaks_connection(&error) => return Err(error),
                Err(_) => None,
            };
            if let Some(cache) = &mut figures.cache {
                cache.hits = self.own.without(cache.hits);
            }
            Ok(figures)
        })
    }

    /// Sends a command.
    ///
    /// # Errors
    /// When the server refuses the command or does not reply.
    pub fn command<T: FromRedisValue>(&self, name: &str, args: &[&[u8]]) -> RedisResult<T> {
        self.with(|connection| cmd(name).arg(args).query(connection))
    }

    /// Counts hits that were the endpoint's own reads; [`Self::figures`] subtracts them.
    pub(crate) fn forget_hits(&self, hits: u64) {
        self.own.hits.fetch_add(hits, Ordering::Relaxed);
    }

    fn with<T>(&self, run: impl FnOnce(&mut Connection) -> RedisResult<T>) -> RedisResult<T> {
        let mut slot = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut connection = match slot.take() {
            Some(connection) if connection.is_open() => connection,
            _ => self.connect()?,
        };
        let result = run(&mut connection);
        // After a time-out the reply to this command would be taken for the next one's.
        if !result.as_ref().is_err_and(breaks_connection) {
            *slot = Some(connection);
        }
        result
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        Ok(connection)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the client: its connection settings contain the password.
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// The reply; `None` if the server refuses the command, because then it is still reachable.
fn unless_refused<T>(reply: RedisResult<T>) -> RedisResult<Option<T>> {
    match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(None),
        Err(error) => Err(error),
    }
}

fn breaks_connection(error: &RedisError) -> bool {
    error.is_timeout() || error.is_io_error() || error.is_unrecoverable_error()
}

fn from_info(info: &InfoDict) -> ServerUsage {
    let number = |name: &str| info.get::<u64>(name);
    let name = |kind: &str, field: &str| {
        let version = info.get::<String>(field)?;
        Some(format!("{kind} {version}"))
    };
    let limit = number("maxmemory").filter(|&limit| limit > 0);
    let mut usage = ServerUsage::default();
    usage.name = name("valkey", "valkey_version")
        .or_else(|| name("redis", "redis_version"))
        .unwrap_or_default();
    usage.used_memory = number("used_memory");
    usage.rss = number("used_memory_rss");
    usage.peak_memory = number("used_memory_peak");
    usage.committed_memory = number("allocator_active");
    usage.memory_limit = limit.or_else(|| number("total_system_memory").filter(|&total| total > 0));
    usage.clients = number("connected_clients");
    usage.uptime_seconds = number("uptime_in_seconds");
    usage
}

fn from_stats(stats: &HashMap<String, String>) -> CacheFigures {
    let mut figures = CacheFigures::default();
    for (name, value) in stats {
        // hit_rate is not an integer, and follows from hits and misses.
        if let Ok(value) = value.parse() {
            figures.set(name, value);
        }
    }
    figures
}

/// The process whose memory a [`ServerMemory`] source reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// The server's: heap used is `used_memory`, the limit `maxmemory` or its machine's memory.
    #[default]
    Server,
    /// This process's.
    Process,
}

/// Reads a server's figures without any local tier: for programs that watch a server from outside.
#[derive(Clone, Debug)]
pub struct ServerMemory {
    server: Server,
    /// Reads this process's memory, if that is the subject.
    process: Option<ProcessSource>,
}

impl ServerMemory {
    /// Watches this server.
    pub fn new(server: Server, subject: Subject) -> Self {
        let process = match subject {
            Subject::Server => None,
            Subject::Process => Some(ProcessSource::default().server(server.reader())),
        };
        Self { server, process }
    }
}

impl Source for ServerMemory {
    fn read(&mut self, sample: &mut Sample) {
        if let Some(process) = &mut self.process {
            return process.read(sample);
        }
        sample.server = self.server.state();
        if let Some(figures) = sample.server.figures() {
            // The server reports its peak of used_memory, not of resident memory.
            sample.memory.heap_used = figures.used_memory;
            sample.memory.heap_committed = figures.committed_memory;
            sample.memory.rss = figures.rss;
            sample.memory.limit = figures.memory_limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_fractional_figures_are_left_out() {
        let stats = [
            ("entries", "3"),
            ("hit_rate", "0.5"),
            ("of_a_later_version", "9"),
        ];
        let stats = stats.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let mut expected = CacheFigures::default();
        expected.entries = 3;
        assert_eq!(from_stats(&stats), expected);
    }

    #[test]
    fn own_reads_are_not_counted_even_after_a_counter_reset() {
        let own = Own::default();
        assert_eq!(own.without(10), 10);
        own.hits.fetch_add(4, Ordering::Relaxed);
        assert_eq!(own.without(20), 16);
        own.hits.fetch_add(1, Ordering::Relaxed);
        assert_eq!(own.without(20), 16, "a counter does not go back");
        assert_eq!(own.without(3), 3);
    }

    #[test]
    fn missing_server_is_unreachable_and_its_password_not_shown() {
        let server = Server::open("redis://:secret@127.0.0.1:1/").unwrap();
        let ServerReading::Unreachable(why) = server.state() else {
            panic!("nothing listens on port 1");
        };
        assert!(!why.contains("secret"), "{why}");
        assert!(!format!("{server:?}").contains("secret"));
    }
}
