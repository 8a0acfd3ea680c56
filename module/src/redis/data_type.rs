//! Callbacks of the data type `tagcache1`.
//!
//! # RDB encoding 2
//! `flags`, `written at` (unix ms), `hits`, `grace` (ms), `stale since` (unix ms, 0: not by a soft invalidation), number
//! of tags — unsigned each —, the tags, the value — strings. Flag 1: the entry was gone when it was saved, so it is gone
//! wherever it is loaded. Key and TTL are the server's. Clocks of the databases are auxiliary data: a count, then
//! database and reading for each.
//!
//! Encoding 1 had neither `grace` nor `stale since`; it is still read.

use std::ffi::{c_int, c_void};

use redis_module::raw;

use super::barrier::{Place, guard, log};
use super::context::Context;
use super::filter;
use super::key;
use super::sizes;
use super::state::{self, State};
use super::string::{OwnedStr, Str};
use crate::entry::{Carried, Entry, Handle, NewEntry, Parts, TagBlock, free};

const ENCODING: c_int = 2;
/// The oldest that is still read.
const OLDEST: c_int = 1;
const SAVED_GONE: u64 = 1;

/// Limits of what a payload may claim, the widest that the settings allow.
const MAX_TAGS: u64 = 1_024;
const MAX_TAG_BYTES: usize = 65_536;
const MAX_TIME_MS: u64 = (1 << 48) - 1;

/// Makes the data type known to the server.
pub(super) fn register(ctx: &Context<'_>) -> Result<(), &'static str> {
    // Servers refuse a version of this table that is newer than theirs. From version 5 on, auxiliary data is written
    // only where there is some, so that a dump without entries loads without the module.
    let version = super::load::type_method_version().min(5);
    let mut methods = raw::RedisModuleTypeMethods {
        version: version as u64,
        rdb_load: Some(rdb_load),
        rdb_save: Some(rdb_save),
        aof_rewrite: Some(aof_rewrite),
        mem_usage: None,
        digest: Some(digest),
        free: Some(free_entry),
        aux_load: Some(aux_load),
        aux_save: (version < 5).then_some(aux_save as _),
        aux_save_triggers: raw::REDISMODULE_AUX_BEFORE_RDB as c_int,
        free_effort: None,
        unlink: None,
        copy: None,
        defrag: Some(defrag),
        mem_usage2: Some(mem_usage),
        free_effort2: Some(free_effort),
        unlink2: Some(unlink),
        copy2: Some(copy),
        aux_save2: (version >= 5).then_some(aux_save as _),
    };
    // SAFETY: the context is that of loading, and the server copies the table.
    let data_type = unsafe {
        api!(RedisModule_CreateDataType(
            ctx.as_raw(),
            super::TYPE_NAME.as_ptr(),
            ENCODING,
            &raw mut methods
        ))
    };
    if data_type.is_null() {
        return Err("the server refused the data type tagcache1");
    }
    key::set_type(data_type);
    Ok(())
}

/// The entry behind a value pointer that the server passed.
///
/// # Safety
/// `value` must be a value of our type that stays alive for `'a`.
unsafe fn entry<'a>(value: *const c_void) -> Option<Entry<'a>> {
    // SAFETY: by the caller's promise.
    Handle::from_raw(value.cast_mut()).map(|handle| unsafe { Entry::from_handle(handle) })
}

// ---- leaving the keyspace ----

unsafe extern "C" fn free_entry(value: *mut c_void) {
    // Perhaps on a background thread, so without the barrier's log: there is nothing in it that panics.
    if let Some(handle) = Handle::from_raw(value) {
        // SAFETY: the server gives the value up.
        unsafe { free(handle) };
    }
}

unsafe extern "C" fn unlink(ctx: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) {
    // SAFETY: the server passes a live value, which it frees only afterwards, and a live context.
    let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromOptCtx(ctx))) };
    let Some(entry) = entry else { return };
    let done = guard(Place::Unlink, false, || {
        unlinked(entry, u32::try_from(db).ok());
        true
    });
    if !done {
        // The index may still know the entry, and would find freed memory. A few bytes lost are the lesser evil.
        entry.leak();
    }
}

