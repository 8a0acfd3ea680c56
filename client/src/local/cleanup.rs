//! The thread that reclaims entries that may not be served any more.

use std::{
    convert::Infallible,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

/// A thread that does its work again and again until this is stopped or dropped.
pub(super) struct Cleaner {
    running: Sender<Infallible>,
    thread: JoinHandle<()>,
}

/// Stops the thread, at once even while it sleeps: nothing is ever sent, and the channel closes.
pub(super) struct Signal(Receiver<Infallible>);

impl Signal {
    pub(super) fn is_stopped(&self) -> bool {
        self.0.try_recv() == Err(TryRecvError::Disconnected)
    }
}

impl Cleaner {
    /// Calls `work` every `interval` until it returns false or the cleaner is stopped.
    pub(super) fn start(
        interval: Duration,
        mut work: impl FnMut(&Signal) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (running, signal) = channel();
        let signal = Signal(signal);
        let slept = move |signal: &Signal| {
            signal.0.recv_timeout(interval) == Err(RecvTimeoutError::Timeout)
        };
        let thread = thread::Builder::new()
            .name("tagcache-cleanup".into())
            .spawn(move || while slept(&signal) && work(&signal) {})?;
        Ok(Self { running, thread })
    }

    /// Ends the thread. When this returns it does nothing any more, unless it is the thread itself that calls.
    pub(super) fn stop(self) {
        drop(self.running);
        if self.thread.thread().id() != thread::current().id() {
            // It panics only where a value's own Drop does, and has said so on its way out.
            let _ = self.thread.join();
        }
    }
}
