//! A server's connections for calls that wait: one call per connection at a time.

use std::sync::Mutex;
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};
use tokio::sync::Semaphore;

use super::connection::{Timeouts, open_plain};
use super::error::{Error, within};
use super::lock;
use super::target::{Target, Wire};

/// A bounded number of connections, opened when needed.
pub(crate) struct Waiting {
    permits: Semaphore,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<Wire>,
    /// Raised when the server is lost: connections from before may lead elsewhere.
    generation: u64,
}

impl Waiting {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            permits: Semaphore::new(most),
            idle: Mutex::default(),
        }
    }

    /// Closes all idle connections, and those in use when they are done.
    pub(crate) fn clear(&self) {
        let mut idle = lock(&self.idle);
        idle.generation += 1;
        idle.connections.clear();
    }

    /// Closes half of the idle connections that a burst has left, so that none grows old.
    pub(crate) fn shrink(&self) {
        let connections = &mut lock(&self.idle).connections;
        // The oldest first; they were put back first.
        let half = connections.len().div_ceil(2);
        connections.drain(..half);
    }

    pub(crate) async fn send(
        &self,
        target: &Target,
        name: &str,
        cmd: &Cmd,
        wait: Duration,
        timeouts: Timeouts,
    ) -> Result<RedisResult<Value>, Error> {
        let sending = async {
            let closed = |_| Error::unreachable(name, "closed");
            let _permit = self.permits.acquire().await.map_err(closed)?;
            loop {
                let (idle, generation) = {
                    let mut idle = lock(&self.idle);
                    (idle.connections.pop(), idle.generation)
                };
                let used = idle.is_some();
                let mut connection = match idle {
                    Some(connection) => connection,
                    None => open_plain(target, name, timeouts).await?,
                };
                let sent = connection.inner.send_packed_command(cmd).await;
                let sent = sent.and_then(Value::extract_error);
                match &sent {
                    Ok(_) => self.put_back(connection, generation),
                    // A server, or something in between, may have closed it while it was idle: use the next one.
                    Err(error) if used && error.is_io_error() => continue,
                    // On a connection that failed, a reply may still arrive.
                    Err(_) => {}
                }
                return Ok(sent);
            }
        };
        within(wait.saturating_add(timeouts.command), name, sending).await
    }

    fn put_back(&self, connection: Wire, generation: u64) {
        let mut idle = lock(&self.idle);
        if idle.generation == generation {
            idle.connections.push(connection);
        }
    }
}
