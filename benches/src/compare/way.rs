//! The operations of each way of caching with tags, and the connection that it uses.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tagcache_tests::{RawClient, Reply, Rng};

/// A cached entry. A reader knows key and tags: some ways find the value only with both.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) tags: Vec<String>,
    pub(crate) ttl_s: u64,
}

pub(crate) type Command = Vec<Vec<u8>>;

/// One published algorithm. Where a library serialises value, tags and times in its own format, a line of plain text
/// precedes the value here: shorter than PHP's or JSON's, and the same for all.
pub(crate) trait Way: Send {
    fn name(&self) -> &'static str;

    /// The commands to set an entry, one item per round trip, as far as they depend on no reply.
    fn write(&self, entry: &Entry) -> Vec<Vec<Command>>;

    fn set(&mut self, link: &mut Link, entry: &Entry) {
        for commands in self.write(entry) {
            link.pipeline(&commands);
        }
    }

    fn get(&mut self, link: &mut Link, entry: &Entry) -> Option<String>;

    fn invalidate(&mut self, link: &mut Link, tag: &str);

    /// Reads an entry; a value that is missing is loaded and set.
    fn fetch(&mut self, link: &mut Link, entry: &Entry, load: &mut dyn FnMut() -> String) {
        if self.get(link, entry).is_none() {
            let value = load();
            self.set(
                link,
                &Entry {
                    value,
                    ..entry.clone()
                },
            );
        }
    }

    /// The library's own command that removes the remains of dead entries; `false` if it has none.
    fn sweep(&mut self, _link: &mut Link) -> bool {
        false
    }
}

/// A connection that counts its round trips.
pub(crate) struct Link {
    client: RawClient,
    pub(crate) trips: u64,
    turn: Option<Turn>,
}

impl Link {
    pub(crate) fn new(mut client: RawClient) -> Self {
        // A script that deletes a million keys blocks all clients.
        client.set_read_timeout(Duration::from_secs(600));
        Self {
            client,
            trips: 0,
            turn: None,
        }
    }

    /// A connection that waits for its turn before each round trip.
    pub(crate) fn in_turn(client: RawClient, turn: Turn) -> Self {
        Self {
            turn: Some(turn),
            ..Self::new(client)
        }
    }

    pub(crate) fn into_client(self) -> RawClient {
        self.client
    }

    /// All commands in one round trip.
    pub(crate) fn pipeline(&mut self, commands: &[Command]) -> Vec<Reply> {
        self.trips += 1;
        let client = &mut self.client;
        let replies = match &self.turn {
            Some(turn) => turn.step(|| client.pipeline(commands)),
            None => client.pipeline(commands),
        };
        let error = replies.iter().find(|reply| reply.is_error());
        assert_eq!(error, None, "{}", String::from_utf8_lossy(&commands[0][0]));
        replies
    }

    pub(crate) fn call(&mut self, command: Command) -> Reply {
        self.pipeline(&[command]).remove(0)
    }
}

/// The text of a reply that may be nil.
pub(crate) fn found(reply: &Reply) -> Option<String> {
    (!reply.is_null()).then(|| reply.text())
}

/// Lets two threads take their steps one at a time, in a random order: the same for the same seed.
#[derive(Clone)]
pub(crate) struct Turn {
    baton: Arc<(Mutex<Baton>, Condvar)>,
    me: usize,
}

struct Baton {
    next: usize,
    ended: [bool; 2],
    rng: Rng,
}

impl Turn {
    pub(crate) fn pair(seed: u64) -> [Self; 2] {
        let mut rng = Rng::new(seed);
        let baton = Baton {
            next: rng.below(2),
            ended: [false; 2],
            rng,
        };
        let baton = Arc::new((Mutex::new(baton), Condvar::new()));
        [0, 1].map(|me| Self {
            baton: Arc::clone(&baton),
            me,
        })
    }

    pub(crate) fn step<R>(&self, body: impl FnOnce() -> R) -> R {
        let baton = self.wait();
        let result = body();
        self.pass(baton);
        result
    }

    /// Leaves all further steps to the other thread.
    pub(crate) fn end(&self) {
        let mut baton = self.wait();
        baton.ended[self.me] = true;
        self.pass(baton);
    }

    fn wait(&self) -> MutexGuard<'_, Baton> {
        let (baton, passed) = &*self.baton;
        let baton = baton.lock().expect("the other thread does not panic");
        passed
            .wait_while(baton, |baton| baton.next != self.me)
            .expect("the other thread does not panic")
    }

    fn pass(&self, mut baton: MutexGuard<'_, Baton>) {
        let drawn = baton.rng.below(2);
        baton.next = if baton.ended[drawn] { 1 - drawn } else { drawn };
        self.baton.1.notify_all();
    }
}
