//! The primitives that model checking replaces. Under `--cfg shuttle` every lock and every atomic that this tier
//! shares between threads is a point at which the checker may switch threads, those inside `quick_cache` included.

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

/// The guard, whether or not a thread panicked with it. No code of the user's runs under a lock of this tier, so
/// what a lock protects is whole even then.
pub(super) fn unpoisoned<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}
