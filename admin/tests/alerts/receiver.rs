//! An HTTP server that stores the requests that are posted to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver as Requests, Sender, channel};
use std::time::Duration;

use serde_json::Value;

/// A request that arrived.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// Listens until the test process ends.
pub(crate) struct Receiver {
    pub(crate) url: String,
    requests: Requests<Request>,
}

impl Receiver {
    /// Responds with these statuses, one per request, and repeats the last one.
    pub(crate) fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!(
            "http://{}/hook/token-in-url",
            listener.local_addr().unwrap()
        );
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                let status = statuses[i.min(statuses.len() - 1)];
                if respond(&stream.unwrap(), status, &sender).is_none() {
                    return;
                }
            }
        });
        Self { url, requests }
    }

    pub(crate) fn next(&self) -> Request {
        self.requests
            .recv_timeout(Duration::from_secs(30))
            .expect("a request within the deadline")
    }

    /// Whether no further request arrived until now.
    pub(crate) fn is_quiet(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

fn respond(stream: &TcpStream, status: u16, requests: &Sender<Request>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap() == 0 {
            return Some(());
        }
    }
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut writer = stream;
    write!(
        writer,
        "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    requests.send(Request { head, body }).ok()
}
