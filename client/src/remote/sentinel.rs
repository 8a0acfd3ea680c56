//! Asks sentinels where the primary is.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::connection::{Timeouts, ask};
use super::error::Error;
use super::target::Target;

pub(crate) struct Sentinels {
    pub(crate) service: String,
    pub(crate) all: Vec<Target>,
    /// How many times the sentinels were asked.
    pub(crate) asked: AtomicUsize,
    /// Connection settings of primaries; the address is replaced by theirs.
    pub(crate) primary: Target,
}

impl Sentinels {
    /// Asks one sentinel after the other until one knows the primary. The next call begins with another sentinel: the
    /// one that replied may be cut off from the others, and name a former primary.
    pub(crate) async fn locate(&self, timeouts: Timeouts) -> Result<Target, Error> {
        let mut last = None;
        let begin = self.asked.fetch_add(1, Ordering::Relaxed) % self.all.len().max(1);
        for sentinel in self.all[begin..].iter().chain(&self.all[..begin]) {
            match self.ask(sentinel, timeouts).await {
                Ok(primary) => return Ok(primary),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::config("no sentinel was named")))
    }

    /// Whether the sentinels name another primary than the one at `address`. Two of them must agree, if there are two:
    /// one that is cut off from the others may still name a former primary.
    pub(crate) async fn moved_from(&self, address: &str, timeouts: Timeouts) -> bool {
        for _ in 0..self.all.len().min(2) {
            match self.locate(timeouts).await {
                Ok(primary) if primary.address() != address => {}
                _ => return false,
            }
        }
        true
    }

    async fn ask(&self, sentinel: &Target, timeouts: Timeouts) -> Result<Target, Error> {
        let mut cmd = redis::cmd("SENTINEL");
        cmd.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let answer = ask(sentinel, &[cmd], timeouts).await?.pop();
        let named = answer.map(redis::from_redis_value::<Option<(String, u16)>>);
        let Some(Ok(Some((host, port)))) = named else {
            let service = &self.service;
            let message = format!("this sentinel knows no primary of a service {service:?}");
            return Err(Error::unavailable(sentinel.address(), message));
        };
        Ok(self.primary.announced(host, port))
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "primary of {}", self.service)
    }
}
