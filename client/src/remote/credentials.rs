//! Authentication at servers, and the translation of announced addresses that cannot be reached from here.

use std::sync::Arc;

#[cfg(feature = "tls")]
use rustls::ClientConfig;

#[cfg(feature = "tls")]
use super::error::Error;

/// User, password and certificates of a connection, returned by the closure of
/// [`Servers::credentials`](crate::Servers::credentials). Fields that are not set are taken from the URL and
/// [`Servers`](crate::Servers). `Debug` shows none of it.
#[derive(Clone, Default)]
#[must_use]
pub struct Credentials {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// PEM.
    pub(super) root: Option<Vec<u8>>,
    /// Certificate and key, both PEM.
    pub(super) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Only a password, for the user of the URL.
    pub fn password(password: impl Into<String>) -> Self {
        Self {
            password: Some(password.into()),
            ..Self::default()
        }
    }

    /// The user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Trusts these root certificates (PEM) instead of the system's.
    #[cfg(feature = "tls")]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root = Some(pem.into());
        self
    }

    /// Shows this certificate to servers that ask for one (both PEM).
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, pem: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.client = Some((pem.into(), key.into()));
        self
    }

    /// These credentials, with fields that are not set taken from `others`.
    fn or(self, others: &Self) -> Self {
        Self {
            user: self.user.or_else(|| others.user.clone()),
            password: self.password.or_else(|| others.password.clone()),
            root: self.root.or_else(|| others.root.clone()),
            client: self.client.or_else(|| others.client.clone()),
        }
    }

    /// The settings of encrypted connections. The provider of cryptography is the one that the application installed,
    /// else ring; none is installed for the process.
    #[cfg(feature = "tls")]
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        use rustls::RootCertStore;
        use rustls::crypto::{CryptoProvider, ring};
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

        let mut roots = RootCertStore::empty();
        if let Some(pem) = &self.root {
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
            // Without a readable certificate no server would be trusted, and each would be blamed for it.
            if roots.is_empty() {
                return Err("the root certificates hold no certificate in PEM".to_owned());
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = CryptoProvider::get_default().cloned();
        let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.client else {
            return Ok(Arc::new(config.with_no_client_auth()));
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.map_err(|error| format!("the client's certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|error| format!("the client certificate's key: {error}"))?;
        let config = config.with_client_auth_cert(chain, key);
        let config = config.map_err(|error| format!("the client's certificate: {error}"))?;
        Ok(Arc::new(config))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Provider = Arc<dyn Fn() -> Result<Credentials, BoxError> + Send + Sync>;
type Addresses = Arc<dyn Fn(&str, u16) -> (String, u16) + Send + Sync>;

/// The settings that all connections of a cache share.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// Certificates that stay the same while the cache lives.
    pub(super) fixed: Credentials,
    pub(super) provider: Option<Provider>,
    pub(super) addresses: Option<Addresses>,
    /// For servers that have users of their own: sentinels.
    pub(super) without_user: bool,
    #[cfg(feature = "tls")]
    tls: std::sync::OnceLock<Arc<ClientConfig>>,
}

impl Access {
    /// The credentials of the next connection. The provider is the application's code: it may block, and it may panic.
    pub(super) async fn credentials(&self) -> Result<Option<Credentials>, String> {
        let Some(provider) = self.provider.clone() else {
            return Ok(None);
        };
        let provided = tokio::task::spawn_blocking(move || provider()).await;
        let provided = provided.map_err(|_| "the provider of credentials panicked".to_owned())?;
        let provided = provided.map_err(|error| format!("no credentials: {error}"))?;
        Ok(Some(provided.or(&self.fixed)))
    }

    /// Checks the certificates that stay the same.
    #[cfg(feature = "tls")]
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.provider.is_none() {
            self.tls(None).map_err(Error::config)?;
        }
        Ok(())
    }

    /// The settings of encrypted connections; those that stay the same are read once.
    #[cfg(feature = "tls")]
    pub(super) fn tls(&self, provided: Option<&Credentials>) -> Result<Arc<ClientConfig>, String> {
        if let Some(provided) = provided {
            return provided.tls();
        }
        if let Some(tls) = self.tls.get() {
            return Ok(Arc::clone(tls));
        }
        let tls = self.fixed.tls()?;
        Ok(Arc::clone(self.tls.get_or_init(|| tls)))
    }
}
