//! Asks sentinels where the primary is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{Client, ConnectionAddr, ConnectionInfo};

use super::connection::{Timeouts, open_plain};
use super::error::Error;
use super::servers::{Tls, client, with_address};

/// The sentinels of one service.
#[derive(Clone, Debug)]
pub(crate) struct Sentinels {
    pub(crate) service: String,
    pub(crate) clients: Vec<Client>,
    /// How often somebody was asked.
    pub(crate) asked: Arc<AtomicUsize>,
    /// How primaries are spoken to; its address is replaced by theirs.
    pub(crate) primary: ConnectionInfo,
    pub(crate) tls: Tls,
}

impl Sentinels {
    /// Asks one after the other until one knows. The next time it begins with another one: what this one names may be
    /// no primary any more, because it is cut off from the others.
    pub(crate) async fn locate(&self, timeouts: Timeouts) -> Result<Client, Error> {
        let mut last = None;
        let begin = self.asked.fetch_add(1, Ordering::Relaxed) % self.clients.len().max(1);
        for sentinel in self.clients[begin..].iter().chain(&self.clients[..begin]) {
            match self.ask(sentinel, timeouts).await {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Config {
            message: "no sentinel was named".to_owned(),
        }))
    }

    /// Whether the sentinels name another primary than the one at `address`. Two of them must agree, where there are so
    /// many: one that is cut off from the others may still name a primary of the past.
    pub(crate) async fn moved_from(&self, address: &str, timeouts: Timeouts) -> bool {
        for _ in 0..self.clients.len().min(2) {
            match self.locate(timeouts).await {
                Ok(client) if client.get_connection_info().addr().to_string() != address => {}
                _ => return false,
            }
        }
        true
    }

    async fn ask(&self, sentinel: &Client, timeouts: Timeouts) -> Result<Client, Error> {
        let name = sentinel.get_connection_info().addr().to_string();
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let asking = async {
            let mut connection = open_plain(sentinel, &name, timeouts).await?;
            let answer: Result<Option<(String, u16)>, _> = ask.query_async(&mut connection).await;
            answer.map_err(|error| Error::from_handshake(&name, None, timeouts.command, &error))
        };
        let within = timeouts.connect + timeouts.command;
        let answer = tokio::time::timeout(within, asking).await;
        let Some((host, port)) = answer.unwrap_or_else(|_| {
            Err(Error::Timeout {
                node: name.clone(),
                timeout: within,
            })
        })?
        else {
            return Err(Error::Unavailable {
                node: name,
                message: format!(
                    "this sentinel knows no primary of a service {:?}",
                    self.service
                ),
            });
        };
        client(with_address(&self.primary, host, port), &self.tls)
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "primary of {}", self.service)
    }
}

/// The same connection to another host, by TLS if that one is.
pub(crate) fn replace_host(address: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match address {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    }
}
