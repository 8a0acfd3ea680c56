//! Callbacks of the data type `tagcache1`.
//!
//! # RDB encoding 4
//! One string ([`crate::record`]). Key and TTL are saved by the server.
//!
//! Auxiliary data: one string with the hash slots that migrate to the node ([`propagation::push_coming`]), and the clocks
//! and histories of all databases ([`State::histories`]).
//!
//! Encodings 1 to 3 are read as well (`older.rs`).

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use redis_module::raw;

use super::older::Reader;
use super::state::{self, CallsNothingBack, State};
use super::transit::Transfer;
use super::{
    Context, ERR, OK, OwnedStr, Place, Str, guard, key, log, monotonic_ms, now_ms, options,
    propagation, sizes, store, waiting,
};
use crate::engine::CLOCKS_DIFFER_MS;
use crate::entry::{Entry, Handle, NewEntry, Parts, free};
use crate::record::Record;

const ENCODING: c_int = 4;

/// Registers the data type.
pub(super) fn register(ctx: &Context<'_>) -> Result<(), &'static str> {
    // Servers refuse a version of this table that is newer than theirs. From version 5 on, auxiliary data is written
    // only if there is some, so that a dump without entries loads without the module.
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
    key::TYPE.store(data_type, Ordering::Relaxed);
    Ok(())
}

/// The entry behind a value pointer that the server passed.
///
/// # Safety
/// `value` must be a value of our type that stays alive for `'a`.
unsafe fn entry<'a>(value: *const c_void) -> Entry<'a> {
    // SAFETY: by the caller's promise. Values are never null.
    unsafe { Entry::from_handle(Handle::from_raw(value.cast_mut()).unwrap_unchecked()) }
}

// ---- leaving the keyspace ----

unsafe extern "C" fn free_entry(value: *mut c_void) {
    // SAFETY: the server passes a value that is alive until it is freed here.
    let entry = unsafe { entry(value) };
    // The server's background threads may not touch the state. They free unlinked and flushed values only.
    if entry.slot().is_some() && state::is_main_thread() {
        let done = guard(Place::Unlink, false, || store::freed(entry));
        if !done {
            entry.leak();
        }
    }
    // SAFETY: the server gives the value up.
    unsafe { free(entry.handle()) };
}

unsafe extern "C" fn unlink(ctx: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) {
    // SAFETY: the server passes a live value, which it frees only afterwards, and a live context.
    let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromOptCtx(ctx))) };
    let done = guard(Place::Unlink, false, || {
        store::unlinked(entry, u32::try_from(db).ok());
        // Another value may replace it, which the server does not announce.
        waiting::may_appear(entry.key());
        true
    });
    // If that failed, the index may still know it and find freed memory: the server may free it on another thread.
    if !(done || guard(Place::Other, false, || store::freed(entry))) {
        entry.leak(); // To lose a few bytes is better.
    }
}

// ---- RDB ----

/// Runs a function that saves something. After a panic in it, a child process exits, so that the server knows that the
/// save failed. In the server itself, `otherwise` writes something readable instead.
fn save(body: impl FnOnce(), otherwise: impl FnOnce()) {
    let saved = guard(Place::Save, false, || {
        body();
        true
    });
    if !saved {
        if Context::server_flags() & raw::REDISMODULE_CTX_FLAGS_IS_CHILD != 0 {
            // SAFETY: ends this process at once, without the exit handlers, which belong to the server.
            unsafe { libc::_exit(1) };
        }
        otherwise();
    }
}

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    // SAFETY: the server passes a live value and a live stream.
    let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromIO(io))) };
    let io = CallsNothingBack::new(io);
    let write = |record: Record<'_>| raw::save_slice(io.get(), &record.encode());
    save(
        || with_record(entry, u32::try_from(db).ok(), write),
        || write(gone()),
    );
}

/// The record that is saved for a gone entry.
fn gone<'r>() -> Record<'r> {
    let mut record = Record::default();
    record.facts.is_gone = true;
    record
}

