//! The servers of a run, and their current roles.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tagcache_tests::clock::Clock;
use tagcache_tests::cluster::{add_replica, nodes_with};
use tagcache_tests::proxy::{Proxy, Rewrite};
use tagcache_tests::sentinel::Sentinel;
use tagcache_tests::state::wait_synchronised;
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, ServerBuilder, args, call, module_path, wait_until,
};
use tokio::runtime::Runtime;

use crate::log::{Time, now};

/// An older build of the module, for servers that change to the present one while they serve.
pub(crate) fn old_module() -> Option<PathBuf> {
    std::env::var_os("TAGCACHE_MODULE_OLD").map(PathBuf::from)
}

fn first_module() -> PathBuf {
    old_module().unwrap_or_else(module_path)
}

/// The proxy and its runtime.
struct Network {
    proxy: Proxy,
    _runtime: Runtime,
}

pub(crate) struct Site {
    pub(crate) engine: Engine,
    /// A cluster's primaries come first; the fourth node is the replica of one of them.
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinel: Option<Sentinel>,
    pub(crate) clock: Option<Clock>,
    /// The start of the last complete snapshot.
    pub(crate) saved: Time,
    network: Option<Network>,
}

impl Site {
    fn of(engine: &Engine, servers: Vec<Server>) -> Self {
        Self {
            engine: engine.clone(),
            servers,
            sentinel: None,
            clock: None,
            saved: now(),
            network: None,
        }
    }

    /// One server behind a proxy.
    pub(crate) fn single(engine: &Engine, builder: ServerBuilder, rewrite: Rewrite) -> Self {
        let server = builder.engine(engine).start();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let proxy = runtime.block_on(Proxy::rewriting(server.port(), rewrite));
        let network = Network {
            proxy,
            _runtime: runtime,
        };
        Self {
            network: Some(network),
            ..Self::of(engine, vec![server])
        }
    }

    /// One server whose clock can be set. `None` where there is no compiler.
    pub(crate) fn timed(engine: &Engine, builder: ServerBuilder) -> Option<Self> {
        let clock = Clock::new()?;
        let site = Self::single(engine, clock.of(builder), Rewrite::default());
        Some(Self {
            clock: Some(clock),
            ..site
        })
    }

    /// A primary with a replica, and a sentinel.
    pub(crate) fn watched(engine: &Engine) -> Self {
        Self::watched_with(engine, &module_path())
    }

    /// The same with an older module, where there is one.
    pub(crate) fn upgradable(engine: &Engine) -> Self {
        Self::watched_with(engine, &first_module())
    }

    fn watched_with(engine: &Engine, module: &Path) -> Self {
        let builder = || Server::builder().engine(engine).module(module);
        let primary = builder().start();
        let replica = builder().replica_of(&primary).start();
        wait_synchronised(&primary, &replica);
        let sentinel = Sentinel::watching(engine, primary.port());
        let site = Self {
            sentinel: Some(sentinel),
            ..Self::of(engine, vec![primary, replica])
        };
        // A busy machine is no reason for a failover.
        call!(
            site.sentinel().raw(),
            "SENTINEL",
            "SET",
            "cache",
            "down-after-milliseconds",
            1500
        );
        site.wait_for_replicas(1);
        site
    }

    /// Three primaries, and a replica of the first.
    pub(crate) fn cluster(engine: &Engine) -> Self {
        Self::cluster_with(engine, &module_path())
    }

    /// The same with an older module, where there is one.
    pub(crate) fn upgradable_cluster(engine: &Engine) -> Self {
        Self::cluster_with(engine, &first_module())
    }

    fn cluster_with(engine: &Engine, module: &Path) -> Self {
        let mut servers = nodes_with(engine, module, 3, 3);
        let replica = tagcache_tests::cluster::builder(engine)
            .module(module)
            .arg("--cluster-node-timeout", "2000")
            .start();
        add_replica(&servers[0], &replica, &[&servers[1], &servers[2]]);
        servers.push(replica);
        // A busy machine is no reason for a failover.
        for server in &servers {
            call!(server.raw(), "CONFIG", "SET", "cluster-node-timeout", 5000);
        }
        Self::of(engine, servers)
    }

