//! Nodes of a cluster.

use std::path::Path;

use crate::builder::{ServerBuilder, module_path};
use crate::engine::Engine;
use crate::process::free_port;
use crate::reply::Reply;
use crate::resp::RawClient;
use crate::server::Server;
use crate::wait::{DEADLINE, wait_until};
use crate::{args, call};

/// A node that is in no cluster yet.
pub fn node(engine: &Engine) -> Server {
    builder(engine).start()
}

/// A node to be configured further.
pub fn builder(engine: &Engine) -> ServerBuilder {
    // The default, port + 10000, is out of range for most free ports.
    let bus = free_port().to_string();
    Server::builder()
        .engine(engine)
        .arg("--cluster-enabled", "yes")
        .arg("--cluster-port", &bus)
        .arg("--cluster-require-full-coverage", "no")
        // A node that loses its last slot does not become a replica.
        .arg("--cluster-allow-replica-migration", "no")
}

/// A field of CLUSTER INFO.
///
/// # Panics
/// Panics if there is no such field.
pub fn info_of_cluster(client: &mut RawClient, field: &str) -> String {
    let text = call!(client, "CLUSTER", "INFO").text();
    let found = text.lines().find_map(|line| {
        line.strip_prefix(field)?
            .strip_prefix(':')
            .map(str::to_owned)
    });
    found.unwrap_or_else(|| panic!("no {field} in CLUSTER INFO: {text}"))
}

/// Two nodes that know each other, all slots on the first.
///
/// # Panics
/// Panics if the nodes do not find each other in time.
pub fn pair(engine: &Engine) -> (Server, Server) {
    let (first, second) = (node(engine), node(engine));
    join(&first, &second);
    (first, second)
}

/// Gives all slots to the first node and makes it known to the second.
///
/// # Panics
/// Panics if the nodes do not find each other in time.
pub fn join(first: &Server, second: &Server) {
    let (mut here, mut there) = (first.raw(), second.raw());
    assert_eq!(
        call!(here, "CLUSTER", "ADDSLOTSRANGE", 0, 16_383),
        Reply::ok()
    );
    let (_, bus) = addresses(&mut there);
    assert_eq!(
        call!(here, "CLUSTER", "MEET", "127.0.0.1", second.port(), bus),
        Reply::ok()
    );
    for client in [&mut here, &mut there] {
        wait_until("the nodes know each other", DEADLINE, || {
            info_of_cluster(client, "cluster_known_nodes") == "2"
                && info_of_cluster(client, "cluster_state") == "ok"
        });
    }
}

/// Makes a new node known to some nodes of a cluster, and these to it. A node that was met but has not replied yet is
/// not known: its reports of others, such as a failure, are ignored.
///
/// # Panics
/// Panics if that does not happen in time.
pub fn meet(new: &Server, others: &[&Server]) {
    let mut there = new.raw();
    let (new_id, bus) = addresses(&mut there);
    let meet = args!["CLUSTER", "MEET", "127.0.0.1", new.port(), bus];
    assert_eq!(others[0].raw().call(&meet), Reply::ok());
    for node in others {
        let mut client = node.raw();
        let (id, _) = addresses(&mut client);
        wait_until("the nodes know each other", DEADLINE, || {
            knows(&mut client, &new_id) && knows(&mut there, &id)
        });
    }
}

/// Makes a new node a replica of a node in a cluster, and waits until every node knows it as one.
///
/// # Panics
/// Panics if that does not happen in time.
pub fn add_replica(primary: &Server, replica: &Server, others: &[&Server]) {
    let all: Vec<&Server> = [primary].iter().chain(others).copied().collect();
    meet(replica, &all);
    let (mut here, mut there) = (primary.raw(), replica.raw());
    let (id, _) = addresses(&mut here);
    let (replica_id, _) = addresses(&mut there);
    assert_eq!(call!(there, "CLUSTER", "REPLICATE", id), Reply::ok());
    wait_until("the replica follows", DEADLINE, || {
        call!(there, "INFO", "replication")
            .text()
            .contains("master_link_status:up")
    });
    // A replica that took over earlier would own no slots.
    wait_until("the replica knows whose the slots are", DEADLINE, || {
        let assigned = info_of_cluster(&mut here, "cluster_slots_assigned");
        info_of_cluster(&mut there, "cluster_slots_assigned") == assigned
    });
    for node in all {
        let mut client = node.raw();
        wait_until("all know the replica as one", DEADLINE, || {
            let nodes = call!(client, "CLUSTER", "NODES").text();
            nodes
                .lines()
                .any(|line| line.starts_with(&replica_id) && line.contains("slave"))
        });
    }
}

/// Whether a node knows the node with this id.
pub fn knows(client: &mut RawClient, id: &str) -> bool {
    let nodes = call!(client, "CLUSTER", "NODES").text();
    let mut lines = nodes.lines();
    lines.any(|line| line.starts_with(id) && !line.contains("handshake"))
}

/// The id and the bus port of a node.
///
/// # Panics
/// Panics if the node does not report them.
pub fn addresses(client: &mut RawClient) -> (String, String) {
    let id = call!(client, "CLUSTER", "MYID").text();
    let bus = call!(client, "CONFIG", "GET", "cluster-port")
        .field("cluster-port")
        .text();
    (id, bus)
}

/// Nodes that know each other; the first `primaries` of them share the slots, the others have none.
///
/// # Panics
/// Panics if the nodes do not find each other in time.
pub fn nodes(engine: &Engine, nodes: usize, primaries: usize) -> Vec<Server> {
    nodes_with(engine, &module_path(), nodes, primaries)
}

/// The same with another module.
///
/// # Panics
/// Panics if the nodes do not find each other in time.
pub fn nodes_with(engine: &Engine, module: &Path, nodes: usize, primaries: usize) -> Vec<Server> {
    let start = |_| {
        builder(engine)
            .module(module)
            .arg("--cluster-node-timeout", "2000")
            .start()
    };
    let servers: Vec<Server> = (0..nodes).map(start).collect();
    let share = 16_384 / primaries;
    for (n, server) in servers.iter().enumerate() {
        let mut client = server.raw();
        if n < primaries {
            let last = if n + 1 == primaries {
                16_383
            } else {
                (n + 1) * share - 1
            };
            let added = call!(client, "CLUSTER", "ADDSLOTSRANGE", n * share, last);
            assert_eq!(added, Reply::ok());
        }
        call!(client, "CLUSTER", "SET-CONFIG-EPOCH", n + 1);
    }
    let mut first = servers[0].raw();
    for server in &servers[1..] {
        let (_, bus) = addresses(&mut server.raw());
        let meet = args!["CLUSTER", "MEET", "127.0.0.1", server.port(), bus];
        assert_eq!(first.call(&meet), Reply::ok());
    }
    let count = nodes.to_string();
    for server in &servers {
        let mut client = server.raw();
        wait_until("the nodes know each other", DEADLINE, || {
            // Leases end when the epoch changes.
            let expected = [
                ("cluster_known_nodes", count.as_str()),
                ("cluster_current_epoch", &count),
                ("cluster_slots_ok", "16384"),
                ("cluster_state", "ok"),
            ];
            let mut all = expected.into_iter();
            all.all(|(field, value)| info_of_cluster(&mut client, field) == value)
        });
    }
    servers
}
