//! Waiting for somebody else's load, as a thread or as a task.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{
    sync::{Condvar, Mutex, MutexGuard, ThreadId, unpoisoned},
    tags::TagSet,
};

/// One load that others may wait for.
pub(super) struct Load<V> {
    /// The epoch in which it began.
    pub(super) stamp: u64,
    pub(super) tags: TagSet,
    /// The thread that loads, where it does nothing else meanwhile.
    pub(super) thread: Option<ThreadId>,
    state: Mutex<State<V>>,
    ended: Condvar,
}

enum State<V> {
    UnderWay {
        wakers: Vec<(u64, Waker)>,
        next_id: u64,
    },
    Ended(End<V>),
}

/// What came of a load.
pub(super) enum End<V> {
    Loaded(Arc<V>),
    /// The error of the loader, for all who waited and take errors of its type.
    Failed(Arc<dyn Any + Send + Sync>),
    /// The loader panicked or was dropped: one of those who wait has to load.
    Abandoned,
}

impl<V> Clone for End<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Loaded(value) => Self::Loaded(Arc::clone(value)),
            Self::Failed(error) => Self::Failed(Arc::clone(error)),
            Self::Abandoned => Self::Abandoned,
        }
    }
}

impl<V> Load<V> {
    pub(super) fn new(stamp: u64, tags: TagSet, thread: Option<ThreadId>) -> Self {
        Self {
            stamp,
            tags,
            thread,
            state: Mutex::new(State::UnderWay {
                wakers: Vec::new(),
                next_id: 0,
            }),
            ended: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        unpoisoned(self.state.lock())
    }

    /// Ends it.
    pub(super) fn end(&self, end: End<V>) {
        let before = std::mem::replace(&mut *self.lock(), State::Ended(end));
        self.ended.notify_all();
        if let State::UnderWay { wakers, .. } = before {
            for (_, waker) in wakers {
                waker.wake();
            }
        }
    }

    /// Blocks until it has ended.
    pub(super) fn wait(&self) -> End<V> {
        let mut state = self.lock();
        loop {
            match &*state {
                State::UnderWay { .. } => state = unpoisoned(self.ended.wait(state)),
                State::Ended(end) => return end.clone(),
            }
        }
    }

    /// The same for a task.
    pub(super) fn ended(self: Arc<Self>) -> Ended<V> {
        Ended {
            load: self,
            id: None,
        }
    }
}

/// Resolves once the load has ended. Dropping it early leaves nothing behind.
pub(super) struct Ended<V> {
    load: Arc<Load<V>>,
    id: Option<u64>,
}

impl<V> Future for Ended<V> {
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

impl<V> Drop for Ended<V> {
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
