//! Callbacks of the data type `tagcache1`.
//!
//! # RDB encoding 3
//! One string ([`crate::record`]). Key and TTL are the server's.
//!
//! Auxiliary data: the number of databases, and for each its number, the reading of its clock, and its memory of
//! invalidations ([`crate::engine::Past`]): what holds for tags that are not remembered, what concerned all entries, the
//! number of tags, and for each tag its name and its past.
//!
//! Encoding 2 was numbers and strings, one by one, had no `origin`, and of the databases only number and clock; encoding
//! 1 had neither `grace` nor `stale since`. Both are still read.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;

use redis_module::{RedisBuffer, raw};
use smallvec::SmallVec;

use super::barrier::{Place, guard, log};
use super::context::{Context, monotonic_ms, now_ms};
use super::key;
use super::sizes;
use super::state::{self, CallsNothingBack, State};
use super::store;
use super::string::{OwnedStr, Str};
use super::transit::Facts;
use super::waiting;
use crate::engine::Past;
use crate::entry::{Entry, Handle, NewEntry, Parts, free};
use crate::record::{MAX_TIME_MS, Record};

const ENCODING: c_int = 3;
/// The oldest that is still read.
const OLDEST: c_int = 1;

/// Limits of what a payload may claim, the widest that the settings allow.
const MAX_TAGS: u64 = 16_384;
const MAX_TAG_BYTES: usize = 65_536;

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
    // SAFETY: the server passes a value that is alive until it is freed here.
    let Some(entry) = (unsafe { entry(value) }) else {
        return;
    };
    // The state is the main thread's. On others, the server frees what was unlinked, and what was flushed.
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
    let Some(entry) = entry else { return };
    let done = guard(Place::Unlink, false, || {
        store::unlinked(entry, u32::try_from(db).ok());
        // Something may take its place, without the server's saying so.
        waiting::may_appear(entry.key());
        true
    });
    if !done {
        // The index may still know the entry, and would find freed memory. A few bytes lost are the lesser evil.
        entry.leak();
    }
}

// ---- RDB ----

/// Where something is saved.
type Stream = CallsNothingBack<*mut raw::RedisModuleIO>;

/// A field of what is saved.
enum Field<'f> {
    Number(u64),
    Text(&'f [u8]),
}

/// Writes fields. Nothing in here panics: a record that ends in the middle would make the whole file unreadable.
fn save(io: Stream, fields: &[Field<'_>]) {
    for field in fields {
        match *field {
            Field::Number(number) => raw::save_unsigned(io.get(), number),
            Field::Text(text) => raw::save_slice(io.get(), text),
        }
    }
}

/// After a panic while something was saved: a child ends, so that the server knows that the save failed.
fn end_child() {
    if state::is_child() {
        // SAFETY: ends this process at once, without the handlers that belong to the server.
        unsafe { libc::_exit(1) };
    }
}

/// The present, as stamps show it. No entry is saved as written later: it may have come from a node whose clock is ahead, or
/// from somebody who made up a payload, and who loads what is saved goes on after it.
fn stamps_now() -> u64 {
    let now = now_ms();
    state::with(|state| state.stamps_at(now, monotonic_ms).now_ms(now))
}

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    // SAFETY: the server passes a live value and a live stream.
    let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromIO(io))) };
    let Some(entry) = entry else { return };
    let io = Stream::new(io);
    let saved = guard(Place::Save, false, || {
        let origin = state::with(|state| state.origin());
        let now = stamps_now();
        with_tags(entry, u32::try_from(db).ok(), |indexed| {
            let record = indexed.map_or_else(gone, |indexed| Record {
                is_gone: false,
                has_ttl: entry.has_ttl(),
                origin,
                created_ms: indexed.created_ms.min(now),
                hits: indexed.facts.hits,
                grace_ms: entry.grace_ms(),
                soft_since_ms: indexed.facts.soft_since_ms,
                tags: indexed.tags,
                value: entry.value(),
            });
            save(io, &[Field::Text(&record.encode())]);
        });
        true
    });
    if !saved {
        end_child();
        // SAVE and DUMP run in the server itself: the file stays readable.
        save(io, &[Field::Text(&gone().encode())]);
    }
}

/// What is saved of a gone entry.
fn gone<'r>() -> Record<'r> {
    Record {
        is_gone: true,
        ..Record::default()
    }
}

/// What the index knows about a visible entry.
struct Indexed<'s> {
    tags: SmallVec<[&'s [u8]; 8]>,
    facts: Facts,
    /// When it was written, at the earliest, unix ms.
    created_ms: u64,
}

