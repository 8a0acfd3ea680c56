//! The servers that a cache uses.

use std::sync::Arc;

use super::credentials::{Access, Credentials};
use super::target::Target;

/// The servers that a [`Cache`](crate::Cache) uses: one, a cluster, or the primary that sentinels name.
///
/// Addresses are URLs: `redis://[user:password@]host[:port][/db]`, `rediss://…` for TLS (feature `tls`),
/// `unix:///path/to/socket?db=0&user=…&pass=…`. Percent-encode special characters in user and password (`@` is `%40`),
/// and put an IPv6 address in brackets. A string converts into a single server. `Debug` shows no user and no password.
#[derive(Clone)]
#[must_use]
pub struct Servers {
    pub(crate) kind: Kind,
    pub(crate) urls: Vec<String>,
    /// Connection settings of the primary that sentinels name.
    pub(crate) primary: Option<String>,
    pub(crate) access: Access,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Single,
    Cluster,
    /// With the name of the service.
    Sentinel(String),
}

/// Addresses without user and password.
impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let target = |url: &String| Target::new(url, &Arc::default()).ok();
        let targets = self.urls.iter().map(target);
        let addresses = targets.map(|target| target.map(|target| target.address()));
        f.debug_struct("Servers")
            .field("kind", &self.kind)
            .field("addresses", &addresses.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Servers {
    /// One server.
    pub fn single(url: impl Into<String>) -> Self {
        Self::new(Kind::Single, [url])
    }

    /// A cluster, found through any of these nodes. User, password and TLS are taken from the first URL.
    pub fn cluster(urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::new(Kind::Cluster, urls)
    }

    /// The primary of `service`, as these sentinels know it. See [`Self::primary`] for its user and database.
    pub fn sentinel(
        service: impl Into<String>,
        urls: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self::new(Kind::Sentinel(service.into()), urls)
    }

    /// With sentinels: the connection settings of the primary (TLS, user, password, database). Host and port of the URL
    /// are ignored.
    pub fn primary(mut self, url: impl Into<String>) -> Self {
        self.primary = Some(url.into());
        self
    }

    /// Trusts these root certificates (PEM) instead of the system's.
    #[cfg(feature = "tls")]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.access.fixed = self.access.fixed.root_certificates(pem);
        self
    }

    /// Shows this certificate to servers that ask for one (both PEM).
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, pem: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.access.fixed = self.access.fixed.client_certificate(pem, key);
        self
    }

    /// Calls the closure for user, password and certificates before each new connection, so that they may change while
    /// the process runs: a password that is rotated, a token or a certificate that expires. Existing connections stay
    /// as they are. User and password are for the servers, not for sentinels; certificates are for both.
    ///
    /// The closure runs on a thread that may block. While it fails or panics, no connection is made, and the error
    /// states the reason.
    ///
    /// ```
    /// use tagcache::{Credentials, Servers};
    ///
    /// let servers = Servers::single("redis://app@cache.internal:6379").credentials(|| {
    ///     let password = std::fs::read_to_string("/run/secrets/cache-password")?;
    ///     Ok::<_, std::io::Error>(Credentials::password(password.trim()))
    /// });
    /// ```
    pub fn credentials<E>(
        mut self,
        provider: impl Fn() -> Result<Credentials, E> + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.access.provider = Some(Arc::new(move || provider().map_err(Into::into)));
        self
    }

    /// Translates addresses that a cluster or sentinels announce but that cannot be reached from here, such as those
    /// inside a network of containers. Called with the announced host and port, for each server and each redirection;
    /// it must not block. [`Error`](crate::Error)s and figures show the address that it returns.
    ///
    /// ```
    /// use tagcache::Servers;
    ///
    /// let servers = Servers::cluster(["redis://127.0.0.1:7001"]).map_addresses(|host, port| match host {
    ///     "10.1.0.5" => ("127.0.0.1".to_owned(), 7001),
    ///     host => (host.to_owned(), port),
    /// });
    /// ```
    pub fn map_addresses(
        mut self,
        map: impl Fn(&str, u16) -> (String, u16) + Send + Sync + 'static,
    ) -> Self {
        self.access.addresses = Some(Arc::new(map));
        self
    }

    fn new(kind: Kind, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            kind,
            urls: urls.into_iter().map(Into::into).collect(),
            primary: None,
            access: Access::default(),
        }
    }
}

impl<S: Into<String>> From<S> for Servers {
    fn from(url: S) -> Self {
        Self::single(url)
    }
}
