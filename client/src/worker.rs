//! A thread that repeats its work at intervals.

use std::{
    convert::Infallible,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

/// A thread that repeats its work until it is stopped or dropped.
pub(crate) struct Worker {
    running: Sender<Infallible>,
    thread: JoinHandle<()>,
}

/// Stops the thread, at once even while it sleeps: nothing is ever sent, the channel only closes.
pub(crate) struct Signal(Receiver<Infallible>);

impl Signal {
    pub(crate) fn is_stopped(&self) -> bool {
        self.0.try_recv() == Err(TryRecvError::Disconnected)
    }
}

impl Worker {
    /// Calls `work` after a pause, and again after each pause that it returns.
    pub(crate) fn start(
        name: &str,
        mut pause: Duration,
        mut work: impl FnMut(&Signal) -> Option<Duration> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (running, signal) = channel();
        let signal = Signal(signal);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            while signal.0.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let Some(next) = work(&signal) else { return };
                pause = next;
            }
        })?;
        Ok(Self { running, thread })
    }

    /// Ends the thread. Once this returns, the thread does nothing any more, unless it is the calling thread itself.
    pub(crate) fn stop(self) {
        drop(self.running);
        if self.thread.thread().id() != thread::current().id() {
            // It panics only if code of the application does, and that panic has been reported.
            let _ = self.thread.join();
        }
    }
}
