//! `__cache@<db>__:invalidate`: one message for each command that invalidates.

use std::collections::BTreeSet;

use tagcache_tests::look::stat;
use tagcache_tests::state::{replicated, wait_synchronised};
use tagcache_tests::{
    DEADLINE, Engine, RawClient, Reply, Server, args, call, for_all_engines, for_each_engine,
    free_port, on_both_protocols, wait_until,
};

use crate::{message, subscribe};

/// A parsed message.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    database: u32,
    kind: u8,
    clock: u64,
    tags: Vec<Vec<u8>>,
}

fn parse(channel: &str, payload: &[u8]) -> Message {
    let database = channel
        .strip_prefix("__cache@")
        .and_then(|rest| rest.strip_suffix("__:invalidate"))
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("not the channel: {channel}"));
    let shown = payload.escape_ascii();
    let [2, kind, rest @ ..] = payload else {
        panic!("not version 2: {shown}")
    };
    let (_node, rest): (&[u8; 8], _) = rest.split_first_chunk().expect("a node of 8 bytes");
    let (clock, mut rest) = rest.split_first_chunk().expect("a clock of 8 bytes");
    let mut tags = Vec::new();
    while !rest.is_empty() {
        let (len, more) = rest.split_first_chunk().expect("a length of 4 bytes");
        let (tag, more) = more
            .split_at_checked(u32::from_be_bytes(*len) as usize)
            .unwrap_or_else(|| panic!("a tag is cut off: {shown}"));
        tags.push(tag.to_vec());
        rest = more;
    }
    Message {
        database,
        kind: *kind,
        clock: u64::from_be_bytes(*clock),
        tags,
    }
}

fn next(subscriber: &mut RawClient) -> Message {
    let (channel, payload) = message(subscriber);
    parse(&channel, &payload)
}

fn expected(database: u32, kind: u8, clock: u64, tags: &[&[u8]]) -> Message {
    let tags = tags.iter().map(|tag| tag.to_vec()).collect();
    Message {
        database,
        kind,
        clock,
        tags,
    }
}

fn subscribed(server: &Server) -> RawClient {
    let mut subscriber = server.raw().resp3();
    subscribe(&mut subscriber, "__cache@*__:invalidate");
    subscriber
}

/// The node's lineage in the reply of CACHE.CLOCK.
fn lineage(client: &mut RawClient) -> u64 {
    let clock = call!(client, "CACHE.CLOCK");
    u64::from_str_radix(&clock.items()[0].text(), 16).expect("a hexadecimal number")
}

#[test]
fn each_kind_of_message_has_the_documented_bytes() {
    for_all_engines(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut subscriber = subscribed(&server);
        let mut client = server.raw();
        call!(client, "CACHE.INVALIDATE", "a", b"\0\xff");
        let (channel, payload) = message(&mut subscriber);
        assert_eq!(channel, "__cache@0__:invalidate");
        let start = |kind: u8| [&[2, kind][..], &lineage(&mut server.raw()).to_be_bytes()].concat();
        let rest = b"\0\0\0\0\0\0\0\x01\0\0\0\x01a\0\0\0\x02\0\xff";
        let expected = [&start(b'I')[..], rest].concat();
        assert_eq!(
            payload.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        call!(client, "SELECT", 7);
        call!(client, "CACHE.REVALIDATE", "b");
        let (channel, payload) = message(&mut subscriber);
        assert_eq!(channel, "__cache@7__:invalidate");
        assert_eq!(
            payload,
            [&start(b'R')[..], b"\0\0\0\0\0\0\0\x01\0\0\0\x01b"].concat()
        );
        call!(client, "CACHE.FLUSH");
        let (_, payload) = message(&mut subscriber);
        assert_eq!(payload, [&start(b'F')[..], &2_u64.to_be_bytes()].concat());
        let line = "CACHE.INVALIDATEWHERE ANY 2 x y NONE 1 z ALL 1 a";
        for (options, kind, clock) in [("", b'W', 3), (" SOFT", b'w', 4)] {
            let line = format!("{line}{options}");
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(client.call(&words), Reply::Int(0));
            let (channel, payload) = message(&mut subscriber);
            assert_eq!(channel, "__cache@7__:invalidate");
            assert_eq!(payload[..10], start(kind));
            assert_eq!(payload[10..18], [0, 0, 0, 0, 0, 0, 0, clock]);
            // The clauses come in any order.
            let clauses = [
                &b"A\0\0\0\x01\0\0\0\x01a"[..],
                b"O\0\0\0\x02\0\0\0\x01x\0\0\0\x01y",
                b"N\0\0\0\x01\0\0\0\x01z",
            ];
            let total: usize = clauses.iter().map(|clause| clause.len()).sum();
            assert_eq!(payload.len(), 18 + total);
            for clause in clauses {
                let found = payload[18..]
                    .windows(clause.len())
                    .any(|part| part == clause);
                assert!(
                    found,
                    "{} in {}",
                    clause.escape_ascii(),
                    payload.escape_ascii()
                );
            }
        }
    });
}

