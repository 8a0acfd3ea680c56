//! A server whose replies are damaged: no call hangs, no task of the client panics, and it works again afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tagcache::{Cache, Error};
use tagcache_tests::fuzz::{Budget, damaged};
use tagcache_tests::{DEADLINE, Rng};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::strangers::{like_a_primary, words};
use crate::support::{builder, eventually, long};

/// The name of the runtime's threads, which distinguishes its panics from those of other tests.
const THREADS: &str = "fuzzed-client";

/// Replies of a server, valid and invalid ones.
const REPLIES: [&[u8]; 14] = [
    b"*5\r\n$4\r\nMISS\r\n_\r\n:-2\r\n:7\r\n*0\r\n",
    b"*5\r\n$3\r\nHIT\r\n$7\r\n\"value\"\r\n:1000\r\n:0\r\n*1\r\n$3\r\ntag\r\n",
    b"*5\r\n$5\r\nSTALE\r\n$7\r\n\"value\"\r\n:0\r\n:9\r\n*1\r\n$3\r\ntag\r\n",
    b"*2\r\n$7\r\n\"value\"\r\n_\r\n",
    b"*2\r\n:123456789\r\n:42\r\n",
    b"+OK\r\n",
    b":1\r\n",
    b"_\r\n",
    b"-ERR something\r\n",
    b"-MOVED 3999 127.0.0.1:1\r\n",
    b"%1\r\n$4\r\nhits\r\n:3\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n",
    b">3\r\n$7\r\nmessage\r\n$21\r\n__cache@0__:invalidate\r\n$10\r\n\x01I12345678\r\n",
    b"$4294967296\r\n",
];

/// Damages some of the replies, while that is switched on.
#[derive(Clone)]
struct Hostile {
    damages: Arc<AtomicBool>,
    rng: Arc<Mutex<Rng>>,
    count: Arc<AtomicU64>,
}

impl Hostile {
    fn reply(&self, words: &[String]) -> Vec<u8> {
        let right = match words[0].as_str() {
            "CACHE.FETCH" => String::from_utf8_lossy(REPLIES[0]).into_owned(),
            _ => like_a_primary(words),
        };
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        // The handshake is mostly left intact; otherwise no other code would be reached.
        let is_handshake = match words[0].as_str() {
            "CACHE.CLOCK" => true,
            "PING" => false,
            name => !name.starts_with("CACHE."),
        };
        let one_in = if is_handshake { 40 } else { 3 };
        if !self.damages.load(Ordering::SeqCst) || !rng.one_in(one_in) {
            return right.into_bytes();
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut corpus: Vec<Vec<u8>> = REPLIES.iter().map(|reply| reply.to_vec()).collect();
        corpus.extend(std::iter::repeat_n(right.into_bytes(), 8));
        damaged(&mut rng, &corpus)
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(self.clone().respond(client));
        }
    }

    async fn respond(self, client: TcpStream) -> Option<()> {
        let mut client = BufReader::new(client);
        while let Some(words) = words(&mut client).await {
            let reply = self.reply(&words);
            client.write_all(&reply).await.ok()?;
        }
        Some(())
    }
}

async fn load(cache: &Cache, key: &str) -> Result<String, Error> {
    let loader = || async { Ok::<_, String>("loaded".to_owned()) };
    cache.get_or_load(key, long().tags(["tag"]), loader).await
}

/// One call of any kind; its result is not checked, but it returns.
async fn call(cache: &Cache, n: u64) {
    let key = format!("key{}", n % 50);
    let call = async {
        match n % 8 {
            0..3 => {
                // The server's bytes may be no string, or a different one.
                let _ = load(cache, &key).await;
            }
            3 => drop(cache.get::<String>(&key).await),
            4 => drop(
                cache
                    .set(&key, &"set".to_owned(), long().tags(["tag"]))
                    .await,
            ),
            5 => drop(cache.invalidate_tags(["tag"]).await),
            6 => drop(cache.get_many::<String>(&[key.as_str(), "other"]).await),
            _ => drop(cache.remove(&key).await),
        }
    };
    let ended = tokio::time::timeout(DEADLINE, call).await;
    assert!(ended.is_ok(), "call {n} hangs");
}

#[test]
fn fuzzed_replies_do_not_hang_calls_or_panic_tasks() {
    let panics = Arc::new(AtomicU64::new(0));
    let (count, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() == Some(THREADS) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        before(panic);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(THREADS)
        .enable_all()
        .build()
        .unwrap();
    let mut budget = Budget::new("RESP replies", 160);
    let hostile = Hostile {
        damages: Arc::new(AtomicBool::new(true)),
        rng: Arc::new(Mutex::new(budget.rng.clone())),
        count: Arc::default(),
    };
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(hostile.clone().serve(listener));
        let cache = builder(port)
            .command_timeout(Duration::from_millis(50))
            .local_max_entries(10)
            .build()
            .await
            .unwrap();
        let mut n = 0;
        while budget.takes(8) {
            // Connects again after damage; otherwise nothing would be damaged any more.
            let _ = cache.ready(Duration::from_secs(2)).await;
            for _ in 0..8 {
                n += 1;
                call(&cache, n).await;
            }
        }
        let damages = hostile.count.load(Ordering::SeqCst);
        assert!(damages >= 10, "{damages} replies were damaged");
        hostile.damages.store(false, Ordering::SeqCst);
        eventually("it works again", async || {
            cache.ready(Duration::from_secs(1)).await.is_ok()
                && load(&cache, "another key")
                    .await
                    .is_ok_and(|value| value == "loaded")
        })
        .await;
        cache.close(DEADLINE).await;
    });
    drop(runtime);
    assert_eq!(panics.load(Ordering::SeqCst), 0, "tasks that panicked");
}
