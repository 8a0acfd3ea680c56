//! Which servers a cache talks to.

use redis::{Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use super::error::Error;
use super::sentinel::replace_host;

/// Which servers a [`Cache`](crate::Cache) talks to: one, a cluster, or the primary that sentinels name.
///
/// Addresses are URLs: `redis://[user:password@]host[:port][/db]`, `rediss://…` for TLS (feature `tls`),
/// `unix:///path/to/socket?db=0&user=…&pass=…`. Special characters in user and password are percent-encoded (`@` is
/// `%40`), an IPv6 address stands in brackets. A string converts into a single server. `Debug` shows no user and no
/// password.
#[derive(Clone, Debug)]
pub struct Servers {
    pub(crate) kind: Kind,
    pub(crate) tls: Tls,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Single(String),
    Cluster(Vec<String>),
    Sentinel {
        service: String,
        sentinels: Vec<String>,
        primary: Option<String>,
    },
}

/// Addresses without user and password.
impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = |url: &String| match parse(url) {
            Ok(info) => info.addr().to_string(),
            Err(_) => "<no address>".to_owned(),
        };
        let addresses = |urls: &[String]| urls.iter().map(address).collect::<Vec<_>>();
        match self {
            Self::Single(url) => f.debug_tuple("Single").field(&address(url)).finish(),
            Self::Cluster(urls) => f.debug_tuple("Cluster").field(&addresses(urls)).finish(),
            Self::Sentinel {
                service,
                sentinels,
                primary: _,
            } => f
                .debug_struct("Sentinel")
                .field("service", service)
                .field("sentinels", &addresses(sentinels))
                .finish_non_exhaustive(),
        }
    }
}

/// Certificates for TLS, in PEM.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    pub(crate) root: Option<Vec<u8>>,
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("root", &self.root.as_ref().map(Vec::len))
            .field("client", &self.client.as_ref().map(|_| "<redacted>"))
            .finish()
    }
}

impl Servers {
    /// One server.
    pub fn single(url: impl Into<String>) -> Self {
        Self::new(Kind::Single(url.into()))
    }

    /// A cluster, found through any of these nodes. User, password and TLS are taken from the first URL.
    pub fn cluster(urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::new(Kind::Cluster(urls.into_iter().map(Into::into).collect()))
    }

    /// The primary of `service`, as these sentinels know it. See [`Self::primary`] for its user and database.
    pub fn sentinel(
        service: impl Into<String>,
        urls: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self::new(Kind::Sentinel {
            service: service.into(),
            sentinels: urls.into_iter().map(Into::into).collect(),
            primary: None,
        })
    }

    /// With sentinels: how the primary is spoken to (TLS, user, password, database). Host and port of the URL do
    /// not matter.
    #[must_use]
    pub fn primary(mut self, url: impl Into<String>) -> Self {
        if let Kind::Sentinel { primary, .. } = &mut self.kind {
            *primary = Some(url.into());
        }
        self
    }

    /// Trusts these root certificates (PEM) instead of the system's.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.root = Some(pem.into());
        self
    }

    /// Shows this certificate to servers that ask for one (both PEM).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn client_certificate(mut self, pem: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.client = Some((pem.into(), key.into()));
        self
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            tls: Tls::default(),
        }
    }
}

impl From<&str> for Servers {
    fn from(url: &str) -> Self {
        Self::single(url)
    }
}

impl From<String> for Servers {
    fn from(url: String) -> Self {
        Self::single(url)
    }
}

/// Reads an address.
pub(crate) fn parse(url: &str) -> Result<ConnectionInfo, Error> {
    let info = url.into_connection_info().map_err(|error| Error::Config {
        // The URL itself may hold a password.
        message: format!(
            "not an address of a server (special characters of a password are written as %40): {error}"
        ),
    })?;
    if !info.addr().is_supported() {
        let message = "this address needs the feature `tls` (or, for a socket, Unix)".to_owned();
        return Err(Error::Config { message });
    }
    let settings = info.redis_settings().clone();
    let settings = settings
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("tagcache", env!("CARGO_PKG_VERSION"));
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
}

/// The same, at another address.
pub(crate) fn with_address(info: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    info.clone().set_addr(replace_host(info.addr(), host, port))
}

/// What opens connections there.
pub(crate) fn client(info: ConnectionInfo, tls: &Tls) -> Result<Client, Error> {
    let refused = |error: redis::RedisError| Error::Config {
        message: error.to_string(),
    };
    #[cfg(feature = "tls")]
    if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        // With several providers compiled in rustls has no default and panics; whoever installed one keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client_tls = tls
            .client
            .as_ref()
            .map(|(cert, key)| redis::ClientTlsConfig {
                client_cert: cert.clone(),
                client_key: key.clone(),
            });
        if let Some(root) = &tls.root {
            use rustls::pki_types::{CertificateDer, pem::PemObject};
            // Without one that can be read nothing would be trusted, and each server would be blamed for it.
            if !CertificateDer::pem_slice_iter(root).any(|certificate| certificate.is_ok()) {
                let message = "the root certificates hold no certificate in PEM".to_owned();
                return Err(Error::Config { message });
            }
        }
        let certificates = redis::TlsCertificates {
            client_tls,
            root_cert: tls.root.clone(),
        };
        return Client::build_with_tls(info, certificates).map_err(refused);
    }
    #[cfg(not(feature = "tls"))]
    let _ = (&tls.root, &tls.client);
    Client::open(info).map_err(refused)
}