#[test]
fn a_message_carries_the_new_clock_and_all_tags() {
    on_both_protocols(|server, client| {
        let mut subscriber = subscribed(server);
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        for clock in 1..=5 {
            call!(client, "CACHE.INVALIDATE", "a", "unknown");
            let seen = next(&mut subscriber);
            assert_eq!(seen, expected(0, b'I', clock, &[b"a", b"unknown"]));
            assert_eq!(stat(client, "clock"), clock as i64);
        }
        let long = "t".repeat(512);
        let mut invalidate = args!["CACHE.INVALIDATE"];
        let tags: Vec<Vec<u8>> = (0..1000)
            .map(|n: i32| format!("{long}{n}").into_bytes())
            .collect();
        let tags: Vec<Vec<u8>> = tags
            .into_iter()
            .map(|tag| tag[tag.len() - 512..].to_vec())
            .collect();
        invalidate.extend(tags.iter().cloned());
        assert!(!client.call(&invalidate).is_error());
        let seen = next(&mut subscriber);
        let distinct: std::collections::BTreeSet<_> = seen.tags.iter().cloned().collect();
        assert_eq!(distinct, tags.into_iter().collect());
    });
}

#[test]
fn transactions_and_scripts_publish_as_they_execute() {
    on_both_protocols(|server, client| {
        let mut subscriber = subscribed(server);
        call!(client, "MULTI");
        call!(client, "CACHE.INVALIDATE", "a");
        call!(client, "CACHE.REVALIDATE", "b");
        call!(client, "CACHE.FLUSH");
        call!(client, "EXEC");
        let script = "redis.call('SELECT', 3); redis.call('CACHE.INVALIDATE', 'c')";
        assert!(!call!(client, "EVAL", script, 0).is_error());
        assert_eq!(next(&mut subscriber), expected(0, b'I', 1, &[b"a"]));
        assert_eq!(next(&mut subscriber), expected(0, b'R', 2, &[b"b"]));
        assert_eq!(next(&mut subscriber), expected(0, b'F', 3, &[]));
        assert_eq!(next(&mut subscriber), expected(3, b'I', 1, &[b"c"]));
    });
}

#[test]
fn other_commands_publish_no_message() {
    on_both_protocols(|server, client| {
        let mut subscriber = subscribed(server);
        for command in [
            &["CACHE.SET", "key", "v", "GRACE", "1000", "TAGS", "1", "a"][..],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", "a", "DRYRUN"],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", "a", "SOFT", "DRYRUN"],
            &["CACHE.INVALIDATEWHERE", "ALL", "1", ""],
            &["CACHE.DEL", "key"],
            &["CACHE.GET", "key"],
            &["CACHE.FETCH", "key", "LEASE", "5"],
            &["CACHE.INVALIDATE"],
            &["CACHE.REVALIDATE"],
            &["CACHE.FLUSH", "x"],
            &["DEL", "key"],
        ] {
            client.call(command);
        }
        call!(client, "CACHE.INVALIDATE", "last");
        let seen = next(&mut subscriber);
        assert_eq!(seen.tags, [b"last".to_vec()], "the first message: {seen:?}");
    });
}

#[test]
fn swapdb_publishes_a_flush_of_both_databases() {
    on_both_protocols(|server, client| {
        let mut subscriber = subscribed(server);
        call!(client, "SELECT", 2);
        call!(client, "CACHE.INVALIDATE", "a");
        next(&mut subscriber);
        assert_eq!(call!(client, "SWAPDB", 2, 5), Reply::ok());
        let mut published: Vec<_> = (0..2).map(|_| next(&mut subscriber)).collect();
        published.sort_by_key(|message| message.database);
        // Each with its present clock.
        assert_eq!(published[0], expected(2, b'F', 0, &[]));
        assert_eq!(published[1], expected(5, b'F', 1, &[]));
    });
}

