//! An open key.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

use redis_module::raw;

use super::state;
use crate::entry::{Entry, Handle, NewEntry, free};

/// The data type, as the server knows it. Set once by `load`.
static TYPE: AtomicPtr<raw::RedisModuleType> = AtomicPtr::new(std::ptr::null_mut());

pub(crate) fn set_type(data_type: *mut raw::RedisModuleType) {
    TYPE.store(data_type, Ordering::Relaxed);
}

fn data_type() -> *mut raw::RedisModuleType {
    TYPE.load(Ordering::Relaxed)
}

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'k> {
    /// Nothing, or something that expired.
    Empty,
    Entry(Entry<'k>),
    /// A value of another type.
    Other,
}

/// A key opened in the context's database; closed when dropped.
#[derive(Debug)]
pub(crate) struct Key {
    raw: *mut raw::RedisModuleKey,
    not_send: PhantomData<*mut ()>,
}

impl Key {
    /// # Safety
    /// An open key of the server, or null, that nobody else closes.
    pub(crate) const unsafe fn from_raw(raw: *mut raw::RedisModuleKey) -> Self {
        Self {
            raw,
            not_send: PhantomData,
        }
    }

    pub(crate) fn kind(&self) -> Kind<'_> {
        // SAFETY: the key is open, or null, which all three calls take. A value of our type is an entry (invariant 1),
        // and it lives while the key is open and not changed, which `'_` says.
        unsafe {
            if api!(RedisModule_ModuleTypeGetType(self.raw)) == data_type() {
                return match Handle::from_raw(api!(RedisModule_ModuleTypeGetValue(self.raw))) {
                    Some(handle) => Kind::Entry(Entry::from_handle(handle)),
                    None => Kind::Empty,
                };
            }
            if api!(RedisModule_KeyType(self.raw)) == raw::REDISMODULE_KEYTYPE_EMPTY as i32 {
                Kind::Empty
            } else {
                Kind::Other
            }
        }
    }

    /// Stores an entry where nothing is.
    pub(crate) fn create(&mut self, entry: NewEntry) -> Entry<'_> {
        let handle = entry.into_handle();
        // SAFETY: the key is open for writing; the keyspace owns the entry from here on, and keeps it at least while
        // `self` is borrowed.
        unsafe {
            api!(RedisModule_ModuleTypeSetValue(
                self.raw,
                data_type(),
                handle.as_raw()
            ));
            Entry::from_handle(handle)
        }
    }

    /// Puts a new entry in the place of the one that is there, and frees the old one. `unlink` is not called.
    pub(crate) fn replace(&mut self, entry: NewEntry) {
        let handle = entry.into_handle();
        let mut old = std::ptr::null_mut();
        // SAFETY: the key is open for writing and holds an entry; ownership of the old one comes to us.
        unsafe {
            api!(RedisModule_ModuleTypeReplaceValue(
                self.raw,
                data_type(),
                handle.as_raw(),
                &raw mut old
            ));
            if let Some(old) = Handle::from_raw(old) {
                free(old);
            }
        }
    }

    /// Removes the key; ends in `unlink`.
    pub(crate) fn delete(&mut self) {
        state::with(|state| state.removing = true);
        // SAFETY: the key is open for writing.
        unsafe { api!(RedisModule_DeleteKey(self.raw)) };
        state::with(|state| state.removing = false);
    }

    /// The database that it is in. Inside MULTI, Valkey 9 does not tell the handler of an event by its context.
    pub(crate) fn db(&self) -> Option<u32> {
        if self.raw.is_null() {
            return None;
        }
        // SAFETY: the key is open.
        u32::try_from(unsafe { api!(RedisModule_GetDbIdFromModuleKey(self.raw)) }).ok()
    }

    /// When it expires, unix ms.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        if self.raw.is_null() {
            return None;
        }
        // SAFETY: the key is open.
        let deadline = unsafe { api!(RedisModule_GetAbsExpire(self.raw)) };
        (deadline != i64::from(raw::REDISMODULE_NO_EXPIRE)).then_some(deadline as u64)
    }

    /// Makes it expire then, unix ms, or never.
    pub(crate) fn set_deadline_ms(&mut self, deadline: Option<u64>) {
        let deadline = deadline.map_or(i64::from(raw::REDISMODULE_NO_EXPIRE), |ms| ms as i64);
        // SAFETY: the key is open for writing and holds a value.
        unsafe { api!(RedisModule_SetAbsExpire(self.raw, deadline)) };
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: opened by `Context::open`, closed once; null is taken.
        unsafe { api!(RedisModule_CloseKey(self.raw)) };
    }
}
