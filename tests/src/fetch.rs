//! `CACHE.FETCH` as a loader uses it: parsed replies, and callers that wait.

use crate::look::stat;
use crate::reply::Reply;
use crate::resp::RawClient;
use crate::server::Server;
use crate::wait::{DEADLINE, wait_until};
use crate::{args, call, send};

/// A reply of `CACHE.FETCH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The state of the entry.
    pub state: State,
    /// The value; `None` for a MISS.
    pub value: Option<Vec<u8>>,
    /// Milliseconds to logical expiry; -1: none, 0: stale, -2: nothing there.
    pub pttl: i64,
    /// Above 0 if the caller holds the lease.
    pub token: i64,
    /// The tags of the entry.
    pub tags: Vec<Vec<u8>>,
}

/// The state that a `CACHE.FETCH` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A fresh value.
    Hit,
    /// A stale value within its grace.
    Stale,
    /// Nothing.
    Miss,
}

impl Fetched {
    /// A HIT of this value without a token, whatever its times and tags.
    pub fn is_hit(&self, value: impl AsRef<[u8]>) -> bool {
        self.token == 0 && self.has_fresh(value.as_ref())
    }

    /// A HIT of this value whose caller is to reload it.
    pub fn is_hit_with_token(&self, value: impl AsRef<[u8]>) -> bool {
        self.token > 0 && self.has_fresh(value.as_ref())
    }

    fn has_fresh(&self, value: &[u8]) -> bool {
        self.state == State::Hit && self.value.as_deref() == Some(value)
    }

    /// A STALE of this value, whatever its token and tags.
    pub fn is_stale(&self, value: impl AsRef<[u8]>) -> bool {
        self.state == State::Stale && self.value.as_deref() == Some(value.as_ref())
    }

    /// A MISS without a token.
    pub fn is_miss(&self) -> bool {
        self.state == State::Miss && self.token == 0
    }

    /// A MISS whose caller is to load.
    pub fn is_miss_with_token(&self) -> bool {
        self.state == State::Miss && self.token > 0
    }
}

/// Parses a reply, and checks it against the contract's table of states.
///
/// # Panics
/// Panics if the reply violates that table.
pub fn fetched(reply: &Reply) -> Fetched {
    let Reply::Array(items) = reply else {
        panic!("FETCH answers an array: {reply:?}")
    };
    let [
        state,
        value,
        Reply::Int(pttl),
        Reply::Int(token),
        Reply::Array(tags),
    ] = &items[..]
    else {
        panic!("FETCH answers [state, value, pttl, token, tags]: {reply:?}")
    };
    let (pttl, token) = (*pttl, *token);
    let (state, right) = match state.bytes() {
        b"HIT" => (State::Hit, !value.is_null() && pttl >= -1 && token >= 0),
        b"STALE" => (State::Stale, !value.is_null() && pttl == 0 && token >= 0),
        b"MISS" => (
            State::Miss,
            value.is_null() && pttl == -2 && token >= 0 && tags.is_empty(),
        ),
        _ => panic!("unknown state: {reply:?}"),
    };
    assert!(right, "what stands beside the state is wrong: {reply:?}");
    Fetched {
        state,
        value: (!value.is_null()).then(|| value.bytes().to_vec()),
        pttl,
        token,
        tags: tags.iter().map(|tag| tag.bytes().to_vec()).collect(),
    }
}

/// `CACHE.FETCH key`.
///
/// # Panics
/// Panics if the reply violates the contract.
pub fn fetch(client: &mut RawClient, key: &str) -> Fetched {
    fetched(&call!(client, "CACHE.FETCH", key))
}

/// `CACHE.FETCH key LEASE ms`.
///
/// # Panics
/// Panics if the reply violates the contract.
pub fn fetch_lease(client: &mut RawClient, key: &str, ms: u64) -> Fetched {
    fetched(&call!(client, "CACHE.FETCH", key, "LEASE", ms))
}

/// Takes the lease of a missing key for a minute.
///
/// # Panics
/// Panics if the lease is not granted.
pub fn lease(client: &mut RawClient, key: &str) -> i64 {
    let answer = fetch_lease(client, key, 60_000);
    assert!(
        answer.is_miss_with_token(),
        "a lease of {key} was expected: {answer:?}"
    );
    answer.token
}

/// `CACHE.SET key value LEASE token TAGS …`; returns whether it was accepted.
///
/// # Panics
/// Panics if the reply is neither OK nor nil.
pub fn set_leased(
    client: &mut RawClient,
    key: &str,
    value: &str,
    token: i64,
    tags: &[&str],
) -> bool {
    let mut set = args!["CACHE.SET", key, value, "LEASE", token];
    if !tags.is_empty() {
        set.extend(args!["TAGS", tags.len()]);
        set.extend(tags.iter().map(|tag| tag.as_bytes().to_vec()));
    }
    match client.call(&set) {
        Reply::Null => false,
        reply if reply == Reply::ok() => true,
        reply => panic!("a SET under a lease answers OK or nil: {reply:?}"),
    }
}

/// A caller that waits for a key that another caller loads.
#[derive(Debug)]
pub struct Waiter {
    client: RawClient,
}

impl Waiter {
    /// Sends `CACHE.FETCH key LEASE 60000 WAIT ms` on a new connection, and returns once the caller waits.
    ///
    /// # Panics
    /// Panics if the caller does not wait.
    pub fn start(server: &Server, key: &str, wait_ms: u64) -> Self {
        Self::start_on(server, server.raw(), key, wait_ms)
    }

    /// The same on this connection.
    ///
    /// # Panics
    /// Panics if the caller does not wait.
    pub fn start_on(server: &Server, mut client: RawClient, key: &str, wait_ms: u64) -> Self {
        let mut look = server.raw();
        let before = waiters(&mut look);
        send!(client, "CACHE.FETCH", key, "LEASE", 60_000, "WAIT", wait_ms);
        wait_until("the caller waits", DEADLINE, || {
            waiters(&mut look) == before + 1
        });
        Self { client }
    }

    /// The reply at the end of the wait.
    ///
    /// # Panics
    /// Panics if the reply violates the contract.
    pub fn answer(&mut self) -> Fetched {
        fetched(&self.client.read())
    }

    /// The reply as it was received, which may be an error.
    ///
    /// # Panics
    /// Panics if there is none.
    pub fn reply(&mut self) -> Reply {
        self.client.read()
    }

    /// Its connection, after the reply.
    pub fn into_client(self) -> RawClient {
        self.client
    }
}

/// The number of callers that wait, over all databases.
///
/// # Panics
/// Panics if INFO does not report it.
pub fn waiters(client: &mut RawClient) -> i64 {
    crate::look::info(client, "tagcache_lease_waiters")
}

/// Waits until that many callers wait for keys of the selected database.
///
/// # Panics
/// Panics if that does not happen.
pub fn wait_for_waiters(client: &mut RawClient, count: i64) {
    wait_until(&format!("{count} callers wait"), DEADLINE, || {
        stat(client, "lease_waiters") == count
    });
}
