//! An open key.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

use redis_module::raw;

use super::context;
use super::state::CallsNothingBack;
use crate::entry::{Entry, Handle, NewEntry, free};

/// The server's handle of the data type. Set once, by `data_type`.
pub(super) static TYPE: AtomicPtr<raw::RedisModuleType> = AtomicPtr::new(std::ptr::null_mut());

fn data_type() -> *mut raw::RedisModuleType {
    TYPE.load(Ordering::Relaxed)
}

/// A key opened in the context's database; closed when dropped.
#[derive(Debug)]
pub(crate) struct Key {
    raw: *mut raw::RedisModuleKey,
    /// The entry that it holds.
    entry: Option<Handle>,
    /// It is open for writing, and the server is not to report a change.
    is_quiet: bool,
    not_send: PhantomData<*mut ()>,
}

impl Key {
    /// # Safety
    /// The key must be an open key of the server, or null, that no other code closes.
    pub(crate) unsafe fn from_raw(raw: *mut raw::RedisModuleKey, is_quiet: bool) -> Self {
        // SAFETY: the key is open, or null, which both calls take. A value of our type is an entry (invariant 1).
        let entry = unsafe {
            let is_ours = often!(RedisModule_ModuleTypeGetType(raw)) == data_type();
            let value = is_ours.then(|| often!(RedisModule_ModuleTypeGetValue(raw)));
            value.and_then(Handle::from_raw)
        };
        Self {
            raw,
            entry,
            is_quiet,
            not_send: PhantomData,
        }
    }

    /// Whether it holds nothing, or something that expired.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: the key is open, or null, which the call takes.
        let kind = unsafe { often!(RedisModule_KeyType(self.raw)) };
        kind == raw::REDISMODULE_KEYTYPE_EMPTY as i32
    }

    /// The entry that it holds.
    pub(crate) fn entry(&self) -> Option<Entry<'_>> {
        // SAFETY: the entry lives while the key is open and unchanged, which the lifetime `'_` ensures.
        self.entry.map(|entry| unsafe { Entry::from_handle(entry) })
    }

    /// The entry that it holds, and the deadline of this entry.
    pub(crate) fn held(&self) -> Option<Held<'_>> {
        Some((self.entry()?, self.deadline()))
    }

    /// Stores an entry under the empty key. Only `store` calls this, since the index must know the entry.
    pub(super) fn create(&mut self, entry: NewEntry) {
        let handle = entry.into_handle();
        self.entry = Some(handle);
        // SAFETY: the key is open for writing; the keyspace owns the entry from here on.
        unsafe {
            often!(RedisModule_ModuleTypeSetValue(
                self.raw,
                data_type(),
                handle.as_raw()
            ))
        };
    }

    /// Replaces the entry and frees the old one. `unlink` is not called. Only `store` calls this.
    pub(super) fn replace(&mut self, entry: NewEntry) {
        let handle = entry.into_handle();
        self.entry = Some(handle);
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

    /// Removes the key, which calls `unlink`. Only `store` calls this.
    pub(super) fn delete(&mut self) {
        self.entry = None;
        // SAFETY: the key is open for writing.
        unsafe { api!(RedisModule_DeleteKey(self.raw)) };
    }

    /// The database that it is in. Inside MULTI on Valkey 9, the context of an event does not have it.
    pub(crate) fn db(&self) -> Option<u32> {
        if self.raw.is_null() {
            return None;
        }
        // SAFETY: the key is open.
        u32::try_from(unsafe { api!(RedisModule_GetDbIdFromModuleKey(self.raw)) }).ok()
    }

    /// When it expires, unix ms.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        // Redis 8.6 crashes when asked for the expiry of an empty key.
        if self.entry.is_none() && self.is_empty() {
            return None;
        }
        self.deadline().ms()
    }

    /// When the entry that it holds expires. This is looked up later.
    pub(crate) const fn deadline(&self) -> Deadline<'_> {
        CallsNothingBack::new(self)
    }

    /// Closes it after a change, which the server reports to WATCH and CLIENT TRACKING.
    ///
    /// `RM_SignalModifiedKey` is not used: on Redis 8.6 it looks the key up, which deletes an expired key and
    /// propagates that before the command that wrote the key.
    pub(crate) fn close_modified(mut self) {
        self.is_quiet = false;
    }

    /// Sets its deadline, unix ms; `None` for never.
    pub(crate) fn set_deadline_ms(&mut self, deadline: Option<u64>) {
        let deadline = deadline.map_or(i64::from(raw::REDISMODULE_NO_EXPIRE), |ms| ms as i64);
        // SAFETY: the key is open for writing and holds a value.
        unsafe { often!(RedisModule_SetAbsExpire(self.raw, deadline)) };
    }
}

/// The entry of an open key, and its deadline.
pub(crate) type Held<'k> = (Entry<'k>, Deadline<'k>);

/// When an open key expires. The look-up calls nothing back, so it is allowed while the state is borrowed.
pub(crate) type Deadline<'k> = CallsNothingBack<&'k Key>;

impl Deadline<'_> {
    /// The time, unix ms.
    pub(crate) fn ms(self) -> Option<u64> {
        // SAFETY: the key is open, and holds something.
        let deadline = unsafe { often!(RedisModule_GetAbsExpire(self.get().raw)) };
        (deadline != i64::from(raw::REDISMODULE_NO_EXPIRE)).then_some(deadline as u64)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: opened by `Context::open`, closed once; the call takes null.
        let close = || unsafe { often!(RedisModule_CloseKey(self.raw)) };
        if self.is_quiet {
            context::unreported(close);
        } else {
            close();
        }
    }
}
