//! Statistics as server-sent events, one a sample.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};

use super::admin::Admin;
use super::problem::Problem;
use super::stats::memory_stats;
use crate::memory;

/// Streams that may be open at once.
const STREAMS: usize = 32;
/// A comment is sent when nothing else was, so that a connection that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) struct Streams {
    /// How many samples were taken; its value says nothing, its changes everything.
    samples: watch::Receiver<u64>,
    open: Arc<Semaphore>,
}

impl Streams {
    pub(super) fn of(monitor: &memory::MemoryMonitor) -> Self {
        let (sender, samples) = watch::channel(0);
        monitor.on_event(move |event| {
            if let memory::Event::Sample(_) = event {
                sender.send_modify(|n| *n += 1);
            }
        });
        Self {
            samples,
            open: Arc::new(Semaphore::new(STREAMS)),
        }
    }
}

pub(super) async fn stream(
    State(admin): State<Admin>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let streams = admin.streams();
    let place = Arc::clone(&streams.open).try_acquire_owned().map_err(|_| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{STREAMS} streams are open already"),
        )
    })?;
    let events = WatchStream::new(streams.samples.clone()).map(move |_| {
        // Given back when the stream is dropped.
        let _held = &place;
        let stats = memory_stats(&admin, &admin.monitor().snapshot());
        Ok(Event::default().event("stats").data(stats.to_string()))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
