//! Statistics as server-sent events, one per sample.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{Semaphore, TryAcquireError, watch};
use tokio_stream::wrappers::WatchStream;

use super::admin::Admin;
use super::problem::Problem;
use super::stats::memory_stats;
use crate::memory;

/// Streams that may be open at once.
const STREAMS: usize = 32;
/// An idle stream sends a comment at this interval, so that a closed connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A stream ends after this long, and its reader connects again: a caller that lost its access loses the stream as
/// well.
const LIFE: Duration = Duration::from_secs(15 * 60);

pub(super) struct Streams {
    /// Number of samples taken; only its changes matter.
    samples: watch::Receiver<u64>,
    open: Arc<Semaphore>,
    ended: watch::Sender<bool>,
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
            ended: watch::Sender::new(false),
        }
    }

    pub(super) fn end(&self) {
        self.open.close();
        self.ended.send_replace(true);
    }
}

pub(super) async fn stream(
    State(admin): State<Admin>,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Problem> {
    let streams = admin.streams();
    let place = Arc::clone(&streams.open)
        .try_acquire_owned()
        .map_err(|error| {
            let why = match error {
                TryAcquireError::NoPermits => format!("{STREAMS} streams are open already"),
                TryAcquireError::Closed => "The endpoint is ending".to_owned(),
            };
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
        })?;
    let mut ended = streams.ended.subscribe();
    let end = async move {
        let _ = tokio::time::timeout(LIFE, ended.wait_for(|ended| *ended)).await;
    };
    let events = WatchStream::new(streams.samples.clone()).map(move |_| {
        // The permit is released when the stream is dropped.
        let _held = &place;
        let stats = memory_stats(&admin, &admin.monitor().snapshot());
        Event::default().event("stats").json_data(stats)
    });
    let events = events.take_until(end);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