/// Runs `body` with what the index knows of an entry; `None` if it is gone.
fn with_tags<R>(
    entry: Entry<'_>,
    db: Option<u32>,
    body: impl FnOnce(Option<Indexed<'_>>) -> R + Send,
) -> R {
    state::with(|state| {
        let found = state.database_of(entry, db);
        let indexed = found.and_then(|(db, slot)| {
            let database = state.database(db);
            let facts = Facts::of(&mut database.index, slot, entry);
            let created_ms = entry.created_ms();
            (!facts.is_gone).then(|| Indexed {
                tags: database.index.tags(slot).collect(),
                facts,
                created_ms: if facts.is_foreign {
                    database.history.saved_stamp_ms(created_ms)
                } else {
                    created_ms
                },
            })
        });
        body(indexed)
    })
}

/// Reads from a payload, which may be anything: each value is checked before it is believed.
struct Reader(*mut raw::RedisModuleIO);

impl Reader {
    fn unsigned(&self, max: u64) -> Option<u64> {
        let number = raw::load_unsigned(self.0).ok();
        number.filter(|&number| number <= max)
    }

    fn string(&self) -> Option<RedisBuffer> {
        raw::load_string_buffer(self.0).ok()
    }

    fn tag(&self) -> Option<RedisBuffer> {
        let tag = self.string();
        tag.filter(|tag| (1..=MAX_TAG_BYTES).contains(&tag.as_ref().len()))
    }
}

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, encoding: c_int) -> *mut c_void {
    guard(Place::Load, std::ptr::null_mut(), || {
        // SAFETY: the stream is alive; the name, if there is one, lives as long.
        let name = unsafe { api!(RedisModule_GetKeyNameFromIO(io)) };
        let name = if name.is_null() {
            &[][..]
        } else {
            // SAFETY: as above.
            unsafe { Str::from_raw(name.cast_mut()) }.bytes()
        };
        // SAFETY: the stream is alive.
        let db = u32::try_from(unsafe { api!(RedisModule_GetDbIdFromIO(io)) }).ok();
        load_entry(&Reader(io), db, name, encoding)
            .map_or(std::ptr::null_mut(), |entry| entry.into_handle().as_raw())
    })
}

fn load_entry(reader: &Reader, db: Option<u32>, name: &[u8], encoding: c_int) -> Option<NewEntry> {
    if !(OLDEST..=ENCODING).contains(&encoding) {
        log(&format!(
            "an entry has encoding {encoding}, this module knows {OLDEST} to {ENCODING}: update it first"
        ));
        return None;
    }
    if encoding >= 3 {
        let packed = reader.string()?;
        return Some(arrive(name, db, &Record::decode(packed.as_ref())?));
    }
    let is_gone = reader.unsigned(1)? == 1;
    let created_ms = reader.unsigned(MAX_TIME_MS)?;
    let hits = reader.unsigned(u32::MAX.into())? as u32;
    let (grace_ms, soft_since_ms) = if encoding >= 2 {
        (reader.unsigned(MAX_TIME_MS)?, reader.unsigned(MAX_TIME_MS)?)
    } else {
        (0, 0)
    };
    let count = reader.unsigned(MAX_TAGS)?;
    let tags: Option<Vec<RedisBuffer>> = (0..count).map(|_| reader.tag()).collect();
    let tags = tags?;
    let value = reader.string()?;
    let record = Record {
        is_gone,
        has_ttl: false,
        origin: 0,
        created_ms,
        hits,
        grace_ms,
        soft_since_ms: Some(soft_since_ms).filter(|&ms| ms > 0),
        tags: tags.iter().map(RedisBuffer::as_ref).collect(),
        value: value.as_ref(),
    };
    let db = db.filter(|_| state::with(|state| state.is_staging()));
    Some(arrive(name, db, &record))
}

/// Makes the entry that is about to arrive, in this database if that may be relied on. Whether it has a TTL is seen again
/// where its key is opened.
fn arrive(name: &[u8], db: Option<u32>, record: &Record<'_>) -> NewEntry {
    let parts = Parts {
        value: record.value,
        created_ms: record.created_ms,
        has_ttl: record.has_ttl,
        grace_ms: record.grace_ms,
    };
    let new = NewEntry::new(name, &parts);
    let facts = Facts {
        is_gone: record.is_gone,
        hits: record.hits,
        soft_since_ms: record.soft_since_ms,
        is_foreign: false,
        origin: record.origin,
    };
    let (handle, tags) = (new.handle(), record.tags.iter());
    state::with(|state| {
        state.transit.arrives(handle, facts, tags);
        if let Some(db) = db {
            state.transit.arrives_at(db, name);
        }
    });
    new
}