/// Takes an entry out of the index as it leaves the keyspace, and parks its tags in case it comes back elsewhere.
fn unlinked(entry: Entry<'_>, db: Option<u32>) {
    let met_gone = state::with(|state| {
        let (db, slot) = state.database_of(entry, db)?;
        let parked = &mut state.parked;
        // The borrow of the index and that of the parking place are of different fields, but both of `state`.
        let mut place = std::mem::take(parked);
        let database = state.database(db);
        let gone = database.index.has_backlog() && database.index.is_gone(slot);
        if gone {
            place.set(entry, db, slot, std::iter::empty(), None);
        } else {
            let index = &database.index;
            place.set(entry, db, slot, index.tags(slot), index.soft_since_ms(slot));
        }
        place.was_gone = gone;
        let removed = database.index.remove(slot, sizes::cost(entry));
        if removed.was_gone {
            database.counters.reclaimed += 1;
        }
        entry.set_unlinked(removed.hits, removed.was_gone);
        state.parked = place;
        (removed.was_gone && !state.removing).then_some(db)
    });
    if let Some(db) = met_gone.filter(|_| filter::in_transaction()) {
        filter::met_gone(db, entry.key());
    }
}

// ---- RDB ----

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    guard(Place::Save, (), || {
        // SAFETY: the server passes a live value and a live stream.
        let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromIO(io))) };
        let Some(entry) = entry else { return };
        let unsigned = |number: u64| {
            // SAFETY: the stream is alive.
            unsafe { api!(RedisModule_SaveUnsigned(io, number)) };
        };
        let string = |bytes: &[u8]| {
            // SAFETY: the stream is alive; the bytes are copied.
            unsafe {
                api!(RedisModule_SaveStringBuffer(
                    io,
                    bytes.as_ptr().cast(),
                    bytes.len()
                ));
            };
        };
        with_tags(entry, u32::try_from(db).ok(), |saved| {
            unsigned(if saved.is_none() { SAVED_GONE } else { 0 });
            let Indexed { carried, hits } = saved.unwrap_or_default();
            let tags = &carried.tags;
            unsigned(entry.created_ms());
            unsigned(hits.into());
            unsigned(entry.grace_ms());
            unsigned(carried.soft_since_ms.unwrap_or(0));
            unsigned(tags.len() as u64);
            for tag in tags {
                string(tag);
            }
            string(entry.value());
        });
    });
}

/// What the index knows about a visible entry.
#[derive(Default)]
struct Indexed<'s> {
    carried: Carried<&'s [u8]>,
    hits: u32,
}

/// Runs `body` with tags and hits of an entry; `None` if it is gone.
fn with_tags<R>(
    entry: Entry<'_>,
    db: Option<u32>,
    body: impl FnOnce(Option<Indexed<'_>>) -> R,
) -> R {
    state::with(|state| {
        let found = state.database_of(entry, db);
        let indexed = found.and_then(|(db, slot)| {
            let index = &mut state.database(db).index;
            if index.has_backlog() && index.is_gone(slot) {
                return None;
            }
            let hits = index.hits(slot);
            let carried = Carried {
                tags: index.tags(slot).collect(),
                soft_since_ms: index.soft_since_ms(slot),
            };
            Some(Indexed { carried, hits })
        });
        body(indexed)
    })
}

/// Reads from a payload, which may be anything: each value is checked before it is believed.
struct Reader(*mut raw::RedisModuleIO);

impl Reader {
    fn failed(&self) -> bool {
        // SAFETY: the stream is alive.
        unsafe { api!(RedisModule_IsIOError(self.0)) != 0 }
    }

    fn unsigned(&self, max: u64) -> Option<u64> {
        // SAFETY: the stream is alive; on an error the server returns 0 and remembers it.
        let number = unsafe { api!(RedisModule_LoadUnsigned(self.0)) };
        (!self.failed() && number <= max).then_some(number)
    }

    fn string(&self) -> Option<Buffer> {
        let mut len = 0;
        // SAFETY: the stream is alive; on an error the server returns null.
        let bytes = unsafe { api!(RedisModule_LoadStringBuffer(self.0, &raw mut len)) };
        let buffer = (!bytes.is_null()).then_some(Buffer {
            bytes: bytes.cast(),
            len,
        })?;
        (!self.failed()).then_some(buffer)
    }
}

/// Bytes that the server allocated for us.
struct Buffer {
    bytes: *mut u8,
    len: usize,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the server allocated `len` bytes there, which are ours.
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe { api!(RedisModule_Free(self.bytes.cast())) };
    }
}

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, encoding: c_int) -> *mut c_void {
    guard(Place::Load, std::ptr::null_mut(), || {
        load_entry(&Reader(io), encoding)
            .map_or(std::ptr::null_mut(), |entry| entry.into_handle().as_raw())
    })
}

