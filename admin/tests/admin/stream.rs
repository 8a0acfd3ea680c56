use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::endpoint::{Endpoint, Guide, TOKEN, builder};

#[test]
fn stream_sends_one_event_per_sample() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let mut stream = TcpStream::connect(endpoint.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let request = format!(
        "GET /api/admin/memory-stats/stream HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
        endpoint.address
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(
        head.iter()
            .any(|line| line.eq_ignore_ascii_case("content-type: text/event-stream")),
        "{head:?}"
    );

    let mut times = Vec::new();
    let mut names = 0;
    for line in lines {
        names += usize::from(line == "event: stats");
        if let Some(data) = line.strip_prefix("data: ") {
            let stats: Value = serde_json::from_str(data).unwrap();
            assert_eq!(stats["memory"]["heapUsed"], "145.23 MB");
            times.push(stats["raw"]["uptimeSeconds"].as_f64().unwrap());
        }
        if times.len() == 3 {
            break;
        }
    }
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert_eq!(names, 3);
}