    /// The address that the processes of the fleet get.
    pub(crate) fn address(&self) -> String {
        if let Some(sentinel) = &self.sentinel {
            return format!("sentinel:{}", sentinel.port());
        }
        if let Some(network) = &self.network {
            return format!("single:{}", network.proxy.port());
        }
        let ports: Vec<String> = self
            .servers
            .iter()
            .map(|server| server.port().to_string())
            .collect();
        format!("cluster:{}", ports.join(","))
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self
            .network
            .as_ref()
            .expect("a single server has a proxy")
            .proxy
    }

    pub(crate) fn sentinel(&self) -> &Sentinel {
        self.sentinel.as_ref().expect("a watched site")
    }

    /// The place of the primary that the sentinel names.
    pub(crate) fn named(&self) -> Option<usize> {
        let address = call!(
            self.sentinel().raw(),
            "SENTINEL",
            "GET-MASTER-ADDR-BY-NAME",
            "cache"
        );
        let port = address.items()[1].int();
        self.servers
            .iter()
            .position(|server| i64::from(server.port()) == port)
    }

    /// Waits until the sentinel knows this many replicas that it could promote.
    pub(crate) fn wait_for_replicas(&self, count: usize) {
        let mut asked = self.sentinel().raw();
        wait_until("the sentinel knows the replicas", DEADLINE, || {
            let known = call!(asked, "SENTINEL", "REPLICAS", "cache");
            let flags = known
                .items()
                .iter()
                .map(|replica| replica.field("flags").text());
            flags.filter(|flags| flags == "slave").count() >= count
        });
    }

    /// Waits until the sentinel names one of the two as primary, that one is a primary, and the other one follows. A
    /// sentinel that sees the primary go down again and again reconfigures no server: after a while the operator does.
    pub(crate) fn settle(&self) -> (usize, usize) {
        const LONGEST: Duration = Duration::from_secs(12);
        let mut asked = Instant::now();
        let mut roles = (0, 1);
        wait_until("one follows the other", DEADLINE * 3, || {
            let Some(primary) = self.named() else {
                return false;
            };
            roles = (primary, 1 - primary);
            if asked.elapsed() > LONGEST {
                asked = Instant::now();
                let port = self.servers[primary].port().to_string();
                let _ = ask(
                    &self.servers[1 - primary],
                    &["REPLICAOF", "127.0.0.1", &port],
                );
            }
            self.is_primary(primary) && follows(&self.servers[1 - primary])
        });
        roles
    }

    pub(crate) fn is_primary(&self, server: usize) -> bool {
        let role = ask(&self.servers[server], &["ROLE"]);
        role.is_ok_and(|role| role.items()[0].text() == "master")
    }

    /// The node that owns a slot, and the last slot from there on that it owns.
    pub(crate) fn owner(&self, slot: i64) -> (usize, i64) {
        let slots = call!(self.servers[1].raw(), "CLUSTER", "SLOTS");
        self.owner_in(&slots, slot)
            .expect("every slot has an owner")
    }

    fn owner_in(&self, slots: &Reply, slot: i64) -> Option<(usize, i64)> {
        let mut ranges = slots.items().iter();
        let range = ranges.find(|range| {
            let range = range.items();
            range[0].int() <= slot && slot <= range[1].int()
        });
        let range = range?.items();
        let (last, port) = (range[1].int(), range[2].items()[1].int());
        let mut servers = self.servers.iter();
        let owner = servers.position(|server| i64::from(server.port()) == port);
        owner.map(|owner| (owner, last))
    }

    /// Waits until every node knows the owner of a slot: a node that takes over earlier leaves the slot without an
    /// owner.
    pub(crate) fn wait_known(&self, slot: i64, owner: usize) {
        for server in &self.servers {
            wait_until("the owner of the slot is known", DEADLINE, || {
                let slots = call!(server.raw(), "CLUSTER", "SLOTS");
                self.owner_in(&slots, slot)
                    .is_some_and(|known| known.0 == owner)
            });
        }
    }
}

/// Sends a command through a new connection: a server that changes its role closes existing ones.
fn ask(server: &Server, words: &[&str]) -> std::io::Result<Reply> {
    RawClient::connect(server.port())?.try_call(words)
}

/// Whether a server follows another one and has all of it.
pub(crate) fn follows(server: &Server) -> bool {
    ask(server, &["INFO", "replication"]).is_ok_and(|info| {
        let info = info.text();
        info.contains("role:slave") && info.contains("master_link_status:up")
    })
}