fn load_entry(reader: &Reader, encoding: c_int) -> Option<NewEntry> {
    if !(OLDEST..=ENCODING).contains(&encoding) {
        log(
            c"warning",
            &format!(
                "an entry has encoding {encoding}, this module knows {OLDEST} to {ENCODING}: update it first"
            ),
        );
        return None;
    }
    let flags = reader.unsigned(SAVED_GONE)?;
    let created_ms = reader.unsigned(MAX_TIME_MS)?;
    let hits = reader.unsigned(u32::MAX.into())? as u32;
    let (grace_ms, soft_since_ms) = if encoding >= 2 {
        (reader.unsigned(MAX_TIME_MS)?, reader.unsigned(MAX_TIME_MS)?)
    } else {
        (0, 0)
    };
    let count = reader.unsigned(MAX_TAGS)?;
    let mut tags: Vec<Buffer> = Vec::new();
    for _ in 0..count {
        let tag = reader.string()?;
        if tag.len == 0 || tag.len > MAX_TAG_BYTES {
            return None;
        }
        tags.push(tag);
    }
    let value = reader.string()?;
    // The name and the TTL are known when the entry is indexed, not here.
    let parts = Parts {
        key: &[],
        value: value.as_ref(),
        created_ms,
        has_ttl: false,
        grace_ms,
    };
    let carried = Carried {
        tags,
        soft_since_ms: Some(soft_since_ms).filter(|&ms| ms > 0),
    };
    Some(NewEntry::pending(
        parts,
        hits,
        flags & SAVED_GONE != 0,
        &TagBlock::new(&carried),
    ))
}

/// The databases whose clocks are not at 0, and their readings.
fn clocks(state: &State) -> Vec<(u32, u64)> {
    let clocks = state
        .databases()
        .map(|(db, database)| (db, database.clock.reading()));
    clocks.filter(|&(_, reading)| reading > 0).collect()
}

unsafe extern "C" fn aux_save(io: *mut raw::RedisModuleIO, _when: c_int) {
    guard(Place::Save, (), || {
        let clocks = state::with(|state| clocks(state));
        if clocks.is_empty() && super::load::type_method_version() >= 5 {
            return; // Nothing written, nothing saved.
        }
        let unsigned = |number: u64| {
            // SAFETY: the stream is alive.
            unsafe { api!(RedisModule_SaveUnsigned(io, number)) };
        };
        unsigned(clocks.len() as u64);
        for (db, reading) in clocks {
            unsigned(db.into());
            unsigned(reading);
        }
    });
}

unsafe extern "C" fn aux_load(io: *mut raw::RedisModuleIO, encoding: c_int, _when: c_int) -> c_int {
    /// More databases than any server has.
    const MAX_DATABASES: u64 = 1 << 20;

    let loaded = guard(Place::Load, None, || {
        let reader = Reader(io);
        if !(OLDEST..=ENCODING).contains(&encoding) {
            log(
                c"warning",
                &format!(
                    "the clocks have encoding {encoding}, this module knows {OLDEST} to {ENCODING}"
                ),
            );
            return None;
        }
        for _ in 0..reader.unsigned(MAX_DATABASES)? {
            let (db, reading) = (reader.unsigned(MAX_DATABASES)?, reader.unsigned(u64::MAX)?);
            state::with(|state| state.database(db as u32).clock.restore(reading));
        }
        Some(())
    });
    (if loaded.is_some() {
        raw::REDISMODULE_OK
    } else {
        raw::REDISMODULE_ERR
    }) as c_int
}

