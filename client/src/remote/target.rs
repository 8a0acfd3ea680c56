//! A server's address, and how connections to it are set up.

use std::io;
use std::sync::Arc;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, RedisConnectionInfo, RedisResult,
};
use redis::{IntoConnectionInfo, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::connection::Timeouts;
use super::credentials::Access;
use super::error::Error;

/// A server's address, and how connections to it are set up.
#[derive(Clone)]
pub(crate) struct Target {
    info: ConnectionInfo,
    #[cfg(feature = "tls")]
    encrypted: bool,
    access: Arc<Access>,
}

/// A connection with the task that reads and writes it, which ends with it.
pub(crate) struct Wire {
    pub(crate) inner: MultiplexedConnection,
    driver: AbortHandle,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Target {
    pub(crate) fn new(url: &str, access: &Arc<Access>) -> Result<Self, Error> {
        // This crate does the encryption: redis-rs would install a provider of cryptography for the whole process.
        let plain = [("rediss://", "redis://"), ("valkeys://", "valkey://")];
        let plain = plain.iter().find_map(|(scheme, plain)| {
            let rest = url.strip_prefix(scheme)?;
            Some(format!("{plain}{rest}"))
        });
        if plain.is_some() && !cfg!(feature = "tls") {
            return Err(Error::config("this address needs the feature `tls`"));
        }
        let info = plain.as_deref().unwrap_or(url).into_connection_info();
        let info = info.map_err(|error| {
            // The URL itself may hold a password.
            Error::config(format!(
                "an address is redis://[user:password@]host[:port][/database], with special characters as %40: {error}"
            ))
        })?;
        let settings = info.redis_settings().clone();
        let settings = settings
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("tagcache", env!("CARGO_PKG_VERSION"));
        #[cfg(feature = "tls")]
        if plain.is_some() {
            access.check()?;
        }
        Ok(Self {
            info: info.set_redis_settings(settings),
            #[cfg(feature = "tls")]
            encrypted: plain.is_some(),
            access: Arc::clone(access),
        })
    }

    /// Host and port, or the path of a socket.
    pub(crate) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    pub(crate) fn db(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// The same with an address that servers announce, translated.
    pub(crate) fn announced(&self, host: String, port: u16) -> Self {
        let reachable = self.access.addresses.as_ref().map(|map| map(&host, port));
        let (host, port) = reachable.unwrap_or((host, port));
        self.at(host, port)
    }

    pub(crate) fn at(&self, host: String, port: u16) -> Self {
        Self {
            info: self.info.clone().set_addr(ConnectionAddr::Tcp(host, port)),
            ..self.clone()
        }
    }

    /// Opens a connection and greets the server. Bounded by the connect time-out.
    pub(crate) async fn open(
        &self,
        timeouts: Timeouts,
        config: AsyncConnectionConfig,
    ) -> RedisResult<Wire> {
        let config = config.set_response_timeout(None);
        match tokio::time::timeout(timeouts.connect, self.connect(config)).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    async fn connect(&self, config: AsyncConnectionConfig) -> RedisResult<Wire> {
        let provided = self.access.credentials().await.map_err(io::Error::other)?;
        let mut settings = self.info.redis_settings().clone();
        if let Some(credentials) = &provided
            && !self.access.without_user
        {
            if let Some(user) = &credentials.user {
                settings = settings.set_username(user);
            }
            if let Some(password) = &credentials.password {
                settings = settings.set_password(password);
            }
        }
        let (host, port) = match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.as_str(), *port),
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await?;
                return greet(&settings, stream, config).await;
            }
            _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
        };
        // Tries all addresses of the name at once: one that is cut off would use up the time.
        let addresses = tokio::net::lookup_host((host, port)).await?;
        let streams: Vec<_> = addresses
            .map(|at| Box::pin(TcpStream::connect(at)))
            .collect();
        if streams.is_empty() {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        }
        let (stream, _) = select_ok(streams).await?;
        stream.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        if self.encrypted {
            let tls = self
                .access
                .tls(provided.as_ref())
                .map_err(io::Error::other)?;
            let name = rustls::pki_types::ServerName::try_from(host.to_owned());
            let name = name.map_err(io::Error::other)?;
            let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream);
            return greet(&settings, stream.await?, config).await;
        }
        greet(&settings, stream, config).await
    }
}

async fn greet<S>(
    settings: &RedisConnectionInfo,
    stream: S,
    config: AsyncConnectionConfig,
) -> RedisResult<Wire>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (inner, driver) = MultiplexedConnection::new_with_config(settings, stream, config).await?;
    let driver = tokio::spawn(driver).abort_handle();
    Ok(Wire { inner, driver })
}