/// Runs `body` with an entry as it is saved.
fn with_record<R>(
    entry: Entry<'_>,
    db: Option<u32>,
    body: impl FnOnce(Record<'_>) -> R + Send,
) -> R {
    let now = now_ms();
    state::with(|state| {
        let latest_ms = state.stamps_at(now, monotonic_ms).now_ms(now);
        let (mut origin, found) = (state.origin(), state.database_of(entry, db));
        let foreign_ms = state.stamps.saved_stamp_ms(entry.created_ms());
        let record = found.and_then(|(db, slot)| {
            let database = state.database(db);
            let (facts, mut parts) = (database.index.facts(slot), entry.parts());
            if facts.is_foreign {
                parts.created_ms = foreign_ms;
                origin = 0;
            }
            // Never later than now: the entry may come from a node whose clock is ahead, or from a made-up payload, and
            // the stamps of a server that loads it go on after it.
            parts.created_ms = parts.created_ms.min(latest_ms);
            (!facts.is_gone).then(|| Record {
                parts,
                facts,
                origin,
                tags: database.index.tags(slot).collect(),
            })
        });
        body(record.unwrap_or_else(gone))
    })
}

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, encoding: c_int) -> *mut c_void {
    guard(Place::Read, std::ptr::null_mut(), || {
        // SAFETY: the stream is alive; the name, if there is one, lives as long.
        let (name, db) = unsafe {
            let name = api!(RedisModule_GetKeyNameFromIO(io));
            let name = (!name.is_null()).then(|| Str::from_raw(name.cast_mut()));
            (name, api!(RedisModule_GetDbIdFromIO(io)))
        };
        let (name, db) = (name.map_or(&[][..], Str::bytes), u32::try_from(db).ok());
        let arrive = |place: Option<u32>, packed: &[u8]| {
            let arrived = guard(Place::Load, None, || Some(arrive(name, place, packed)));
            arrived.unwrap_or_else(|| lost(name, db))
        };
        let loaded = match encoding {
            1 | 2 => {
                // These encodings do not show whether the entry has a TTL.
                let place = db.filter(|_| state::with(|state| state.is_staging()));
                let packed = Reader(io).entry(encoding);
                packed.and_then(|packed| arrive(place, &packed))
            }
            3 | ENCODING => {
                let packed = raw::load_string_buffer(io).ok();
                packed.and_then(|packed| arrive(db, packed.as_ref()))
            }
            _ => refuse(encoding),
        };
        loaded.map_or(std::ptr::null_mut(), |entry| entry.into_handle().as_raw())
    })
}

/// The entry whose arrival panicked. RESTORE fails. But if the load of a file failed, the server would end, and would
/// not start again with this file, for the sake of one entry. So the entry is one that no index knows: it is gone.
fn lost(name: &[u8], db: Option<u32>) -> Option<NewEntry> {
    state::with(|state| *state.arriving() = Transfer::default());
    let is_loading = Context::server_flags() & raw::REDISMODULE_CTX_FLAGS_LOADING != 0;
    let db = db.filter(|_| is_loading)?;
    state::with(|state| state.loaded_database(db).index.has_orphans = true);
    Some(NewEntry::new(name, &Parts::default()))
}

fn refuse<T>(encoding: c_int) -> Option<T> {
    log(&format!(
        "what is loaded has encoding {encoding}, this module knows 1 to {ENCODING}: update it first"
    ));
    None
}

/// Makes the entry that is about to arrive, in this database if that is reliable. Whether it has a TTL is checked again
/// when its key is opened.
fn arrive(name: &[u8], db: Option<u32>, packed: &[u8]) -> Option<NewEntry> {
    let record = Record::decode(packed)?;
    let new = NewEntry::new(name, &record.parts);
    let (handle, place) = (new.handle(), db.map(|db| (db, name)));
    state::with(|state| {
        let arriving = state.arriving();
        arriving.set(handle, record.facts, record.tags.iter(), place);
        arriving.origin = record.origin;
    });
    Some(new)
}

unsafe extern "C" fn aux_save(io: *mut raw::RedisModuleIO, _when: c_int) {
    let io = CallsNothingBack::new(io);
    let write = || {
        let mut bytes = Vec::new();
        propagation::push_coming(&mut bytes);
        bytes.extend(state::with(|state| state.histories()));
        // If nothing is written, the server saves no auxiliary data.
        if !bytes.is_empty() || super::load::type_method_version() < 5 {
            raw::save_slice(io.get(), &bytes);
        }
    };
    save(write, || raw::save_slice(io.get(), &[]));
}

