//! What listens there is no server, or a hostile one.

use std::time::Duration;

use tagcache::{Cache, Error, Remedy, ServerState};
use tagcache_tests::DEADLINE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{eventually, long, run};

/// Says this to everybody who says anything, and then nothing more. Answers the port.
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
fn strangers_are_errors_in_one_line_and_loads_go_on() {
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
fn a_service_that_asks_for_nothing_that_we_can_give_is_denied() {
    run(async {
        // HELLO and what comes with it.
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
