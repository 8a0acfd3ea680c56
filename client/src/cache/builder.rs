//! How a cache is to be built.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::entry::Entry;
use crate::remote::{Error, Remote, Servers, Settings, Timeouts};

use super::Cache;
use super::codec::Json;
use super::core::{Core, Options};
use super::frame::Compression;
use super::options::LONGEST_TIMEOUT;
use super::portions::ReplySize;
use super::report;
use super::stats::Counters;
use super::tier::{Local, Pushes, WhenLost};

/// Settings of a [`Cache`] that is to be built: [`Cache::builder`].
///
/// ```no_run
/// use std::time::Duration;
/// use tagcache::{Cache, Servers};
///
/// # async fn run() -> Result<(), tagcache::Error> {
/// let cache = Cache::builder(Servers::cluster(["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"]))
///     .namespace("shop")
///     .local_max_entries(100_000)
///     .local_max_bytes(64 << 20)
///     .command_timeout(Duration::from_millis(250))
///     .serve_stale_while_unreachable(Duration::from_secs(60))
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder<C = Json> {
    codec: C,
    settings: Choices,
}

#[derive(Clone, Debug)]
struct Choices {
    servers: Servers,
    entry: Entry,
    namespace: String,
    name: Option<String>,
    local_max_entries: usize,
    local_max_bytes: u64,
    local_ttl_max: Duration,
    stale_bound: Duration,
    load_timeout: Duration,
    timeouts: Timeouts,
    max_waiting_connections: usize,
    hits_interval: Duration,
    compression: Compression,
}

impl CacheBuilder {
    pub(super) fn new(servers: Servers) -> Self {
        let settings = Choices {
            servers,
            entry: Entry::ttl(Duration::from_secs(300)),
            namespace: String::new(),
            name: None,
            local_max_entries: 10_000,
            local_max_bytes: 256 << 20,
            local_ttl_max: Duration::from_secs(3600),
            stale_bound: Duration::ZERO,
            load_timeout: Duration::from_secs(10),
            timeouts: Timeouts {
                connect: Duration::from_secs(1),
                command: Duration::from_secs(1),
                probe_interval: Duration::from_secs(1),
                probe: Duration::from_secs(1),
            },
            max_waiting_connections: 64,
            hits_interval: Duration::from_secs(1),
            compression: Compression::Off,
        };
        Self {
            codec: Json,
            settings,
        }
    }
}

impl<C> CacheBuilder<C> {
    /// Values are written and read by this codec instead of [`Json`].
    pub fn codec<D>(self, codec: D) -> CacheBuilder<D> {
        CacheBuilder {
            codec,
            settings: self.settings,
        }
    }

    /// The entry that [`Cache::entry`] begins with: TTL, grace and time-outs that most calls share. Default: a TTL of
    /// five minutes.
    pub fn default_entry(mut self, entry: Entry) -> Self {
        self.settings.entry = entry;
        self
    }