unsafe extern "C" fn aux_load(io: *mut raw::RedisModuleIO, encoding: c_int, _when: c_int) -> c_int {
    let load = |mut bytes: &[u8]| {
        let load = || {
            let taken = propagation::take_coming(&mut bytes);
            Some(taken.and_then(|()| {
                state::with(|state| state.load_histories(bytes, State::loaded_database))
            }))
        };
        let loaded = guard(Place::Load, None, load);
        // As for an entry, the server must not end.
        loaded.unwrap_or_else(|| {
            state::with(|state| state.lose_histories(now_ms()));
            Some(())
        })
    };
    let loaded = guard(Place::Read, None, || {
        let loaded = match encoding {
            1..=3 => Reader(io)
                .histories(encoding)
                .and_then(|bytes| load(&bytes)),
            ENCODING => raw::load_string_buffer(io)
                .ok()
                .and_then(|bytes| load(bytes.as_ref())),
            _ => return refuse(encoding),
        };
        if loaded.is_none() {
            // The server's message only refers to this one.
            log(
                "what the file remembers of invalidations is damaged, or of a build between two releases",
            );
        }
        loaded
    });
    if loaded.is_some() { OK } else { ERR }
}

// ---- AOF ----

unsafe extern "C" fn aof_rewrite(
    io: *mut raw::RedisModuleIO,
    key: *mut raw::RedisModuleString,
    value: *mut c_void,
) {
    let write = || {
        // SAFETY: the server passes a live value, name and stream.
        let (entry, key, db) = unsafe {
            (
                entry(value),
                Str::from_raw(key),
                api!(RedisModule_GetDbIdFromIO(io)),
            )
        };
        let words = with_record(entry, u32::try_from(db).ok(), |record| {
            let parts = record.parts;
            // The command does not show whose clock that is, so the allowance for another clock is subtracted here.
            let is_own = record.origin != 0;
            let allowed_ms = if is_own { 0 } else { CLOCKS_DIFFER_MS };
            let set = |number| Some(number).filter(|&number| number > 0);
            let mut words = vec![OwnedStr::new(key.bytes()), OwnedStr::new(parts.value)];
            words.extend(options(&[
                (b"GRACE", set(parts.grace_ms)),
                (b"SOFT", set(record.soft_since_ms())),
                (
                    b"CREATED",
                    Some(parts.created_ms.saturating_sub(allowed_ms)),
                ),
                (b"HITS", Some(record.facts.hits.into())),
                // Last, before the tags themselves.
                (b"TAGS", set(record.tags.len() as u64)),
            ]));
            words.extend(record.tags.iter().map(|tag| OwnedStr::new(tag)));
            (!record.facts.is_gone).then_some(words) // A gone entry is not written at all.
        });
        let Some(words) = words else { return };
        // Written before the first entry. Without entries, there is nothing that it would protect.
        if !state::with(|state| std::mem::replace(&mut state.histories_rewritten, true)) {
            let histories = state::with(|state| state.histories());
            if !histories.is_empty() {
                let words = [b"HISTORY", &histories[..]].map(OwnedStr::new);
                emit(io, c"CACHE.REPLAY", &words);
            }
        }
        emit(io, c"CACHE.SET", &words);
    };
    save(write, || ());
}

/// Writes a command. The server itself writes the key's expiry after it, as a PEXPIREAT.
fn emit(io: *mut raw::RedisModuleIO, command: &CStr, words: &[OwnedStr]) {
    let parts: Vec<Str<'_>> = words.iter().map(OwnedStr::as_str).collect();
    let (command, format) = (command.as_ptr(), c"v".as_ptr());
    // SAFETY: the stream is alive; "v" takes an array of strings and its length.
    unsafe {
        api!(RedisModule_EmitAOF(
            io,
            command,
            format,
            parts.as_ptr(),
            parts.len()
        ));
    }
}

// ---- looking and copying ----

unsafe extern "C" fn digest(md: *mut raw::RedisModuleDigest, value: *mut c_void) {
    guard(Place::Digest, (), || {
        // SAFETY: the server passes a live value and a live digest.
        let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromDigest(md))) };
        let md = CallsNothingBack::new(md);
        let add = |bytes: &[u8]| {
            // SAFETY: the digest is alive; the bytes are only read.
            unsafe {
                api!(RedisModule_DigestAddStringBuffer(
                    md.get(),
                    bytes.as_ptr().cast(),
                    bytes.len()
                ));
            };
        };
        with_record(entry, u32::try_from(db).ok(), |mut record| {
            add(entry.value());
            if !record.facts.is_gone {
                // The order of tags has no meaning. Each node has its own hits and age of an entry.
                record.tags.sort_unstable();
                for tag in record.tags {
                    add(tag);
                }
                add(&record.parts.grace_ms.to_le_bytes());
                add(&[u8::from(record.facts.softness.is_some())]);
            }
            // SAFETY: the digest is alive.
            unsafe { api!(RedisModule_DigestEndSequence(md.get())) };
        });
    });
}

