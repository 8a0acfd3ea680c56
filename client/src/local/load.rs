//! One load, and waiting for it as a thread or as a task.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{
    sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, ThreadId, unpoisoned},
    tags::{TagSet, are_unchanged_since},
};

/// A value that is being loaded, or whose key is reserved.
pub(crate) struct Load<V: ?Sized> {
    pub(crate) key: Box<str>,
    /// Hash of the key, as the table of loads computes it.
    pub(super) hash: u64,
    pub(super) stamp: u64,
    /// The tags that it was announced with.
    pub(super) tags: TagSet,
    /// The thread that loads, if it does nothing else meanwhile.
    pub(super) thread: Option<ThreadId>,
    /// Whether new callers may wait for it.
    is_open: AtomicBool,
    is_overtaken: AtomicBool,
    state: Mutex<State<V>>,
    ended: Condvar,
}

enum State<V: ?Sized> {
    UnderWay {
        wakers: Vec<(u64, Waker)>,
        next_id: u64,
    },
    Ended(End<V>),
}

pub(crate) enum End<V: ?Sized> {
    /// The value, and those of its tags that were not known when the load began.
    Loaded(Arc<V>, TagSet),
    /// The error of the loader, for all callers that waited and take errors of its type.
    Failed(Arc<dyn Any + Send + Sync>),
    /// The loader panicked or was dropped: one of the waiting callers has to load.
    Abandoned,
}

impl<V: ?Sized> Clone for End<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Loaded(value, tags) => Self::Loaded(Arc::clone(value), tags.clone()),
            Self::Failed(error) => Self::Failed(Arc::clone(error)),
            Self::Abandoned => Self::Abandoned,
        }
    }
}

impl<V: ?Sized> Load<V> {
    /// `is_open`: others may wait for it.
    pub(super) fn new(
        (key, hash): (&str, u64),
        stamp: u64,
        tags: TagSet,
        thread: Option<ThreadId>,
        is_open: bool,
    ) -> Self {
        Self {
            key: key.into(),
            hash,
            stamp,
            tags,
            thread,
            is_open: AtomicBool::new(is_open),
            is_overtaken: AtomicBool::new(false),
            state: Mutex::new(State::UnderWay {
                wakers: Vec::new(),
                next_id: 0,
            }),
            ended: Condvar::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    pub(super) fn is_overtaken(&self) -> bool {
        self.is_overtaken.load(Ordering::Acquire)
    }

    pub(super) fn overtake(&self) {
        self.is_open.store(false, Ordering::Release);
        self.is_overtaken.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        unpoisoned(self.state.lock())
    }

    /// Gives `end` to all waiting callers; later callers load anew. Only the first end counts.
    pub(crate) fn end(&self, end: End<V>) {
        self.is_open.store(false, Ordering::Release);
        let mut state = self.lock();
        let State::UnderWay { wakers, .. } = &mut *state else {
            // The end is dropped without the lock: the Drop of its value is user code.
            return drop(state);
        };
        let wakers = std::mem::take(wakers);
        *state = State::Ended(end);
        drop(state);
        self.ended.notify_all();
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    pub(super) fn wait(&self) -> End<V> {
        let mut state = self.lock();
        loop {
            match &*state {
                State::UnderWay { .. } => state = unpoisoned(self.ended.wait(state)),
                State::Ended(end) => return end.clone(),
            }
        }
    }

    /// As [`Self::wait`], for a task.
    pub(crate) fn ended(self: &Arc<Self>) -> Ended<V> {
        Ended {
            load: Arc::clone(self),
            id: None,
        }
    }

    /// The result for a caller that has waited and takes errors of type `E`; `None`: it has to load. The value's own
    /// tags may have been invalidated before this caller came.
    pub(crate) fn outcome<E: Send + Sync + 'static>(
        &self,
        end: End<V>,
    ) -> Option<Result<Arc<V>, Arc<E>>> {
        match end {
            End::Loaded(value, tags) => are_unchanged_since(&tags, self.stamp).then_some(Ok(value)),
            End::Failed(error) => error.downcast().ok().map(Err),
            End::Abandoned => None,
        }
    }
}

/// Resolves once the load has ended. Dropping it early leaves nothing behind.
pub(crate) struct Ended<V: ?Sized> {
    load: Arc<Load<V>>,
    id: Option<u64>,
}

impl<V: ?Sized> Future for Ended<V> {
    type Output = End<V>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let load = Arc::clone(&self.load);
        // Wakers are the executor's code: they are cloned and dropped outside the lock.
        let mut waker = context.waker().clone();
        let mut state = load.lock();
        match &mut *state {
            State::UnderWay { wakers, next_id } => {
                if let Some((_, known)) = wakers.iter_mut().find(|(id, _)| Some(*id) == self.id) {
                    std::mem::swap(known, &mut waker);
                } else {
                    self.id = Some(*next_id);
                    wakers.push((*next_id, waker));
                    *next_id += 1;
                    return Poll::Pending;
                }
                drop(state);
                Poll::Pending
            }
            State::Ended(end) => Poll::Ready(end.clone()),
        }
    }
}

impl<V: ?Sized> Drop for Ended<V> {
    fn drop(&mut self) {
        let Some(mine) = self.id else {
            return;
        };
        let mut state = self.load.lock();
        if let State::UnderWay { wakers, .. } = &mut *state
            && let Some(index) = wakers.iter().position(|(id, _)| *id == mine)
        {
            let waker = wakers.swap_remove(index);
            drop(state);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, task::Wake};

    use super::*;

    /// How often a task was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn each_waiting_task_is_woken_once() {
        let load = Arc::new(Load::<u8>::new(("key", 0), 0, TagSet::new(), None, true));
        let woken: Vec<Arc<Woken>> = (0..3).map(|_| Arc::default()).collect();
        let waits = woken.iter().map(|woken| {
            let waker = Waker::from(Arc::clone(woken));
            let mut wait = load.ended();
            // A task is polled for other reasons as well.
            for _ in 0..2 {
                let mut context = Context::from_waker(&waker);
                assert!(Pin::new(&mut wait).poll(&mut context).is_pending());
            }
            wait
        });
        let waiting = || match &*load.lock() {
            State::UnderWay { wakers, .. } => wakers.len(),
            State::Ended(_) => 0,
        };
        let mut waits: Vec<_> = waits.collect();
        assert_eq!(waiting(), 3);
        waits.remove(1);
        assert_eq!(waiting(), 2);
        load.end(End::Abandoned);
        let woken = woken.iter();
        let counts = woken.map(|woken| woken.0.load(std::sync::atomic::Ordering::SeqCst));
        assert_eq!(counts.collect::<Vec<_>>(), [1, 0, 1]);
    }
}
