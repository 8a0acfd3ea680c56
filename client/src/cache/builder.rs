//! How a cache is to be built.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::entry::Entry;
use crate::local::LocalCache;
use crate::remote::{Error, Recent, Remote, Servers, Settings, Timeouts};

use super::Cache;
use super::codec::Json;
use super::core::Core;
use super::options::{LONGEST_TIMEOUT, Options};
use super::portions::ReplySize;
use super::report;
use super::stats::Counters;
use super::tier;

/// Settings of a [`Cache`] that is to be built: [`Cache::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder<C = Json> {
    codec: C,
    servers: Servers,
    options: Options,
}

impl CacheBuilder {
    pub(super) fn new(servers: Servers) -> Self {
        let second = Duration::from_secs(1);
        let options = Options {
            prefix: String::new(),
            name: None,
            entry: Entry::ttl(Duration::from_secs(300)),
            local_max_entries: 10_000,
            local_max_bytes: 256 << 20,
            local_ttl_max: Duration::from_secs(3600),
            stale_bound: Duration::ZERO,
            keeps_after_loss: false,
            load_timeout: Duration::from_secs(10),
            timeouts: Timeouts {
                connect: second,
                command: second,
                probe_interval: second,
                probe: second,
            },
            max_waiting_connections: 64,
            hits_interval: second,
            compress_from: None,
        };
        Self {
            codec: Json,
            servers,
            options,
        }
    }
}

impl<C> CacheBuilder<C> {
    /// Values are written and read by this codec instead of [`Json`].
    pub fn codec<D>(self, codec: D) -> CacheBuilder<D> {
        CacheBuilder {
            codec,
            servers: self.servers,
            options: self.options,
        }
    }

    /// The entry that [`Cache::entry`] begins with: TTL, grace and time-outs that most calls share. Default: a TTL of
    /// five minutes.
    pub fn default_entry(mut self, entry: Entry) -> Self {
        self.options.entry = entry;
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
        let namespace = namespace.into();
        self.options.prefix = match namespace.as_str() {
            "" => namespace,
            _ => namespace + ":",
        };
        self
    }

    /// The label `cache` of its metrics, by which several caches of one process differ. Default:
    /// the namespace.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// The most entries in the local tier. Default: 10,000. With 0 there is no local tier.
    pub fn local_max_entries(mut self, entries: usize) -> Self {
        self.options.local_max_entries = entries;
        self
    }

    /// The most bytes in the local tier. A value is taken to need twice the length of its encoding, before compression,
    /// unless [`Entry::weight`](crate::Entry::weight) states what it needs. Default: 256 MiB.
    pub fn local_max_bytes(mut self, bytes: u64) -> Self {
        self.options.local_max_bytes = bytes;
        self
    }

    /// The longest that a value stays in the local tier, also if it lives longer on the server. Default: one hour.
    pub fn local_ttl_max(mut self, ttl: Duration) -> Self {
        self.options.local_ttl_max = ttl;
        self
    }

    /// Lets values of the local tier be served for so long after they stopped being known to be right because the
    /// connection broke, or expired while it was broken; and lets values that are loaded meanwhile be served for as
    /// long. When the server is back they are dropped. Default: zero, the local tier is dropped with the connection.
    pub fn serve_stale_while_unreachable(mut self, bound: Duration) -> Self {
        self.options.stale_bound = bound;
        self
    }

    /// Keeps the entries of a server that has lost more invalidations than are remembered. A server that was started from
    /// an older dump, or promoted, is sent what was invalidated within the last one to two minutes; where its clock shows
    /// that it lacks older ones as well, the namespace is cleared (as by [`Cache::clear`]), by default. With this setting
    /// it is not: a warning event says that entries may be older than an invalidation, until they expire.
    pub fn keep_after_loss(mut self) -> Self {
        self.options.keeps_after_loss = true;
        self
    }

    /// How long a loader may take, and a caller wait for another process's loader. Default: 10 s. See
    /// [`Entry::hard_timeout`](crate::Entry::hard_timeout) for single calls.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.options.load_timeout = timeout;
        self
    }

    /// How long setting up a connection may take, twice over for the handshake. Default: 1 s. [`Self::build`] waits
    /// so long at most.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeouts.connect = timeout;
        self
    }

    /// How long a command may take, with all redirections of a cluster. Default: 1 s.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeouts.command = timeout;
        self
    }

    /// How often each connection is checked, and how long the reply may take. Default: 1 s both. Together they bound
    /// for how long the local tier trusts a connection that is dead without saying so.
    pub fn probe(mut self, interval: Duration, timeout: Duration) -> Self {
        self.options.timeouts.probe_interval = interval;
        self.options.timeouts.probe = timeout;
        self
    }

    /// The most connections to each server for waiting on other processes' loads, one for each key that is waited
    /// for. They are opened when needed. Default: 64; at least 1.
    pub fn max_waiting_connections(mut self, connections: usize) -> Self {
        self.options.max_waiting_connections = connections.max(1);
        self
    }

    /// How often hits of the local tier are reported to the server, whose counts and `CACHE.TOP` are those of the
    /// whole fleet then. Default: 1 s. With zero they are not.
    pub fn report_hits_every(mut self, interval: Duration) -> Self {
        self.options.hits_interval = interval;
        self
    }

    /// Compresses values (LZ4) whose encoding has at least so many bytes, where that makes them smaller. Who reads
    /// them needs this crate with the feature `compression`. Default: none are.
    #[cfg(feature = "compression")]
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.options.compress_from = Some(bytes);
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
        let Self {
            codec,
            servers,
            mut options,
        } = self;
        let timeouts = &mut options.timeouts;
        let mut all = [
            &mut timeouts.connect,
            &mut timeouts.command,
            &mut timeouts.probe,
            &mut timeouts.probe_interval,
            &mut options.load_timeout,
        ];
        if all.iter().any(|timeout| timeout.is_zero()) {
            return Err(Error::config(
                "a time-out of zero would let nothing succeed",
            ));
        }
        for timeout in &mut all {
            **timeout = (**timeout).min(LONGEST_TIMEOUT);
        }
        let timeouts = options.timeouts;
        let local = LocalCache::builder()
            .max_entries(options.local_max_entries)
            .max_bytes(options.local_max_bytes)
            .report_hits(!options.hits_interval.is_zero())
            .build();
        let counters = Arc::new(Counters::default());
        let remote = Settings {
            timeouts,
            max_waiting_connections: options.max_waiting_connections,
            keeps_after_loss: options.keeps_after_loss,
            listener: tier::listener(local.clone(), Arc::clone(&counters), &options),
            recent: Arc::new(Mutex::new(Recent::new(options.prefix.clone()))),
            map_changed: Arc::default(),
        };
        let core = Arc::new(Core {
            local,
            remote: Remote::start(&servers, remote)?,
            options,
            counters,
            loading: Arc::new(()),
            reply_size: ReplySize::default(),
        });
        report::start(&core);
        core.remote.attempted(timeouts.connect).await;
        Ok(Cache { core, codec })
    }
}
