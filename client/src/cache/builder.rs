//! The settings of a cache, and building it.

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

/// Settings of a [`Cache`] that is to be built; [`Cache::builder`] creates them.
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
    /// Writes and reads values with this codec instead of [`Json`].
    pub fn codec<D>(self, codec: D) -> CacheBuilder<D> {
        CacheBuilder {
            codec,
            servers: self.servers,
            options: self.options,
        }
    }

    /// The entry that [`Cache::entry`] returns, with settings that most calls share. Default: a TTL of five minutes.
    pub fn default_entry(mut self, entry: Entry) -> Self {
        self.options.entry = entry;
        self
    }

    /// Puts keys and tags under a prefix of their own: with `shop`, the key `user:1` is `shop:user:1` on the server and
    /// the tag `users` is `shop:users`. Each entry then also carries the tag `shop:`, so it can have one tag fewer of
    /// its own; by that tag [`Cache::clear`] drops this namespace and nothing else. Default: none.
    ///
    /// Two namespaces share nothing unless one is the beginning of the other, up to a colon: the key `eu:1` in `shop`
    /// is the key `1` in `shop:eu`, though `clear` in one does not drop the other's entries. If a new deployment
    /// changes a type while the old one still runs, change the namespace too (`shop-2`); otherwise each loads and
    /// replaces the other's values.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        let namespace = namespace.into();
        self.options.prefix = match namespace.as_str() {
            "" => namespace,
            _ => namespace + ":",
        };
        self
    }

    /// The label `cache` of its metrics, which distinguishes several caches of one process. Default: the namespace.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// The most entries in the local tier. Default: 10,000. With 0 there is no local tier.
    pub fn local_max_entries(mut self, entries: usize) -> Self {
        self.options.local_max_entries = entries;
        self
    }

    /// The most bytes in the local tier. A value counts as twice the length of its encoding, before compression, unless
    /// [`Entry::weight`](crate::Entry::weight) states its weight. Default: 256 MiB.
    pub fn local_max_bytes(mut self, bytes: u64) -> Self {
        self.options.local_max_bytes = bytes;
        self
    }

    /// The longest time that a value stays in the local tier, even if it lives longer on the server. Default: one hour.
    pub fn local_ttl_max(mut self, ttl: Duration) -> Self {
        self.options.local_ttl_max = ttl;
        self
    }

    /// Serves values of the local tier for up to `bound` after the connection breaks or, if they expire while it is
    /// broken, after they expire. Values that are loaded meanwhile are served for the same time. When the server is
    /// back, all of them are dropped. Default: zero, so the local tier is dropped with the connection.
    pub fn serve_stale_while_unreachable(mut self, bound: Duration) -> Self {
        self.options.stale_bound = bound;
        self
    }

    /// Keeps the entries of a server that lost older invalidations than the client remembers. A server that was started
    /// from an older dump, or promoted, is sent the invalidations of the last one to two minutes. If its clock shows
    /// that it lacks older ones as well, the default is to clear the namespace (as by [`Cache::clear`]). With this
    /// setting it is kept: a warning event reports that entries may be older than an invalidation, until they expire.
    pub fn keep_after_loss(mut self) -> Self {
        self.options.keeps_after_loss = true;
        self
    }

    /// How long a loader may take, and how long a caller waits for another process's loader. Default: 10 s.
    /// [`Entry::hard_timeout`](crate::Entry::hard_timeout) sets it for single calls.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.options.load_timeout = timeout;
        self
    }

    /// How long opening a connection may take; with the handshake, at most twice this time. Default: 1 s.
    /// [`Self::build`] waits for at most this time.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeouts.connect = timeout;
        self
    }

    /// How long a command may take, with all redirections of a cluster. Default: 1 s.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeouts.command = timeout;
        self
    }

    /// How often each connection is probed, and how long the reply may take. Default: 1 s for both. Together they bound
    /// how long the local tier trusts a connection that is dead but has not reported an error.
    pub fn probe(mut self, interval: Duration, timeout: Duration) -> Self {
        self.options.timeouts.probe_interval = interval;
        self.options.timeouts.probe = timeout;
        self
    }

    /// The most connections per server for waiting on other processes' loads, one for each key that is waited for. They
    /// are opened when needed. Default: 64; at least 1.
    pub fn max_waiting_connections(mut self, connections: usize) -> Self {
        self.options.max_waiting_connections = connections.max(1);
        self
    }

    /// How often hits of the local tier are reported to the server, so that its counts and `CACHE.TOP` cover the whole
    /// fleet. Default: 1 s. With zero, hits are not reported.
    pub fn report_hits_every(mut self, interval: Duration) -> Self {
        self.options.hits_interval = interval;
        self
    }

    /// Compresses values (LZ4) whose encoding has at least this many bytes, if that makes them smaller. Processes that
    /// read them need this crate with the feature `compression`. Default: no compression.
    #[cfg(feature = "compression")]
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.options.compress_from = Some(bytes);
        self
    }

    /// Starts connecting, and waits until each server has been tried once, but no longer than the connect time-out.
    ///
    /// A server that cannot be reached is no error: the cache works without it, and uses it as soon as it can be
    /// reached. [`Cache::ready`] reports whether all servers are connected.
    ///
    /// # Errors
    /// [`Error::Config`] when a setting cannot work, such as an invalid address.
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
