//! A network between a cache and its server, which can be made bad.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The effect of the network on everything that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything arrives.
    Fair,
    /// Connections break, new ones are closed at once.
    Cut,
    /// Nothing arrives, without any error. Bytes in flight are lost for good.
    Silent,
    /// Everything arrives late.
    Slow(Duration),
    /// Some bytes from the server arrive changed.
    Garbled,
}

/// Words, and the words of the same length that arrive instead.
pub type Words = (&'static str, &'static str);

/// Takes a protection away: an unknown word arrives instead of the important one. Words that lie across two reads of
/// the network arrive unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rewrite {
    /// Towards the server.
    pub asked: Option<Words>,
    /// Towards the client.
    pub answered: Option<Words>,
}

fn replace(bytes: &mut [u8], (from, to): Words) {
    let mut at = 0;
    while at + from.len() <= bytes.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        }
        at += 1;
    }
}

/// Stands between a client and its server. It lives on the tokio runtime that it was started on.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    garbled: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Proxy {
    /// Listens on a new port and passes everything on to the port `server`.
    ///
    /// # Panics
    /// Panics if there is no port to listen on.
    pub async fn before(server: u16) -> Self {
        Self::rewriting(server, Rewrite::default()).await
    }

    /// The same, with some words rewritten.
    ///
    /// # Panics
    /// Panics if there is no port to listen on, or the words differ in length.
    pub async fn rewriting(server: u16, rewrite: Rewrite) -> Self {
        for (from, to) in [rewrite.asked, rewrite.answered].into_iter().flatten() {
            assert_eq!(from.len(), to.len(), "words take each other's place");
        }
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (weather, watched) = watch::channel(Weather::Fair);
        let garbled = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&garbled);
        let accept = async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                if *watched.borrow() != Weather::Cut {
                    tokio::spawn(pass(
                        client,
                        server,
                        watched.clone(),
                        Arc::clone(&count),
                        rewrite,
                    ));
                }
            }
        };
        let task = tokio::spawn(accept).abort_handle();
        Self {
            port,
            weather,
            garbled,
            task,
        }
    }

    /// The port on which it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what the network does, also to connections that are up.
    pub fn turn(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// The number of bytes that arrived changed.
    pub fn garbled(&self) -> u64 {
        self.garbled.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.turn(Weather::Cut);
    }
}

async fn pass(
    client: TcpStream,
    server: u16,
    weather: watch::Receiver<Weather>,
    garbled: Arc<AtomicU64>,
    rewrite: Rewrite,
) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // When one direction ends, both end.
    tokio::select! {
        () = carry(from_client, to_server, weather.clone(), None, rewrite.asked) => {}
        () = carry(from_server, to_client, weather, Some(garbled), rewrite.answered) => {}
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    garbled: Option<Arc<AtomicU64>>,
    rewrite: Option<Words>,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut lost = false;
    let mut rng = crate::Rng::new(7);
    loop {
        let now = *weather.borrow_and_update();
        // Bytes that were lost during the silence cannot be recovered.
        if now == Weather::Cut || (lost && now != Weather::Silent) {
            return;
        }
        let len = tokio::select! {
            changed = weather.changed() => if changed.is_ok() { continue } else { return },
            read = from.read(&mut buffer) => match read {
                Ok(len) if len > 0 => len,
                _ => return,
            },
        };
        let now = *weather.borrow_and_update();
        match now {
            Weather::Silent => {
                lost = true;
                continue;
            }
            Weather::Slow(delay) => tokio::time::sleep(delay).await,
            Weather::Garbled => {
                if let Some(garbled) = &garbled {
                    for byte in &mut buffer[..len] {
                        if rng.one_in(200) {
                            *byte = 0xff;
                            garbled.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            }
            Weather::Fair | Weather::Cut => {}
        }
        if let Some(words) = rewrite {
            replace(&mut buffer[..len], words);
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