    /// Puts keys and tags under a prefix of their own: with `shop`, the key `user:1` is `shop:user:1` on the server
    /// and the tag `users` is `shop:users`. Each entry then also carries the tag `shop:`, by which
    /// [`Cache::clear`] drops this namespace and nothing else, so that one tag fewer is left to it. Default: none.
    ///
    /// Two namespaces share nothing unless one is the beginning of the other, up to a colon: the key `eu:1` in
    /// `shop` is the key `1` in `shop:eu`, though `clear` of neither drops the other's entries. To change a type in
    /// a deployment that runs beside the old one, change the namespace too (`shop-2`); otherwise both load and
    /// replace each other's values.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.settings.namespace = namespace.into();
        self
    }

    /// The label `cache` of its metrics, by which several caches of one process differ. Default:
    /// the namespace.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// The most entries in the local tier. Default: 10,000. With 0 there is no local tier.
    pub fn local_max_entries(mut self, entries: usize) -> Self {
        self.settings.local_max_entries = entries;
        self
    }

    /// The most bytes in the local tier. A value is taken to need twice the length of its encoding, before compression,
    /// unless [`Entry::weight`](crate::Entry::weight) states what it needs. Default: 256 MiB.
    pub fn local_max_bytes(mut self, bytes: u64) -> Self {
        self.settings.local_max_bytes = bytes;
        self
    }

    /// The longest that a value stays in the local tier, also if it lives longer on the server. Default: one hour.
    pub fn local_ttl_max(mut self, ttl: Duration) -> Self {
        self.settings.local_ttl_max = ttl;
        self
    }

    /// Lets values of the local tier be served for so long after they stopped being known to be right because the
    /// connection broke, or expired while it was broken; and lets values that are loaded meanwhile be served for as
    /// long. When the server is back they are dropped. Default: zero, the local tier is dropped with the connection.
    pub fn serve_stale_while_unreachable(mut self, bound: Duration) -> Self {
        self.settings.stale_bound = bound;
        self
    }

    /// How long a loader may take, and a caller wait for another process's loader. Default: 10 s. See
    /// [`Entry::hard_timeout`](crate::Entry::hard_timeout) for single calls.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.settings.load_timeout = timeout;
        self
    }

    /// How long setting up a connection may take, twice over for the handshake. Default: 1 s. [`Self::build`] waits
    /// so long at most.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeouts.connect = timeout;
        self
    }

    /// How long a command may take, with all redirections of a cluster. Default: 1 s.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeouts.command = timeout;
        self
    }

    /// How often each connection is checked, and how long the answer may take. Default: 1 s both. Together they bound
    /// for how long the local tier trusts a connection that is dead without saying so.
    pub fn probe(mut self, interval: Duration, timeout: Duration) -> Self {
        self.settings.timeouts.probe_interval = interval;
        self.settings.timeouts.probe = timeout;
        self
    }

    /// The most connections to each server for waiting on other processes' loads, one for each key that is waited
    /// for. They are opened when needed. Default: 64; at least 1.
    pub fn max_waiting_connections(mut self, connections: usize) -> Self {
        self.settings.max_waiting_connections = connections.max(1);
        self
    }

    /// How often hits of the local tier are reported to the server, whose counts and `CACHE.TOP` are those of the
    /// whole fleet then. Default: 1 s. With zero they are not.
    pub fn report_hits_every(mut self, interval: Duration) -> Self {
        self.settings.hits_interval = interval;
        self
    }

    /// Compresses values (LZ4) whose encoding has at least so many bytes, where that makes them smaller. Who reads
    /// them needs this crate with the feature `compression`. Default: none are.
    #[cfg(feature = "compression")]
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.settings.compression = Compression::From(bytes);
        self
    }

    /// Starts to connect, and waits until each server has been tried once, but no longer than the connect time-out.
    ///
    /// That no server can be reached is no error: the cache goes on without it, and with it as soon as it is there.
    /// [`Cache::ready`] says whether it is.
    ///
    /// # Errors
    /// [`Error::Config`] when a setting cannot work, such as an address that is none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn build(self) -> Result<Cache<C>, Error> {
        let Self { codec, settings } = self;
        let bounded = |timeout: Duration| timeout.min(LONGEST_TIMEOUT);
        let timeouts = Timeouts {
            connect: bounded(settings.timeouts.connect),
            command: bounded(settings.timeouts.command),
            probe_interval: bounded(settings.timeouts.probe_interval),
            probe: bounded(settings.timeouts.probe),
        };
        let zero = [
            timeouts.connect,
            timeouts.command,
            timeouts.probe,
            timeouts.probe_interval,
            settings.load_timeout,
        ]
        .iter()
        .any(Duration::is_zero);
        if zero {
            let message = "a time-out of zero would let nothing succeed".to_owned();
            return Err(Error::Config { message });
        }
        let prefix = if settings.namespace.is_empty() {
            String::new()
        } else {
            format!("{}:", settings.namespace)
        };
        let when_lost = if settings.stale_bound.is_zero() {
            WhenLost::Drop
        } else {
            WhenLost::KeepStale(settings.stale_bound)
        };
        let local = Local::new(
            settings.local_max_entries,
            settings.local_max_bytes,
            when_lost,
        );
        let local = Arc::new(local);
        let counters = Arc::new(Counters::default());
        let listener = Arc::new(Pushes {
            local: Arc::clone(&local),
            prefix: prefix.clone(),
            counters: Arc::clone(&counters),
        });
        let remote = Settings {
            timeouts,
            max_waiting_connections: settings.max_waiting_connections,
            listener,
            prefix: prefix.clone(),
            map_changed: Arc::default(),
            tokens: Arc::new(AtomicBool::new(true)),
        };
        let core = Arc::new(Core {
            local,
            remote: Remote::start(&settings.servers, remote)?,
            options: Options {
                prefix,
                entry: settings.entry,
                compression: settings.compression,
                local_ttl_max: settings.local_ttl_max,
                stale_bound: settings.stale_bound,
                load_timeout: settings.load_timeout,
                command_timeout: timeouts.command,
                hits_interval: settings.hits_interval,
                name: settings.name.unwrap_or(settings.namespace),
            },
            counters,
            loading: Arc::new(()),
            reply_size: ReplySize::default(),
        });
        report::start(&core);
        core.remote.attempted(timeouts.connect).await;
        Ok(Cache { core, codec })
    }
}
