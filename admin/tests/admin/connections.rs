//! Connections that are slow, many or still open at the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tagcache_admin::http::{Admin, serve};
use tagcache_admin::memory::Server as Watched;
use tagcache_tests::{DEADLINE, wait_until};

use crate::endpoint::{Endpoint, Guide, TOKEN, builder};

fn connect(address: std::net::SocketAddr, request: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    BufReader::new(stream)
}

fn stream_request() -> String {
    format!(
        "GET /api/admin/memory-stats/stream HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    )
}

fn status(reader: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn unfinished_request_times_out() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let mut slow = connect(endpoint.address, "GET /healthz HTTP/1.1\r\nHost: h");
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    let mut slow = connect(
        endpoint.address,
        &format!(
            "POST /api/admin/cache/invalidate HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
        ),
    );
    assert_eq!(status(&mut slow), "HTTP/1.1 408 Request Timeout");
}

#[test]
fn streams_are_limited_and_a_stuck_reader_blocks_no_other() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let mut streams: Vec<_> = (0..32)
        .map(|_| connect(endpoint.address, &stream_request()))
        .collect();
    for stream in &mut streams {
        assert_eq!(status(stream), "HTTP/1.1 200 OK");
    }
    let refused = endpoint.get("/api/admin/memory-stats/stream");
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(refused.kind, "application/problem+json");
    // 31 clients that do not read, and one that does.
    let mut reading = streams.pop().unwrap();
    let mut events = 0;
    let mut line = String::new();
    while events < 20 {
        line.clear();
        assert!(reading.read_line(&mut line).unwrap() > 0);
        events += usize::from(line == "event: stats\n");
    }
    drop(reading);
    wait_until("a place is free again", DEADLINE, || {
        status(&mut connect(endpoint.address, &stream_request())) == "HTTP/1.1 200 OK"
    });
}

#[test]
fn connection_above_the_cap_waits_until_another_ends() {
    // Both ends of each connection are descriptors of this process.
    let raised = std::process::Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), "--nofile=4096:"])
        .status();
    assert!(raised.unwrap().success(), "prlimit of this process");
    let endpoint = Endpoint::start(builder(Guide).build());
    let request = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
    // Each keeps its connection until its next request is due, in 10 s.
    let mut served: Vec<_> = (0..512)
        .map(|_| connect(endpoint.address, request))
        .collect();
    for reader in &mut served {
        assert_eq!(status(reader), "HTTP/1.1 200 OK");
        // The rest of the response.
        reader.consume(reader.buffer().len());
    }
    let mut next = connect(endpoint.address, request);
    let wait = std::time::Duration::from_millis(500);
    next.get_ref().set_read_timeout(Some(wait)).unwrap();
    let answered = next.fill_buf().is_ok();
    // If the machine is too slow for the check above, one connection has ended by now.
    let ended = |reader: &BufReader<TcpStream>| {
        reader.get_ref().set_nonblocking(true).unwrap();
        matches!(reader.get_ref().peek(&mut [0]), Ok(0))
    };
    let all_open = !served.iter().any(ended);
    assert!(!(answered && all_open), "one more than the cap was served");
    next.get_ref().set_read_timeout(Some(DEADLINE)).unwrap();
    drop(served.pop());
    assert_eq!(status(&mut next), "HTTP/1.1 200 OK");
}

#[test]
fn shutdown_ends_streams_and_does_not_wait_for_idle_clients() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let admin = builder(Guide).build();
    let (address, served) = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(serve(listener, Admin::clone(&admin), async {
            let _ = ended.await;
        }));
        (address, served)
    });
    let mut stream = connect(address, &stream_request());
    let idle = connect(address, "");
    assert_eq!(status(&mut stream), "HTTP/1.1 200 OK");
    end.send(()).unwrap();
    let served = runtime.block_on(async { tokio::time::timeout(DEADLINE, served).await });
    served.expect("it ends").unwrap().unwrap();
    // Until the last chunk: the stream ends properly and is not cut off.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(
        rest.ends_with(b"0\r\n\r\n"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    assert!(TcpStream::connect(address).is_err());
    drop(idle);
}

#[test]
fn concurrent_requests_share_one_read_of_a_hanging_server() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for connection in listener.incoming() {
            held.push(connection);
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let watched = Watched::open(&format!("redis://127.0.0.1:{port}/")).unwrap();
    let endpoint = Endpoint::start(builder(Guide).server(watched).build());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let seen = endpoint.get("/api/admin/overview").json();
                let parts = seen.as_object().unwrap();
                assert!(
                    parts.len() == 3 && parts.values().all(Value::is_null),
                    "{seen}"
                );
            });
        }
    });
    // The shared read makes one connection, and its first command got no reply.
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    assert_eq!(endpoint.get("/api/admin/memory-stats").status, 200);
}
