//! One thread per channel: a slow or unreachable receiver delays no other.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::channel::{Channel, Failure};
use super::message::Message;

/// Time limit for the shutdown; messages that are not delivered by then are dropped.
pub(super) const END: Duration = Duration::from_secs(5);
/// Number of messages that may wait for one channel; further ones are dropped, and counted.
const QUEUE: usize = 256;

/// Retries of failed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Attempts in all, 1 and up. Default 6.
    pub attempts: u32,
    /// Pause after the first failure; it doubles with each further one. Default 1 s.
    pub first_pause: Duration,
    /// The longest pause. Default 60 s.
    pub longest_pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
        }
    }
}

impl Retries {
    fn pause_after(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        self.first_pause
            .saturating_mul(doubled)
            .min(self.longest_pause)
    }
}

/// Counts of a channel's messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelFigures {
    /// Messages that were delivered.
    pub sent: u64,
    /// Messages that failed for good.
    pub failed: u64,
    /// Attempts after the first one.
    pub retried: u64,
    /// Messages that were dropped because the queue was full.
    pub dropped: u64,
    /// The error of the last failed attempt; contains no secret.
    pub last_error: Option<String>,
}

pub(super) struct Delivery {
    /// `None` once the channel ends.
    open: Mutex<Option<Open>>,
    ending: Arc<OnceLock<Instant>>,
    figures: Arc<Mutex<ChannelFigures>>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

struct Open {
    queue: SyncSender<Message>,
    /// Dropped to wake the thread out of a pause.
    _hurry: Sender<()>,
}

impl Delivery {
    pub(super) fn start(
        name: &str,
        to: Box<dyn Channel>,
        retries: Retries,
    ) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let (hurry, hurried) = channel();
        let (alive, ended) = channel();
        let figures = Arc::default();
        let ending = Arc::default();
        let sender = Sending {
            to,
            retries,
            hurried,
            ending: Arc::clone(&ending),
            figures: Arc::clone(&figures),
        };
        std::thread::Builder::new()
            .name(format!("tagcache-alerts-{name}"))
            .spawn(move || {
                let _alive: Sender<()> = alive;
                sender.run(&messages);
            })?;
        let open = Open {
            queue,
            _hurry: hurry,
        };
        Ok(Self {
            open: Mutex::new(Some(open)),
            ending,
            figures,
            ended: Mutex::new(ended),
        })
    }

    pub(super) fn send(&self, message: Message) {
        let open = lock(&self.open);
        let taken = open
            .as_ref()
            .is_some_and(|open| open.queue.try_send(message).is_ok());
        if !taken {
            update(&self.figures, |figures| figures.dropped += 1);
        }
    }

    pub(super) fn figures(&self) -> ChannelFigures {
        let mut copy = ChannelFigures::default();
        update(&self.figures, |figures| copy = figures.clone());
        copy
    }

    /// Accepts no more messages. Each waiting message gets one more attempt, without pauses, within [`END`]; does not
    /// wait for that.
    pub(super) fn end(&self) {
        let _ = self.ending.set(Instant::now());
        *lock(&self.open) = None;
    }

    /// Waits until the thread has ended, or until `deadline`: a receiver that replies very slowly is left alone then.
    pub(super) fn wait_until(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = lock(&self.ended).recv_timeout(left);
    }
}

struct Sending {
    to: Box<dyn Channel>,
    retries: Retries,
    hurried: Receiver<()>,
    ending: Arc<OnceLock<Instant>>,
    figures: Arc<Mutex<ChannelFigures>>,
}

impl Sending {
    fn run(&self, messages: &Receiver<Message>) {
        for message in messages {
            if self.ending.get().is_some_and(|since| since.elapsed() > END) {
                update(&self.figures, |figures| figures.dropped += 1);
            } else {
                self.deliver(&message);
            }
        }
    }

    fn deliver(&self, message: &Message) {
        let mut failures = 0;
        loop {
            let error = match self.to.send(message) {
                Ok(()) => return update(&self.figures, |figures| figures.sent += 1),
                Err(Failure::Refused(error)) => (error, false),
                Err(Failure::Retry(error)) => (error, true),
            };
            failures += 1;
            let again = error.1 && failures < self.retries.attempts && self.ending.get().is_none();
            update(&self.figures, |figures| {
                figures.last_error = Some(error.0);
                *(if again {
                    &mut figures.retried
                } else {
                    &mut figures.failed
                }) += 1;
            });
            if !again {
                return;
            }
            // At the end the pause is cut short, and the next attempt is the last.
            let _ = self
                .hurried
                .recv_timeout(self.retries.pause_after(failures));
        }
    }
}

fn update(figures: &Mutex<ChannelFigures>, change: impl FnOnce(&mut ChannelFigures)) {
    change(&mut lock(figures));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_delay_doubles_up_to_the_maximum() {
        let retries = Retries::default();
        let pauses: Vec<u64> = (1..=8).map(|n| retries.pause_after(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retries.pause_after(u32::MAX), Duration::from_secs(60));
    }
}
