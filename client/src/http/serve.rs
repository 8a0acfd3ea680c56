//! The admin endpoint on a listener of its own.

use std::future::Future;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::admin::Admin;

/// Why the endpoint does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Everybody on the network would be an admin.
    #[error("without authorisation the admin endpoint listens on loopback only, not on {0}")]
    Insecure(SocketAddr),
    /// The listener failed.
    #[error("the listener: {0}")]
    Io(#[from] std::io::Error),
}

/// Serves until `end` is ready; then lets the requests that are being answered finish.
///
/// # Errors
/// When nobody is told apart and the address is not a loopback one, or the listener fails.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    end: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    if admin.is_insecure() && !address.ip().is_loopback() {
        return Err(ServeError::Insecure(address));
    }
    let router = admin.router();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(end)
        .await?;
    Ok(())
}
