//! Monitor, alerts and endpoint, put together and served until a signal ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tagcache::alerts::{Alerts, Config};
use tagcache::http::{Admin, Auth, Fleet};
use tagcache::memory::{Event, MemoryMonitor, Server, ServerMemory, Subject};
use tokio::net::TcpListener;

use crate::args::{Endpoint, Memory};
use crate::output::Failure;

/// Everything but the listener.
pub(crate) fn build(endpoint: &Endpoint, server: &Server, auth: Auth) -> Result<Admin, Failure> {
    let subject = match endpoint.memory {
        Memory::Server => Subject::Server,
        Memory::Process => Subject::Process,
    };
    let source = ServerMemory::new(server.clone(), subject);
    let monitor = MemoryMonitor::builder(source)
        .interval(endpoint.interval)
        // An hour at the default interval.
        .samples(720)
        .start()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let monitor = Arc::new(monitor);
    let mut admin = Admin::builder(Arc::clone(&monitor), auth)
        .instance(&endpoint.instance)
        .server(server.clone());
    if let Some(file) = &endpoint.alerts {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::Rules(format!("{}: {error}", file.display())))?;
        let in_file = |error: tagcache::alerts::ConfigError| Failure::rules(file, &error);
        let config = Config::from_yaml(&text).map_err(in_file)?;
        let alerts = Alerts::builder(config)
            .instance(&endpoint.instance)
            .start()
            .map_err(in_file)?;
        let alerts = Arc::new(alerts);
        admin = admin.alerts(Arc::clone(&alerts));
        monitor.on_event(move |event| {
            if let Event::Sample(snapshot) = event {
                alerts.observe(snapshot);
            }
        });
    }
    Fleet::join(&monitor, server.clone(), &endpoint.instance);
    Ok(admin.build())
}

/// Serves until Ctrl-C or SIGTERM.
///
/// `ended` is set where a signal came before this was called.
pub(crate) fn serve(
    listener: std::net::TcpListener,
    admin: Admin,
    ended: &AtomicBool,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    listener.set_nonblocking(true)?;
    let served = runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let mut end = Box::pin(signalled(ended));
        // A stream goes on for ever: at the end it is cut, not waited for.
        tokio::select! {
            served = tagcache::http::serve(listener, admin, std::future::pending()) => served,
            () = &mut end => Ok(()),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(3));
    served.map_err(|error| Failure::Usage(error.to_string()))
}

/// Binds first: an address that is taken is told before anything is started.
pub(crate) fn bind(endpoint: &Endpoint) -> Result<std::net::TcpListener, Failure> {
    let address = endpoint.address();
    std::net::TcpListener::bind(address)
        .map_err(|error| Failure::Usage(format!("--listen {address}: {error}")))
}

/// As `bind`, but where no address was named and the default one is taken, on a free port.
pub(crate) fn bind_anywhere(endpoint: &Endpoint) -> Result<std::net::TcpListener, Failure> {
    bind(endpoint).or_else(|failure| {
        if endpoint.listen.is_some() {
            return Err(failure);
        }
        Ok(std::net::TcpListener::bind((endpoint.address().ip(), 0))?)
    })
}

async fn signalled(ended: &AtomicBool) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = Vec::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        // Without a handler a signal ends the process as it always does.
        if let Ok(signal) = signal(kind) {
            signals.push(signal);
        }
    }
    if ended.load(Ordering::Relaxed) {
        return;
    }
    std::future::poll_fn(|context| {
        if signals
            .iter_mut()
            .any(|signal| signal.poll_recv(context).is_ready())
        {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
