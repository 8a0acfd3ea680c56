//! The peer is no server, or a hostile one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tagcache::{Cache, Error, Remedy, ServerState};
use tagcache_tests::DEADLINE;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{builder, connected, eventually, long, run};

/// Sends this to every client that sends anything, and then nothing more. Returns the port.
async fn stranger(words: Vec<u8>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let words = words.clone();
            tokio::spawn(async move {
                let _ = client.read(&mut [0; 4096]).await;
                let _ = client.write_all(&words).await;
                let _ = client.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    port
}

/// A server that replies to each command by its words. Returns the port.
pub(crate) async fn scripted(answer: impl Fn(&[String]) -> String + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                while let Some(words) = words(&mut client).await {
                    let answer = answer(&words);
                    client.write_all(answer.as_bytes()).await.ok()?;
                }
                Some(())
            });
        }
    });
    port
}

/// One command.
pub(crate) async fn words(client: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut line = String::new();
    client.read_line(&mut line).await.ok()?;
    let count: usize = line.trim().strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        line.clear();
        client.read_line(&mut line).await.ok()?;
        let len: usize = line.trim().strip_prefix('$')?.parse().ok()?;
        let mut word = vec![0; len + 2];
        client.read_exact(&mut word).await.ok()?;
        word.truncate(len);
        words.push(String::from_utf8(word).ok()?);
    }
    Some(words)
}

/// The replies of a primary with the module to the commands that set up and probe a connection.
pub(crate) fn like_a_primary(words: &[String]) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["HELLO", ..] => {
            "%2\r\n+role\r\n+master\r\n+modules\r\n*1\r\n*4\r\n+name\r\n+tagcache\r\n+ver\r\n:200\r\n"
                .into()
        }
        ["CACHE.CLOCK", "START"] => "*3\r\n+lineage\r\n:0\r\n:0\r\n".into(),
        ["CACHE.CLOCK"] => "*2\r\n+lineage\r\n:0\r\n".into(),
        ["PING", nonce] => format!("+{nonce}\r\n"),
        ["SUBSCRIBE", channel] => format!(">3\r\n+subscribe\r\n+{channel}\r\n:1\r\n"),
        _ => "+OK\r\n".into(),
    }
}

#[test]
fn old_module_is_reported_with_version_and_missing_command() {
    run(async {
        let port = scripted(|words| match words[0].as_str() {
            "HELLO" => like_a_primary(words).replace(":200", ":100"),
            _ => like_a_primary(words),
        })
        .await;
        let cache = builder(port).build().await.unwrap();
        let error = cache.get::<String>("key").await.unwrap_err();
        assert!(
            matches!(&error, Error::ModuleTooOld { version: 100, command, .. } if command.starts_with("CACHE.FETCH")),
            "{error}"
        );
        assert_eq!(error.remedy(), Remedy::FixServer);
        assert_eq!(cache.stats().servers[0].state, ServerState::ModuleTooOld);
        let loader = || async { Ok::<_, String>("loaded".to_owned()) };
        let loaded = cache.get_or_load("key", long(), loader).await;
        assert_eq!(loaded.unwrap(), "loaded");
    });
}

#[test]
fn connection_with_out_of_step_replies_is_replaced() {
    run(async {
        let pings = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&pings);
        let port = scripted(move |words| match words[0].as_str() {
            // The first PING belongs to the handshake.
            "PING" if count.fetch_add(1, Ordering::SeqCst) == 1 => "+another\r\n".into(),
            _ => like_a_primary(words),
        })
        .await;
        let cache = connected(builder(port)).await;
        eventually("another connection is set up", async || {
            cache.stats().servers[0].connects == 2
        })
        .await;
        let error = cache.stats().servers[0].last_error.clone().unwrap();
        assert!(error.to_string().contains("out of step"), "{error}");
    });
}

fn largest_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    let kilobytes = line.trim().trim_end_matches("kB").trim();
    kilobytes.parse().unwrap_or_default()
}

#[test]
fn foreign_services_cause_one_line_errors_and_loads_continue() {
    let strangers: [(&str, &[u8]); 9] = [
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("no protocol at all", b"\x00\xff\xfe\r\n\r\n\x7f"),
        ("half an answer", b"%7\r\n$6\r\nser"),
        ("two thousand million elements", b"*2000000000\r\n:1\r\n"),
        ("as many pairs", b"%2000000000\r\n:1\r\n"),
        (
            "as many as a number can say",
            b"*9223372036854775807\r\n:1\r\n",
        ),
        ("nine terabytes", b"$9000000000000\r\nabc"),
        ("less than nothing", b"%-5\r\n"),
        ("an older protocol", b"-ERR unknown command 'HELLO'\r\n"),
    ];
    run(async {
        let before = largest_memory();
        for (what, words) in strangers {
            let port = stranger(words.to_vec()).await;
            let building = Cache::builder(format!("redis://user:secret@127.0.0.1:{port}"))
                .connect_timeout(Duration::from_millis(200));
            let cache = building.build().await.unwrap();
            eventually("it has been tried", async || {
                cache.stats().servers[0].state != ServerState::Connecting
            })
            .await;
            let error = cache.get::<String>("key").await.unwrap_err();
            assert!(
                matches!(error.remedy(), Remedy::Retry | Remedy::FixServer),
                "{what}: {error}"
            );
            let text = error.to_string();
            assert!(!text.contains('\n') && text.len() < 500, "{what}: {text}");
            assert!(
                !format!("{error:?}").contains("secret"),
                "{what}: {error:?}"
            );
            let loader = || async { Ok::<_, String>("loaded".to_owned()) };
            let loaded = cache.get_or_load("key", long(), loader).await;
            assert_eq!(loaded.unwrap(), "loaded", "{what}");
        }
        let grown = largest_memory().saturating_sub(before) >> 10;
        assert!(grown < 500, "{grown} MB for what was only announced");
    });
}

#[test]
fn server_that_requires_authentication_is_denied() {
    run(async {
        // HELLO and the commands that are sent with it.
        let words = "-NOAUTH HELLO must be called with the client already authenticated\r\n";
        let port = stranger(words.repeat(3).into_bytes()).await;
        let building =
            Cache::builder(format!("redis://127.0.0.1:{port}")).connect_timeout(DEADLINE);
        let cache = building.build().await.unwrap();
        let error = cache.get::<String>("key").await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert_eq!(cache.stats().servers[0].state, ServerState::Denied);
    });
}