// ---- auxiliary data ----

/// More databases than any server has.
const MAX_DATABASES: u64 = 1 << 20;

fn past_fields<'f>(past: &Past) -> impl Iterator<Item = Field<'f>> + use<'f> {
    past.to_numbers().map(Field::Number).into_iter()
}

fn read_past(reader: &Reader) -> Option<Past> {
    Past::read(|max| reader.unsigned(max).ok_or(())).ok()
}

unsafe extern "C" fn aux_save(io: *mut raw::RedisModuleIO, _when: c_int) {
    let io = Stream::new(io);
    let saved = guard(Place::Save, false, || {
        state::with(|state| {
            let count = state.databases().filter(|(_, db)| db.has_history()).count();
            if count == 0 && super::load::type_method_version() >= 5 {
                return; // Nothing written, nothing saved.
            }
            let mut fields = vec![Field::Number(count as u64)];
            for (number, database) in state.databases().filter(|(_, db)| db.has_history()) {
                fields.push(Field::Number(number.into()));
                fields.push(Field::Number(database.clock));
                let (floor, everything, tags) = database.history.saved();
                fields.extend(past_fields(&floor));
                fields.extend(past_fields(&everything));
                fields.push(Field::Number(tags.len() as u64));
                for (tag, past) in tags {
                    fields.push(Field::Text(tag));
                    fields.extend(past_fields(&past));
                }
            }
            save(io, &fields);
        });
        true
    });
    if !saved {
        end_child();
        save(io, &[Field::Number(0)]);
    }
}

unsafe extern "C" fn aux_load(io: *mut raw::RedisModuleIO, encoding: c_int, _when: c_int) -> c_int {
    let loaded = guard(Place::Load, None, || {
        if !(OLDEST..=ENCODING).contains(&encoding) {
            log(&format!(
                "the clocks have encoding {encoding}, this module knows {OLDEST} to {ENCODING}"
            ));
            return None;
        }
        load_databases(&Reader(io), encoding)
    });
    (if loaded.is_some() {
        raw::REDISMODULE_OK
    } else {
        raw::REDISMODULE_ERR
    }) as c_int
}

fn load_databases(reader: &Reader, encoding: c_int) -> Option<()> {
    for _ in 0..reader.unsigned(MAX_DATABASES)? {
        let (db, reading) = (reader.unsigned(MAX_DATABASES)?, reader.unsigned(u64::MAX)?);
        let db = db as u32;
        state::with(|state| state.loaded_database(db).clock = reading);
        if encoding < 3 {
            continue;
        }
        let (floor, everything) = (read_past(reader)?, read_past(reader)?);
        for _ in 0..reader.unsigned(u64::MAX)? {
            let (tag, past) = (reader.tag()?, read_past(reader)?);
            let tag = tag.as_ref();
            state::with(|state| state.loaded_database(db).history.load(tag, &past));
        }
        let history = |state: &mut State| {
            state
                .loaded_database(db)
                .history
                .load_floors(&floor, &everything);
        };
        state::with(history);
    }
    Some(())
}

// ---- AOF ----

unsafe extern "C" fn aof_rewrite(
    io: *mut raw::RedisModuleIO,
    key: *mut raw::RedisModuleString,
    value: *mut c_void,
) {
    let written = guard(Place::Save, false, || {
        // SAFETY: the server passes a live value, name and stream.
        let (entry, key, db) = unsafe {
            (
                entry(value),
                Str::from_raw(key),
                api!(RedisModule_GetDbIdFromIO(io)),
            )
        };
        let Some(entry) = entry else { return true };
        let now = stamps_now();
        let words = with_tags(entry, u32::try_from(db).ok(), |indexed| {
            let indexed = indexed?; // A gone entry is not written at all.
            let mut words = vec![OwnedStr::new(key.bytes()), OwnedStr::new(entry.value())];
            let option = |word: &[u8], number: u64| {
                [OwnedStr::new(word), OwnedStr::from_number(number as i64)]
            };
            if !indexed.tags.is_empty() {
                words.extend(option(b"TAGS", indexed.tags.len() as u64));
                words.extend(indexed.tags.iter().map(|tag| OwnedStr::new(tag)));
            }
            if entry.grace_ms() > 0 {
                words.extend(option(b"GRACE", entry.grace_ms()));
            }
            if let Some(ms) = indexed.facts.soft_since_ms {
                words.extend(option(b"SOFT", ms));
            }
            words.extend(option(b"CREATED", indexed.created_ms.min(now)));
            words.extend(option(b"HITS", indexed.facts.hits.into()));
            Some(words)
        });
        let Some(words) = words else { return true };
        rewrite_databases(io);
        emit(io, c"CACHE.SET", &words);
        true
    });
    if !written {
        end_child();
    }
}

