//! The admin endpoint on a listener of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::admin::Admin;
use super::problem::Problem;

/// Connections that may be open at once; others wait to be accepted.
const CONNECTIONS: usize = 512;
/// For the head of a request to arrive, from the connection or the answer before it on: who sends it byte by byte, or
/// nothing, does not keep a place.
const HEAD: Duration = Duration::from_secs(10);
/// For requests that are being answered at the end.
const LEAVE: Duration = Duration::from_secs(5);
/// After a failed accept: the process is out of file descriptors, which takes a moment to pass.
const PAUSE: Duration = Duration::from_millis(200);

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

/// Serves until `end` is ready; then ends the streams and lets the requests that are being answered finish, for 5 s at
/// most. When it returns, or is dropped, no connection is left.
///
/// # Errors
/// When callers are not distinguished and the address is not a loopback one, or the listener fails.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    end: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    if admin.auth().is_insecure() && !address.ip().is_loopback() {
        return Err(ServeError::Insecure(address));
    }
    let router = admin
        .router()
        .fallback(async || Problem::nothing_there())
        .layer(axum::middleware::map_response(super::guard::headers));
    let router = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);

    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    // Ended with this future, however that ends.
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let (stream, peer, place) = tokio::select! {
            () = &mut end => break,
            accepted = accept(&listener, &places) => accepted,
        };
        while connections.try_join_next().is_some() {}
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.call(request)
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        connections.spawn(async move {
            // What goes wrong with a connection is its client's business.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    admin.end_streams();
    let _ = tokio::time::timeout(LEAVE, graceful.shutdown()).await;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let place = Arc::clone(places).acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Events are small and each is due at once.
                let _ = stream.set_nodelay(true);
                return (stream, peer, place);
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