/// The value whose size the server asked for last.
static MEASURED: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the context's database holds this very entry under this name, although the server hides it because it
/// expired. MEMORY USAGE sees it even then, and asks for its size.
pub(super) fn is_hidden_at(ctx: &Context<'_>, name: &[u8], handle: Handle) -> bool {
    MEASURED.store(std::ptr::null_mut(), Ordering::Relaxed);
    ctx.call("MEMORY", &[b"USAGE", name]);
    MEASURED.load(Ordering::Relaxed) == handle.as_raw()
}

unsafe extern "C" fn mem_usage(
    _ctx: *mut raw::RedisModuleKeyOptCtx,
    value: *const c_void,
    _sample_size: usize,
) -> usize {
    MEASURED.store(value.cast_mut(), Ordering::Relaxed);
    guard(Place::Other, 0, || {
        // SAFETY: the server passes a live value.
        sizes::usage(unsafe { entry(value) }) as usize
    })
}

unsafe extern "C" fn copy(
    ctx: *mut raw::RedisModuleKeyOptCtx,
    value: *const c_void,
) -> *mut c_void {
    guard(Place::Other, std::ptr::null_mut(), || {
        // SAFETY: the server passes a live value and a live context.
        let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromOptCtx(ctx))) };
        // SAFETY: the context is alive, and so is the name, if there is one.
        let name = unsafe {
            let name = api!(RedisModule_GetToKeyNameFromOptCtx(ctx));
            (!name.is_null()).then(|| Str::from_raw(name.cast_mut()))
        };
        let copied = state::with(|state| {
            let (db, slot) = state.database_of(entry, u32::try_from(db).ok())?;
            state.arriving();
            let (transit, database) = state.transit_and(db);
            let index = &mut database.index;
            let facts = index.facts(slot);
            // A gone entry is not copied: the server replies that the copy failed. It is copied if it may not be gone
            // on the node whose commands come here: the old node of a hash slot that migrates, or a primary that did
            // not refuse it.
            let is_there =
                !facts.is_gone || facts.is_doubted || propagation::is_coming(entry.key());
            let copy = is_there.then(|| {
                let copy = NewEntry::new(name.map_or(&[], Str::bytes), &entry.parts());
                transit
                    .arriving
                    .set(copy.handle(), facts, index.tags(slot), None);
                copy
            });
            state.selected = copy.is_some().then_some(db);
            copy
        });
        copied.map_or(std::ptr::null_mut(), |copy| copy.into_handle().as_raw())
    })
}

/// The effort to free an entry: one or two calls of `free`, which give the pages of a very large value back to the
/// system. From a few MiB on, a background thread should do that.
unsafe extern "C" fn free_effort(
    _ctx: *mut raw::RedisModuleKeyOptCtx,
    value: *const c_void,
) -> usize {
    /// The server leaves efforts above 64 to a background thread.
    const BYTES_EACH: usize = 64 * 1024;
    guard(Place::Other, 1, || {
        // SAFETY: the server passes a live value.
        1 + unsafe { entry(value) }.value().len() / BYTES_EACH
    })
}

/// Active defragmentation: moves the entry, and updates all that know its address.
unsafe extern "C" fn defrag(
    ctx: *mut raw::RedisModuleDefragCtx,
    _key: *mut raw::RedisModuleString,
    value: *mut *mut c_void,
) -> c_int {
    guard(Place::Other, (), || {
        // SAFETY: the server passes a live context, and the place where it keeps a live value.
        let (old, db) = unsafe { (entry(*value), api!(RedisModule_GetDbIdFromDefragCtx(ctx))) };
        if let Some(apart) = old.value_apart() {
            // SAFETY: the value is an allocation of its own, and nothing refers into it here. If it is moved, the old
            // one is freed.
            unsafe {
                let moved = api!(RedisModule_DefragAlloc(ctx, apart.as_ptr().cast()));
                if let Some(moved) = NonNull::new(moved.cast()) {
                    old.move_value(moved);
                }
            }
        }
        let (handle, place) = (
            old.handle(),
            state::with(|state| state.database_of(old, u32::try_from(db).ok())),
        );
        // SAFETY: as above, of the entry itself.
        let moved = unsafe { api!(RedisModule_DefragAlloc(ctx, handle.as_raw())) };
        let Some(new) = Handle::from_raw(moved) else {
            return;
        };
        // SAFETY: as above. The server reads the new address here. This comes first, since the old entry is freed.
        unsafe { *value = new.as_raw() };
        store::moved(place, handle, new);
    });
    0 // Nothing is left to do.
}