/// Moves a slot, key by key; `others` are the other primaries. May be tried again after a failure.
///
/// # Errors
/// Returns an error if a connection ends.
pub(crate) fn move_slot(
    from: &Server,
    to: &Server,
    others: &[&Server],
    slot: i64,
) -> std::io::Result<()> {
    let (mut here, mut there) = (
        RawClient::connect(from.port())?,
        RawClient::connect(to.port())?,
    );
    let id = |client: &mut RawClient| Ok(client.try_call(&["CLUSTER", "MYID"])?.text());
    let (from_id, to_id): (std::io::Result<String>, std::io::Result<String>) =
        (id(&mut here), id(&mut there));
    let (from_id, to_id) = (from_id?, to_id?);
    // Each node must have received the other's role.
    let mut replies = [Reply::Null, Reply::Null];
    let ready = until(|| {
        replies = [
            there.try_call(&args!["CLUSTER", "SETSLOT", slot, "IMPORTING", from_id])?,
            here.try_call(&args!["CLUSTER", "SETSLOT", slot, "MIGRATING", to_id])?,
        ];
        Ok(replies.iter().all(|reply| *reply == Reply::ok()))
    })?;
    assert!(ready, "slot {slot} may not move: {replies:?}");
    loop {
        let keys = here.try_call(&args!["CLUSTER", "GETKEYSINSLOT", slot, 10])?;
        if keys.items().is_empty() {
            break;
        }
        // Replaces keys that a failed attempt has left at the target.
        let mut words = args![
            "MIGRATE",
            "127.0.0.1",
            to.port(),
            "",
            0,
            5000,
            "REPLACE",
            "KEYS"
        ];
        words.extend(keys.items().iter().map(|key| key.bytes().to_vec()));
        let moved = here.try_call(&words)?;
        if moved.is_error() {
            return Err(std::io::Error::other(format!("{moved:?}")));
        }
    }
    for node in [to, from].iter().chain(others) {
        let mut client = RawClient::connect(node.port())?;
        let is_assigned = until(|| {
            Ok(client.try_call(&args!["CLUSTER", "SETSLOT", slot, "NODE", to_id])? == Reply::ok())
        })?;
        assert!(is_assigned, "the slot has moved");
    }
    Ok(())
}

fn until(mut holds: impl FnMut() -> std::io::Result<bool>) -> std::io::Result<bool> {
    let start = Instant::now();
    while !holds()? {
        if start.elapsed() > DEADLINE {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

/// Whether the server moves slots as a whole.
pub(crate) fn moves_slots(engine: &Engine) -> bool {
    let since = if engine.is_valkey() { (9, 0) } else { (8, 4) };
    engine.version() >= since
}

/// Begins to move slots as a whole.
///
/// # Errors
/// Returns an error if a connection ends.
pub(crate) fn start_migration(
    from: &Server,
    to: &Server,
    first: i64,
    last: i64,
) -> std::io::Result<Reply> {
    let (mut here, mut there) = (
        RawClient::connect(from.port())?,
        RawClient::connect(to.port())?,
    );
    if from.engine().is_valkey() {
        let id = there.try_call(&["CLUSTER", "MYID"])?.text();
        here.try_call(&args![
            "CLUSTER",
            "MIGRATESLOTS",
            "SLOTSRANGE",
            first,
            last,
            "NODE",
            id
        ])
    } else {
        there.try_call(&args!["CLUSTER", "MIGRATION", "IMPORT", first, last])
    }
}

/// A server command that survives the signal for exceeding the file limit, and gets an error instead.
pub(crate) fn with_quota(engine: &Engine) -> Engine {
    Engine {
        name: engine.name.clone(),
        command: format!("env --ignore-signal=SIGXFSZ {}", engine.command),
    }
}

/// Sets the largest file that a server of [`with_quota`] may write; it may be raised again.
pub(crate) fn limit_files(server: &Server, size: &str) {
    let limited = Command::new("prlimit")
        .args([
            "--pid",
            &server.pid().to_string(),
            &format!("--fsize={size}:unlimited"),
        ])
        .status();
    assert!(
        limited.is_ok_and(|status| status.success()),
        "prlimit of a child of ours"
    );
}