// ---- AOF ----

unsafe extern "C" fn aof_rewrite(
    io: *mut raw::RedisModuleIO,
    key: *mut raw::RedisModuleString,
    value: *mut c_void,
) {
    guard(Place::Save, (), || {
        // SAFETY: the server passes a live value, name and stream.
        let (entry, key, db) = unsafe {
            (
                entry(value),
                Str::from_raw(key),
                api!(RedisModule_GetDbIdFromIO(io)),
            )
        };
        let Some(entry) = entry else { return };
        let words = with_tags(entry, u32::try_from(db).ok(), |indexed| {
            let indexed = indexed?; // A gone entry is not written at all.
            let mut words = vec![OwnedStr::new(entry.value())];
            let option = |word: &[u8], number: u64| {
                [OwnedStr::new(word), OwnedStr::from_number(number as i64)]
            };
            let Indexed { carried, hits } = indexed;
            if !carried.tags.is_empty() {
                words.extend(option(b"TAGS", carried.tags.len() as u64));
                words.extend(carried.tags.iter().map(|tag| OwnedStr::new(tag)));
            }
            if entry.grace_ms() > 0 {
                words.extend(option(b"GRACE", entry.grace_ms()));
            }
            if let Some(ms) = carried.soft_since_ms {
                words.extend(option(b"SOFT", ms));
            }
            words.extend(option(b"CREATED", entry.created_ms()));
            words.extend(option(b"HITS", hits.into()));
            Some(words)
        });
        let Some(words) = words else { return };
        rewrite_clocks(io);
        let mut parts: Vec<*mut raw::RedisModuleString> =
            words.iter().map(|word| word.as_str().as_raw()).collect();
        // SAFETY: the stream is alive; "sv" takes a string, an array of strings and its length. The server itself
        // writes the expiry as a PEXPIREAT behind it.
        unsafe {
            api!(RedisModule_EmitAOF(
                io,
                c"CACHE.SET".as_ptr(),
                c"sv".as_ptr(),
                key.as_raw(),
                parts.as_mut_ptr(),
                parts.len()
            ));
        }
    });
}

/// Writes all clocks in front of the first entry. Without any entry there is nothing that a clock would protect.
fn rewrite_clocks(io: *mut raw::RedisModuleIO) {
    let words: Vec<OwnedStr> = state::with(|state| {
        if std::mem::replace(&mut state.clocks_rewritten, true) {
            return Vec::new();
        }
        clocks(state)
            .into_iter()
            .flat_map(|(db, reading)| [i64::from(db), reading as i64])
            .map(OwnedStr::from_number)
            .collect()
    });
    if words.is_empty() {
        return;
    }
    let mut parts: Vec<*mut raw::RedisModuleString> =
        words.iter().map(|word| word.as_str().as_raw()).collect();
    // SAFETY: the stream is alive; "cv" takes a C string, an array of strings and its length.
    unsafe {
        api!(RedisModule_EmitAOF(
            io,
            c"CACHE.REPLAY".as_ptr(),
            c"cv".as_ptr(),
            c"CLOCK".as_ptr(),
            parts.as_mut_ptr(),
            parts.len()
        ));
    }
}

// ---- looking and copying ----