#[test]
fn a_message_is_published_after_its_invalidation_takes_effect() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let (mut reader, mut writer) = (subscribed(&server), server.raw());
        for n in 0..50 {
            call!(writer, "CACHE.SET", "key", n, "TAGS", 1, "a");
            writer.send(&["CACHE.INVALIDATE", "a"]);
            next(&mut reader);
            // A client that has the message finds the entry gone.
            assert!(call!(reader, "CACHE.GET", "key").is_null());
            assert_eq!(writer.read(), Reply::Int(1));
        }
    });
}

#[test]
fn replicas_notify_their_own_subscribers() {
    for_all_engines(|engine| {
        let (primary, replica) = replicated(engine);
        let (mut here, mut there) = (subscribed(&primary), subscribed(&replica));
        let mut client = primary.raw();
        call!(client, "SELECT", 2);
        call!(client, "CACHE.INVALIDATE", "a", "b");
        call!(client, "CACHE.REVALIDATE", "a");
        call!(client, "MULTI");
        call!(client, "CACHE.FLUSH");
        call!(client, "EXEC");
        call!(client, "CACHE.INVALIDATE", "end");
        for subscriber in [&mut here, &mut there] {
            // Once each: a published message is not replicated in addition.
            assert_eq!(next(subscriber), expected(2, b'I', 1, &[b"a", b"b"]));
            assert_eq!(next(subscriber), expected(2, b'R', 2, &[b"a"]));
            assert_eq!(next(subscriber), expected(2, b'F', 3, &[]));
            assert_eq!(next(subscriber), expected(2, b'I', 4, &[b"end"]));
        }
    });
}

/// The data of another primary may lack what the replica has reported, and its clock may be lower: subscribers would take
/// the next messages for copies.
#[test]
fn subscribers_of_a_replica_drop_everything_after_a_load() {
    for_all_engines(|engine| {
        for diskless in ["disabled", "swapdb"] {
            let [first, second] = [(); 2].map(|()| Server::builder().engine(engine).start());
            let replica = Server::builder()
                .engine(engine)
                .arg("--repl-diskless-load", diskless)
                .replica_of(&first)
                .start();
            wait_synchronised(&first, &replica);
            let mut subscriber = subscribed(&replica);
            let (mut here, mut there) = (first.raw(), second.raw());
            for clock in 1..=3 {
                call!(here, "CACHE.INVALIDATE", "a");
                assert_eq!(next(&mut subscriber), expected(0, b'I', clock, &[b"a"]));
            }
            call!(there, "CACHE.INVALIDATE", "a");
            let follow = args!["REPLICAOF", "127.0.0.1", second.port()];
            assert_eq!(replica.raw().call(&follow), Reply::ok());
            assert_eq!(next(&mut subscriber), expected(0, b'F', 1, &[]));
            wait_synchronised(&second, &replica);
            call!(there, "CACHE.INVALIDATE", "a");
            assert_eq!(next(&mut subscriber), expected(0, b'I', 2, &[b"a"]));
        }
    });
}

#[test]
fn loading_a_log_publishes_no_messages() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--appendonly", "yes")
            .start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "a");
        call!(client, "CACHE.INVALIDATE", "a");
        call!(client, "CACHE.REVALIDATE", "a");
        call!(client, "CACHE.FLUSH");
        let mut subscriber = subscribed(&server);
        assert_eq!(call!(client, "DEBUG", "LOADAOF"), Reply::ok());
        call!(client, "CACHE.INVALIDATE", "new");
        assert_eq!(next(&mut subscriber), expected(0, b'I', 4, &[b"new"]));
    });
}

#[test]
fn invalidating_needs_no_permission_for_the_channel() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut admin = server.raw();
        let rules = [
            "ACL",
            "SETUSER",
            "user",
            "on",
            "nopass",
            "resetchannels",
            "~t7:*",
            "+@all",
        ];
        assert_eq!(admin.call(&rules), Reply::ok());
        let mut subscriber = subscribed(&server);
        let mut user = server.raw();
        assert_eq!(call!(user, "AUTH", "user", "x"), Reply::ok());
        assert_eq!(call!(user, "CACHE.INVALIDATE", "t7:a"), Reply::Int(0));
        assert_eq!(next(&mut subscriber), expected(0, b'I', 1, &[b"t7:a"]));
        // A refused command is not reported.
        assert!(call!(user, "CACHE.INVALIDATE", "t8:a").is_error());
        call!(admin, "CACHE.INVALIDATE", "end");
        assert_eq!(next(&mut subscriber), expected(0, b'I', 2, &[b"end"]));
    });
}

