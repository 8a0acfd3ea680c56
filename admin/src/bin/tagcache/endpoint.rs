//! Monitor, alerts and endpoint, put together and served until a signal ends it.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tagcache_admin::alerts::{Alerts, Config};
use tagcache_admin::http::{Admin, Auth, Fleet};
use tagcache_admin::memory::{Event, MemoryMonitor, Server, ServerMemory, Subject};

use crate::args::{Endpoint, Memory};
use crate::output::Failure;

/// Time over which growth and rates are computed.
const WINDOW: Duration = Duration::from_secs(600);
/// Number of samples for the charts: six hours at the default interval; about 2 MB.
const FOR_CHARTS: usize = 4320;
/// Pause between checks whether the program is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Time for the requests that are being processed at the end.
const END: Duration = Duration::from_secs(6);

/// The parts to be served, and their listener.
pub(crate) struct Built {
    listener: TcpListener,
    admin: Admin,
    alerts: Option<Arc<Alerts>>,
    /// The name of this instance.
    pub(crate) instance: String,
}

impl Built {
    /// The dashboard's URL.
    pub(crate) fn url(&self) -> std::io::Result<String> {
        Ok(format!("http://{}/", self.listener.local_addr()?))
    }
}

/// `unless_named` provides the rules if no file was named.
pub(crate) fn build(
    endpoint: &Endpoint,
    listener: TcpListener,
    server: &Server,
    auth: Auth,
    unless_named: Option<Config>,
) -> Result<Built, Failure> {
    let instance = endpoint.instance(listener.local_addr()?.port());
    let subject = match endpoint.memory {
        Memory::Server => Subject::Server,
        Memory::Process => Subject::Process,
    };
    let alerts = match (endpoint.alerts.as_deref(), unless_named) {
        (Some(file), _) => Some(alerts(file, &instance)?),
        (None, Some(config)) => {
            let alerts = Alerts::builder(config).instance(&instance).start()?;
            Some(Arc::new(alerts))
        }
        (None, None) => None,
    };
    let source = ServerMemory::new(server.clone(), subject);
    let in_window = WINDOW.as_nanos() / endpoint.interval.as_nanos().max(1) + 2;
    let monitor = MemoryMonitor::builder(source)
        .interval(endpoint.interval)
        .window(WINDOW)
        .samples(
            usize::try_from(in_window)
                .unwrap_or(usize::MAX)
                .max(FOR_CHARTS),
        )
        .start()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let monitor = Arc::new(monitor);
    let mut admin = Admin::builder(Arc::clone(&monitor), auth)
        .instance(&instance)
        .server(server.clone());
    if let Some(alerts) = alerts.clone() {
        admin = admin.alerts(Arc::clone(&alerts));
        monitor.on_event(move |event| {
            if let Event::Sample(snapshot) = event {
                alerts.observe(snapshot);
            }
        });
    }
    Fleet::join(&monitor, server.clone(), &instance);
    Ok(Built {
        listener,
        admin: admin.build(),
        alerts,
        instance,
    })
}

fn alerts(file: &std::path::Path, instance: &str) -> Result<Arc<Alerts>, Failure> {
    let config = rules(file)?.map_err(|error| Failure::rules(file, &error))?;
    let alerts = Alerts::builder(config).instance(instance).start();
    Ok(Arc::new(
        alerts.map_err(|error| Failure::rules(file, &error))?,
    ))
}

/// Reads a rules file; mistakes in the rules are the inner error.
pub(crate) fn rules(
    file: &std::path::Path,
) -> Result<Result<Config, tagcache_admin::alerts::ConfigError>, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Rules(format!("{}: {error}", file.display())))?;
    Ok(Config::from_yaml(&text))
}

/// Serves until `over` returns a result. Then the remaining messages of alerts are sent.
pub(crate) fn serve(
    built: Built,
    mut over: impl FnMut() -> Option<Result<(), Failure>>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    built.listener.set_nonblocking(true)?;
    let outcome = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(built.listener)?;
        let end = async {
            loop {
                if let Some(outcome) = over() {
                    return outcome;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let (leave, left) = tokio::sync::oneshot::channel::<()>();
        let leaving = async {
            let _ = left.await;
        };
        let mut serving =
            std::pin::pin!(tagcache_admin::http::serve(listener, built.admin, leaving));
        tokio::select! {
            served = &mut serving => served.map_err(|error| Failure::Usage(error.to_string())),
            outcome = end => {
                drop(leave);
                let _ = tokio::time::timeout(END, serving).await;
                outcome
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Some(alerts) = built.alerts {
        alerts.stop();
    }
    outcome
}

/// Binds first, so that an address in use is reported before anything starts.
pub(crate) fn bind(endpoint: &Endpoint) -> Result<TcpListener, Failure> {
    let address = endpoint.address();
    TcpListener::bind(address)
        .map_err(|error| Failure::Usage(format!("--listen {address}: {error}")))
}

/// As `bind`, but on a free port if no address was named and the default one is in use.
pub(crate) fn bind_anywhere(endpoint: &Endpoint) -> Result<TcpListener, Failure> {
    bind(endpoint).or_else(|failure| {
        if endpoint.listen.is_some() {
            return Err(failure);
        }
        Ok(TcpListener::bind((endpoint.address().ip(), 0))?)
    })
}
