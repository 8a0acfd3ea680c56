//! The thread that reclaims entries that may not be served any more.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle, ThreadId},
    time::Duration,
};

/// A thread that does its work again and again until it is stopped.
pub(super) struct Cleaner {
    signal: Arc<Signal>,
    thread: JoinHandle<()>,
}

/// Stops the thread, at once even while it sleeps.
#[derive(Default)]
pub(super) struct Signal {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Sleeps for `interval`: false if it was stopped.
    fn sleep(&self, interval: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .changed
            .wait_timeout_while(stopped, interval, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }
}

impl Cleaner {
    /// Calls `work` every `interval` until it returns false or the cleaner is stopped.
    pub(super) fn start(
        interval: Duration,
        mut work: impl FnMut(&Signal) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let signal = Arc::new(Signal::default());
        let thread = thread::Builder::new()
            .name("tagcache-cleanup".into())
            .spawn({
                let signal = Arc::clone(&signal);
                move || while signal.sleep(interval) && work(&signal) {}
            })?;
        Ok(Self { signal, thread })
    }

    pub(super) fn thread_id(&self) -> ThreadId {
        self.thread.thread().id()
    }

    /// Stops the thread without waiting for it.
    pub(super) fn signal(&self) {
        self.signal.stop();
    }

    /// Ends the thread. When this returns it does nothing any more, unless it is the thread itself that calls.
    pub(super) fn stop(self) {
        self.signal.stop();
        if self.thread_id() != thread::current().id() {
            // It panics only where a value's own Drop does, and has said so on its way out.
            let _ = self.thread.join();
        }
    }
}
