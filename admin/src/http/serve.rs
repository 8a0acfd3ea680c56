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

/// Number of connections that may be open at once; others wait to be accepted.
const CONNECTIONS: usize = 512;
/// Time within which the head of a request must arrive, counted from the connection or the previous response. A client
/// that sends it byte by byte, or sends nothing, does not keep its connection.
const HEAD: Duration = Duration::from_secs(10);
/// Time for the requests that are being processed at the end.
const LEAVE: Duration = Duration::from_secs(5);
/// Pause after a failed accept: the process is out of file descriptors, and needs some time to get them back.
const PAUSE: Duration = Duration::from_millis(200);

/// The reason why the endpoint does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Without authentication every caller on the network would have admin access.
    #[error("without authorisation the admin endpoint listens on loopback only, not on {0}")]
    Insecure(SocketAddr),
    /// The listener failed.
    #[error("the listener: {0}")]
    Io(#[from] std::io::Error),
}

/// Serves until `end` is ready; then ends the streams and lets running requests finish, for 5 s at most. When it
/// returns, or is dropped, no connection is left.
///
/// # Errors
/// When callers are not authenticated and the address is not a loopback one, or the listener fails.
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
    // The set ends all connections when this future completes or is dropped.
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
            // An error of a connection concerns its client only.
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
                // Events are small, and each must be sent at once.
                let _ = stream.set_nodelay(true);
                return (stream, peer, place);
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