fn cluster_node(engine: &Engine) -> Server {
    let bus = free_port().to_string();
    Server::builder()
        .engine(engine)
        .arg("--cluster-enabled", "yes")
        .arg("--cluster-port", &bus)
        .start()
}

/// Two primaries, each with a replica.
fn cluster(engine: &Engine) -> Vec<Server> {
    let nodes: Vec<Server> = (0..4).map(|_| cluster_node(engine)).collect();
    let mut clients: Vec<RawClient> = nodes.iter().map(Server::raw).collect();
    call!(clients[0], "CLUSTER", "ADDSLOTSRANGE", 0, 8191);
    call!(clients[1], "CLUSTER", "ADDSLOTSRANGE", 8192, 16_383);
    for node in 1..4 {
        let port = call!(clients[node], "CONFIG", "GET", "cluster-port");
        let bus = port.field("cluster-port").text();
        call!(
            clients[0],
            "CLUSTER",
            "MEET",
            "127.0.0.1",
            nodes[node].port(),
            bus
        );
    }
    for client in &mut clients {
        wait_until("the nodes know each other", DEADLINE, || {
            let info = call!(client, "CLUSTER", "INFO").text();
            let nodes = call!(client, "CLUSTER", "NODES").text();
            info.contains("cluster_known_nodes:4\r")
                && info.contains("cluster_state:ok")
                && !nodes.contains("disconnected")
                && !nodes.contains("handshake")
        });
    }
    for (replica, primary) in [(2, 0), (3, 1)] {
        let id = call!(clients[primary], "CLUSTER", "MYID").text();
        wait_until("the replica knows its primary", DEADLINE, || {
            call!(clients[replica], "CLUSTER", "REPLICATE", id) == Reply::ok()
        });
        wait_synchronised(&nodes[primary], &nodes[replica]);
    }
    nodes
}

/// Waits until the messages of each node reach all others: links that are up may still drop messages.
fn wait_connected(nodes: &[Server]) {
    let mut clients: Vec<RawClient> = nodes.iter().map(Server::raw).collect();
    for node in nodes {
        let mut subscriber = node.raw().resp3();
        subscribe(&mut subscriber, "ready");
        let mut seen = BTreeSet::new();
        wait_until("messages of all nodes arrive", DEADLINE, || {
            for (at, client) in clients.iter_mut().enumerate() {
                call!(client, "PUBLISH", "ready", at);
            }
            call!(node.raw(), "PUBLISH", "ready", "end");
            loop {
                let (_, payload) = message(&mut subscriber);
                if payload == b"end" {
                    break;
                }
                seen.insert(payload);
            }
            seen.len() == nodes.len()
        });
    }
}

#[test]
fn in_a_cluster_only_the_executing_primary_publishes() {
    for_all_engines(|engine| {
        let nodes = cluster(engine);
        wait_connected(&nodes);
        let mut subscribers: Vec<RawClient> = nodes.iter().map(subscribed).collect();
        for node in &nodes[..2] {
            call!(node.raw(), "CACHE.INVALIDATE", "a");
        }
        for (primary, replica) in [(0, 2), (1, 3)] {
            wait_synchronised(&nodes[primary], &nodes[replica]);
        }
        // Messages of replicas have passed the bus before this one: links are ordered.
        for node in &nodes {
            call!(node.raw(), "PUBLISH", "__cache@0__:invalidate", "end");
        }
        let received = subscribers.iter_mut().map(|subscriber| {
            let (mut seen, mut ends) = (Vec::new(), 0);
            while ends < nodes.len() {
                let (_, payload) = message(subscriber);
                if payload == b"end" {
                    ends += 1;
                } else {
                    seen.push(payload);
                }
            }
            assert_eq!(seen.len(), 2, "one for each of the two commands");
            seen
        });
        let received: Vec<_> = received.collect();
        let primaries = nodes[..2].iter();
        let mut lineages: Vec<_> = primaries.map(|node| lineage(&mut node.raw())).collect();
        lineages.sort_unstable();
        for seen in received {
            let node = |payload: &Vec<u8>| payload[2..10].try_into().expect("a node");
            let mut seen: Vec<_> = seen.iter().map(node).map(u64::from_be_bytes).collect();
            seen.sort_unstable();
            assert_eq!(seen, lineages);
        }
    });
}
