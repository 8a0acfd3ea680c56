//! The primitives that model checking replaces. Under `--cfg shuttle` the checker may switch threads at every lock and
//! every atomic that this tier shares between threads, including those inside `quick_cache`.

use std::sync::{LockResult, PoisonError};
#[cfg(not(shuttle))]
pub(super) use std::{
    sync::{
        Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, ThreadId},
};

#[cfg(shuttle)]
pub(super) use shuttle::{
    sync::{
        Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, ThreadId},
};

/// Returns the guard even if a thread panicked while it held the lock. No user code runs under a lock of this tier, so
/// the protected data is intact even then.
pub(super) fn unpoisoned<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}