/// Writes all clocks, and what is remembered of invalidations, in front of the first entry. Without any entry there is
/// nothing that they would protect.
fn rewrite_databases(io: *mut raw::RedisModuleIO) {
    let numbers = |past: &Past| {
        let numbers = past.to_numbers();
        numbers.map(|n| OwnedStr::from_number(n as i64))
    };
    let lines: Vec<Vec<OwnedStr>> = state::with(|state| {
        if std::mem::replace(&mut state.clocks_rewritten, true) {
            return Vec::new();
        }
        let mut lines = Vec::new();
        for (number, database) in state.databases() {
            let reading = database.clock;
            if !database.has_history() {
                continue;
            }
            let start =
                |word: &[u8]| vec![OwnedStr::new(word), OwnedStr::from_number(number.into())];
            let (floor, everything, tags) = database.history.saved();
            let mut clock = start(b"CLOCK");
            clock.push(OwnedStr::from_number(reading as i64));
            clock.extend(numbers(&floor));
            clock.extend(numbers(&everything));
            lines.extend(tags.map(|(tag, past)| {
                let mut line = start(b"TAG");
                line.push(OwnedStr::new(tag));
                line.extend(numbers(&past));
                line
            }));
            lines.push(clock); // Last: its floor is not that of the tags above.
        }
        lines
    });
    for line in lines {
        emit(io, c"CACHE.REPLAY", &line);
    }
}

/// Writes a command. The server itself writes the expiry of a key behind it, as a PEXPIREAT.
fn emit(io: *mut raw::RedisModuleIO, command: &CStr, words: &[OwnedStr]) {
    let mut parts: Vec<_> = words.iter().map(|word| word.as_str().as_raw()).collect();
    let (format, len) = (c"v".as_ptr(), parts.len());
    // SAFETY: the stream is alive; "v" takes an array of strings and its length.
    unsafe {
        api!(RedisModule_EmitAOF(
            io,
            command.as_ptr(),
            format,
            parts.as_mut_ptr(),
            len
        ));
    };
}

// ---- looking and copying ----

unsafe extern "C" fn digest(md: *mut raw::RedisModuleDigest, value: *mut c_void) {
    guard(Place::Digest, (), || {
        // SAFETY: the server passes a live value and a live digest.
        let (entry, db) = unsafe { (entry(value), api!(RedisModule_GetDbIdFromDigest(md))) };
        let Some(entry) = entry else { return };
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
        with_tags(entry, u32::try_from(db).ok(), |indexed| {
            add(entry.value());
            if let Some(mut indexed) = indexed {
                // The order of tags says nothing, and neither do hits and age, which are each node's own.
                indexed.tags.sort_unstable();
                for tag in indexed.tags {
                    add(tag);
                }
                add(&entry.grace_ms().to_le_bytes());
                add(&[u8::from(indexed.facts.soft_since_ms.is_some())]);
            }
            // SAFETY: the digest is alive.
            unsafe { api!(RedisModule_DigestEndSequence(md.get())) };
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
        // SAFETY: the context is alive, and so is the name, if there is one.
        let name = unsafe {
            let name = api!(RedisModule_GetToKeyNameFromOptCtx(ctx));
            (!name.is_null()).then(|| Str::from_raw(name.cast_mut()))
        };
        let copied = state::with(|state| {
            let (db, slot) = state.database_of(entry, u32::try_from(db).ok())?;
            let (transit, database) = state.transit_and(db);
            let index = &mut database.index;
            let facts = Facts::of(index, slot, entry);
            // A gone entry is not copied: the server answers that the copy failed.
            let copy = (!facts.is_gone).then(|| {
                let copy = NewEntry::new(name.map_or(&[], Str::bytes), &entry.parts());
                transit.arrives(copy.handle(), facts, index.tags(slot));
                copy
            });
            state.selected = copy.is_some().then_some(db);
            copy
        });
        copied.map_or(std::ptr::null_mut(), |copy| copy.into_handle().as_raw())
    })
}

/// What it takes to free an entry: one or two calls of `free`, which for a very large value gives its pages back to the system.
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
        entry.map_or(1, |entry| 1 + entry.value().len() / BYTES_EACH)
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
        if let Some(apart) = old.value_apart() {
            // SAFETY: the value is an allocation of its own, and nobody refers into it here. If it is moved, the old one
            // is freed.
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
        store::moved(place, handle, new);
        // SAFETY: as above; this is how the server learns of the new address.
        unsafe { *value = new.as_raw() };
    });
    0 // Nothing is left to do.
}
