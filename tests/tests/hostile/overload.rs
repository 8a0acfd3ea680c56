//! More load than a server accepts: refused with an error, while connected clients are still served.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use tagcache_tests::look::stat;
use tagcache_tests::{DEADLINE, Reply, Server, call, for_each_engine, send, wait_until};

const MAX_CLIENTS: usize = 60;
const CALLERS: usize = 200;

/// Opens a connection, sends a command, and returns the first line of the reply.
fn connect_and_ping(port: u16) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the backlog has room");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a time-out above zero");
    // The connection may be closed before the command is read.
    let _ = stream.write_all(b"*1\r\n$4\r\nPING\r\n");
    let mut line = String::new();
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let _ = reader.read_line(&mut line);
    (stream, line)
}

#[test]
fn connections_beyond_the_limit_are_refused_and_others_served() {
    for_each_engine(|engine| {
        let server = Server::builder()
            .engine(engine)
            .arg("--maxclients", &MAX_CLIENTS.to_string())
            .start();
        let mut client = server.raw();
        call!(client, "CACHE.SET", "key", "v", "TAGS", 1, "tag");
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| connect_and_ping(server.port()))
            .collect();
        let (served, refused): (Vec<_>, Vec<_>) = callers
            .into_iter()
            .partition(|(_, line)| line == "+PONG\r\n");
        assert_eq!(served.len(), MAX_CLIENTS - 1);
        for (_, line) in &refused {
            // Either the reason, or nothing, if the reply was lost with the connection.
            assert!(
                line.is_empty() || line == "-ERR max number of clients reached\r\n",
                "{line}"
            );
        }
        assert_eq!(call!(client, "CACHE.GET", "key"), Reply::bulk("v"));
        assert_eq!(call!(client, "CACHE.INVALIDATE", "tag"), Reply::Int(1));
        drop((served, refused));
        wait_until("there is room again", DEADLINE, || {
            connect_and_ping(server.port()).1 == "+PONG\r\n"
        });
    });
}

/// Many callers wait for few keys whose loaders never finish. Readers of other keys, writers and invalidations go on,
/// and when the callers leave, nothing of them remains.
#[test]
fn many_waiters_delay_no_other_client_and_leave_nothing() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let mut client = server.raw();
        let mut loaders: Vec<_> = (0..4).map(|_| server.raw()).collect();
        for (n, loader) in loaders.iter_mut().enumerate() {
            call!(loader, "CACHE.FETCH", format!("slow{n}"), "LEASE", 60_000);
        }
        let mut crowd: Vec<_> = (0..CALLERS).map(|_| server.raw()).collect();
        for (n, caller) in crowd.iter_mut().enumerate() {
            let key = format!("slow{}", n % 4);
            send!(caller, "CACHE.FETCH", key, "LEASE", 60_000, "WAIT", 60_000);
        }
        wait_until("all wait", DEADLINE, || {
            stat(&mut client, "lease_waiters") == CALLERS as i64
        });
        for n in 0..1_000 {
            let key = format!("key{}", n % 10);
            call!(client, "CACHE.SET", key, "v", "TAGS", 1, "tag");
            assert_eq!(call!(client, "CACHE.GET", key), Reply::bulk("v"));
        }
        assert_eq!(call!(client, "CACHE.INVALIDATE", "tag"), Reply::Int(10));
        // One loader finishes after all: only its callers are served.
        call!(client, "CACHE.SET", "slow0", "v");
        for caller in crowd.iter_mut().step_by(4) {
            assert_eq!(caller.read().items()[0], Reply::bulk("HIT"));
        }
        assert_eq!(
            stat(&mut client, "lease_waiters"),
            CALLERS as i64 - CALLERS.div_ceil(4) as i64
        );
        drop((crowd, loaders));
        wait_until("nothing is left of them", DEADLINE, || {
            stat(&mut client, "lease_waiters") == 0 && stat(&mut client, "leases") == 0
        });
        assert_eq!(call!(client, "PING"), Reply::Simple("PONG".to_owned()));
    });
}