unsafe extern "C" fn digest(md: *mut raw::RedisModuleDigest, value: *mut c_void) {
    guard(Place::Digest, (), || {
        // SAFETY: the server passes a live value and a live digest.
        let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromDigest(md))) };
        let Some(entry) = entry else { return };
        let add = |bytes: &[u8]| {
            // SAFETY: the digest is alive; the bytes are only read.
            unsafe {
                api!(RedisModule_DigestAddStringBuffer(
                    md,
                    bytes.as_ptr().cast(),
                    bytes.len()
                ));
            };
        };
        with_tags(entry, u32::try_from(db).ok(), |indexed| {
            add(entry.value());
            if let Some(Indexed { mut carried, .. }) = indexed {
                // The order of tags says nothing, and neither do hits and age, which are each node's own.
                carried.tags.sort_unstable();
                for tag in carried.tags {
                    add(tag);
                }
                add(&entry.grace_ms().to_le_bytes());
                add(&[u8::from(carried.soft_since_ms.is_some())]);
            }
            // SAFETY: the digest is alive.
            unsafe { api!(RedisModule_DigestEndSequence(md)) };
        });
    });
}

unsafe extern "C" fn mem_usage(
    _ctx: *mut raw::RedisModuleKeyOptCtx,
    value: *const c_void,
    _sample_size: usize,
) -> usize {
    guard(Place::Other, 0, || {
        // SAFETY: the server passes a live value.
        let entry = unsafe { entry(value) };
        entry.map_or(0, |entry| sizes::usage(entry) as usize)
    })
}

unsafe extern "C" fn copy(
    ctx: *mut raw::RedisModuleKeyOptCtx,
    value: *const c_void,
) -> *mut c_void {
    guard(Place::Other, std::ptr::null_mut(), || {
        // SAFETY: the server passes a live value and a live context.
        let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromOptCtx(ctx))) };
        let Some(entry) = entry else {
            return std::ptr::null_mut();
        };
        with_tags(entry, u32::try_from(db).ok(), |indexed| {
            // A gone entry is not copied: the server answers that the copy failed.
            indexed.map_or(std::ptr::null_mut(), |indexed| {
                let parts = Parts {
                    key: &[],
                    value: entry.value(),
                    created_ms: entry.created_ms(),
                    has_ttl: entry.has_ttl(),
                    grace_ms: entry.grace_ms(),
                };
                let block = TagBlock::new(&indexed.carried);
                let copy = NewEntry::pending(parts, indexed.hits, false, &block);
                copy.into_handle().as_raw()
            })
        })
    })
}

/// What it takes to free an entry: one call of `free`, which for a very large value gives its pages back to the system.
/// From a few MiB on that is better done on a background thread.
unsafe extern "C" fn free_effort(
    _ctx: *mut raw::RedisModuleKeyOptCtx,
    value: *const c_void,
) -> usize {
    /// The server leaves what is above 64 to a background thread.
    const BYTES_EACH: usize = 64 * 1024;
    guard(Place::Other, 1, || {
        // SAFETY: the server passes a live value.
        let entry = unsafe { entry(value) };
        entry.map_or(1, |entry| 1 + entry.allocated() / BYTES_EACH)
    })
}

/// Active defragmentation: the entry moves, and whoever knows it by its address is told.
unsafe extern "C" fn defrag(
    ctx: *mut raw::RedisModuleDefragCtx,
    _key: *mut raw::RedisModuleString,
    value: *mut *mut c_void,
) -> c_int {
    guard(Place::Other, (), || {
        // SAFETY: the server passes a live context, and the place where it keeps a live value.
        let (old, db) = unsafe { (entry(*value), api!(RedisModule_GetDbIdFromDefragCtx(ctx))) };
        let Some(old) = old else { return };
        let (handle, place) = (
            old.handle(),
            state::with(|state| state.database_of(old, u32::try_from(db).ok())),
        );
        // SAFETY: the entry is one allocation of the server's allocator, and nobody refers into it here. If it is moved,
        // the old one is freed.
        let moved = unsafe { api!(RedisModule_DefragAlloc(ctx, handle.as_raw())) };
        let Some(new) = Handle::from_raw(moved) else {
            return;
        };
        state::with(|state| {
            if let Some((db, slot)) = place {
                state.database(db).index.moved(slot, new);
            }
            if state.parked.entry == Some(handle) {
                state.parked.entry = Some(new);
            }
        });
        // SAFETY: as above; this is how the server learns of the new address.
        unsafe { *value = new.as_raw() };
    });
    0 // Nothing is left to do.
}
