//! The value of a key: header, key and value in one allocation, or the value in a second one where that takes less.
//!
//! # Layout
//! | bytes | content |
//! |---|---|
//! | 4 | slot in the index, while indexed |
//! | 1 | flags |
//! | 6 | time of the write, unix ms |
//! | 1-10 | length of the value, LEB128 |
//! | 1-10 | length of the key, LEB128 |
//! | 0-10 | its grace in ms, LEB128, if it has one |
//! | … | key |
//! | … | value, or 8: the address of the value |
//!
//! `DESIGN.md` (Memory) explains when a value lies apart, and why.
//!
//! The header of a short key and value takes thirteen bytes: with a 13-byte key, a value of 100 bytes still fits in
//! 128. The key is stored here as well as in the keyspace because reclaiming goes from a tag to entries, and a key can
//! only be removed by its name. Tags and hits are in the index.
//!
//! # Life
//! Made (by CACHE.SET, an RDB load, COPY) → *indexed* → unlinked (it left the keyspace under this name; RENAME and MOVE
//! bring the same object back under another) → freed. While an entry is not indexed, its facts are in
//! [`Transit`](crate::redis::transit::Transit). Freeing may happen on another thread (FLUSHALL ASYNC), so it touches
//! this memory and nothing else.

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

use redis_module::raw;

use crate::engine::Slot;
use crate::leb128;
pub(crate) use crate::record::Parts;

const ID: usize = 0;
const FLAGS: usize = 4;
const CREATED: usize = 5;
const LENGTHS: usize = 11;

const INDEXED: u8 = 1;
/// The value lies apart.
const APART: u8 = 2;
const HAS_TTL: u8 = 8;
const LEAKED: u8 = 16;
const HAS_GRACE: u8 = 32;

/// Identity of an entry, which the index stores and compares, and never dereferences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handle(NonNull<u8>);

/// The handle of no entry.
impl Default for Handle {
    fn default() -> Self {
        Self(NonNull::dangling())
    }
}

// SAFETY: a handle is an address that is compared. Turning it back into an entry is `Entry::from_handle`, which is
// unsafe and states its conditions. The index that holds handles is dropped on a helper thread after a large flush.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

// SAFETY: entries are changed only under the server's lock. The `Send` bound of `state::with` involves no other
// thread; it keeps contexts and open keys out, and entries may come in.
unsafe impl Send for Entry<'_> {}
// SAFETY: as above.
unsafe impl Sync for Entry<'_> {}

impl Handle {
    pub(crate) fn from_raw(value: *mut c_void) -> Option<Self> {
        NonNull::new(value.cast()).map(Self)
    }

    pub(crate) const fn as_raw(self) -> *mut c_void {
        self.0.as_ptr().cast()
    }
}

/// An entry that is alive for as long as `'a`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    ptr: NonNull<u8>,
    alive: PhantomData<&'a [u8]>,
}

/// An entry that is not shared yet. It is freed when it is dropped.
#[derive(Debug)]
pub(crate) struct NewEntry(NonNull<u8>);

/// Bytes that an entry uses of its allocation, and bytes that a value that lies apart uses of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allocated {
    pub(crate) entry: usize,
    pub(crate) value: Option<usize>,
}

/// The bytes of an address.
const ADDRESS: usize = size_of::<usize>();

/// The bytes that an allocator with four sizes between powers of two hands out for this many. With another allocator,
/// values may lie where they take a little more.
pub(crate) const fn class(size: usize) -> usize {
    size.next_multiple_of(1 << ((size - 1).ilog2() - 2))
}

impl Allocated {
    /// The best layout for this many bytes of header and key, and of value.
    const fn of(head: usize, value: usize) -> Self {
        /// Saving less is not worth a second allocation.
        const WORTH: usize = 32;
        /// Up to this size, a class leaves no more than 31 bytes over.
        const SMALL: usize = 256;
        // Most sizes leave too little over for an address, let alone for more.
        let is_apart = head + value > SMALL && {
            let together = class(head + value);
            together >= head + value + ADDRESS + WORTH
                && together
                    >= class(head + ADDRESS) + class(if value < 64 { 64 } else { value }) + WORTH
        };
        let in_entry = head + if is_apart { ADDRESS } else { value };
        Self {
            entry: in_entry,
            value: if is_apart { Some(value) } else { None },
        }
    }
}

/// The time of a write, as the header stores it.
fn created(ms: u64) -> [u8; LENGTHS - CREATED] {
    let mut bytes = [0; LENGTHS - CREATED];
    bytes.copy_from_slice(&ms.to_le_bytes()[..LENGTHS - CREATED]);
    bytes
}

impl Parts<'_> {
    /// The allocations that an entry of these parts needs, with a key of `key_len` bytes.
    #[inline(always)]
    pub(crate) fn size(&self, key_len: usize) -> Allocated {
        let grace = if self.grace_ms > 0 {
            leb128::len(self.grace_ms)
        } else {
            0
        };
        let lengths = leb128::len(self.value.len() as u64) + leb128::len(key_len as u64);
        Allocated::of(LENGTHS + lengths + grace + key_len, self.value.len())
    }

    /// Writes an entry of these parts, except its slot and its key, and returns where the key belongs. A value that
    /// lies apart is written to `apart`.
    ///
    /// # Safety
    /// `to` must have room for such an entry, and `apart` for the value; the value must not lie there.
    #[inline]
    unsafe fn write(
        &self,
        key_len: usize,
        flags: u8,
        to: NonNull<u8>,
        apart: Option<NonNull<u8>>,
    ) -> NonNull<u8> {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flags
            | flag(self.has_ttl, HAS_TTL)
            | flag(self.grace_ms > 0, HAS_GRACE)
            | flag(apart.is_some(), APART);
        let mut at = LENGTHS;
        // SAFETY: by the caller's promise there is room for all that is written.
        unsafe {
            to.add(FLAGS).write(flags);
            to.add(CREATED).cast().write(created(self.created_ms));
            let mut put = |byte| {
                to.add(at).write(byte);
                at += 1;
            };
            leb128::write(self.value.len() as u64, &mut put);
            leb128::write(key_len as u64, &mut put);
            if self.grace_ms > 0 {
                leb128::write(self.grace_ms, &mut put);
            }
            let end = to.add(at + key_len);
            if let Some(value) = apart {
                let address = value.as_ptr().expose_provenance().to_ne_bytes();
                end.cast().write(address);
            }
            let value = NonNull::from(self.value).cast();
            apart
                .unwrap_or(end)
                .copy_from_nonoverlapping(value, self.value.len());
            to.add(at)
        }
    }
}

impl NewEntry {
    pub(crate) fn new(key: &[u8], parts: &Parts<'_>) -> Self {
        Self::sized(key, parts, parts.size(key.len()))
    }

    /// [`NewEntry::new`] where the size is known.
    #[inline(always)]
    pub(crate) fn sized(key: &[u8], parts: &Parts<'_>, size: Allocated) -> Self {
        let (ptr, apart) = (allocate(size.entry), size.value.map(allocate));
        // SAFETY: the allocations are that large, and new.
        unsafe {
            let to = parts.write(key.len(), 0, ptr, apart);
            to.copy_from_nonoverlapping(NonNull::from(key).cast(), key.len());
        }
        Self(ptr)
    }

    pub(crate) fn as_entry(&self) -> Entry<'_> {
        Entry {
            ptr: self.0,
            alive: PhantomData,
        }
    }

    pub(crate) const fn handle(&self) -> Handle {
        Handle(self.0)
    }

    /// Hands the entry over to the keyspace, which frees it through the data type's `free`.
    pub(crate) const fn into_handle(self) -> Handle {
        let handle = self.handle();
        std::mem::forget(self);
        handle
    }
}

impl Drop for NewEntry {
    fn drop(&mut self) {
        // SAFETY: a `NewEntry` owns its allocation.
        unsafe { free(self.handle()) };
    }
}

/// The server's allocator, which needs no layout to free: an entry need not know how it was allocated. In tests,
/// without a server, this is C's allocator. Miri cannot even read the statics that a server sets.
fn allocate(size: usize) -> NonNull<u8> {
    // SAFETY: any size may be requested. The function is set once, before the first entry is made.
    let ptr = unsafe {
        let own = if cfg!(miri) {
            None
        } else {
            raw::RedisModule_Alloc
        };
        match own {
            Some(alloc) => alloc(size),
            None => libc::malloc(size),
        }
    };
    NonNull::new(ptr.cast()).unwrap_or_else(|| {
        let layout = Layout::from_size_align(size, 1);
        handle_alloc_error(layout.expect("an entry is smaller than half the address space"))
    })
}

/// # Safety
/// [`allocate`] must have returned `ptr`, which must not be used afterwards.
unsafe fn release(ptr: *mut c_void) {
    // SAFETY: by the caller's promise.
    unsafe {
        let own = if cfg!(miri) {
            None
        } else {
            raw::RedisModule_Free
        };
        match own {
            Some(free) => free(ptr),
            None => libc::free(ptr),
        }
    }
}

/// Frees an entry.
///
/// # Safety
/// The entry must be alive, and must not be used afterwards.
pub(crate) unsafe fn free(handle: Handle) {
    // SAFETY: by the caller's promise.
    let entry = unsafe { Entry::from_handle(handle) };
    if entry.flags() & LEAKED == 0 {
        let value = entry.value_apart();
        // SAFETY: `new` allocated both, and the caller gives them up.
        unsafe {
            if let Some(value) = value {
                release(value.as_ptr().cast());
            }
            release(handle.as_raw());
        }
    }
}

/// The positions of an entry's parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    grace_ms: u64,
    key: usize,
    value: usize,
    value_len: usize,
}

impl Extent {
    pub(crate) const fn key_len(self) -> usize {
        self.value - self.key
    }

    /// Whether an entry of these parts under the same key has the same extent.
    pub(crate) const fn is_that_of(self, parts: &Parts<'_>) -> bool {
        self.value_len == parts.value.len() && self.grace_ms == parts.grace_ms
    }
}

impl<'a> Entry<'a> {
    /// # Safety
    /// The entry must be alive for `'a`: it is in the keyspace and nothing removes it meanwhile, or it is owned.
    pub(crate) const unsafe fn from_handle(handle: Handle) -> Self {
        Self {
            ptr: handle.0,
            alive: PhantomData,
        }
    }

    pub(crate) const fn handle(self) -> Handle {
        Handle(self.ptr)
    }

    fn read<const N: usize>(self, at: usize) -> [u8; N] {
        debug_assert!(at + N <= LENGTHS);
        // SAFETY: within the header, which every entry has; `'a` means that the entry is alive. Byte arrays need no
        // alignment.
        unsafe { self.ptr.as_ptr().add(at).cast::<[u8; N]>().read() }
    }

    fn write<const N: usize>(self, at: usize, bytes: [u8; N]) {
        debug_assert!(at + N <= LENGTHS);
        // SAFETY: as `read`. No slice that was handed out covers the header, and only the holder of the server's lock writes.
        unsafe { self.ptr.as_ptr().add(at).cast::<[u8; N]>().write(bytes) };
    }

    #[inline(always)]
    pub(crate) fn extent(self) -> Extent {
        let mut at = LENGTHS;
        let mut next_byte = || {
            // SAFETY: `build` wrote two complete LEB128 numbers here, a third with the flag for the grace, and `read`
            // stops at the end of each.
            let byte = unsafe { self.ptr.as_ptr().add(at).read() };
            at += 1;
            Some(byte)
        };
        let value_len = leb128::read(&mut next_byte).unwrap_or(0) as usize;
        let key_len = leb128::read(&mut next_byte).unwrap_or(0) as usize;
        let grace_ms = if self.has_grace() {
            leb128::read(&mut next_byte).unwrap_or(0)
        } else {
            0
        };
        Extent {
            grace_ms,
            key: at,
            value: at + key_len,
            value_len,
        }
    }

    fn slice(self, from: usize, to: usize) -> &'a [u8] {
        // SAFETY: `from..to` comes from `extent`, so it lies in the allocation, which lives for `'a`; `overwrite` and
        // `rewrite`, which write behind the header, may be called only when the slice is not used any more.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().add(from), to - from) }
    }

    #[inline(always)]
    pub(crate) fn value(self) -> &'a [u8] {
        let extent = self.extent();
        let end = extent.value + extent.value_len;
        match self.apart(&extent) {
            None => self.slice(extent.value, end),
            // SAFETY: `write` put `value_len` bytes there, which live as long as the entry.
            Some(value) => unsafe { std::slice::from_raw_parts(value.as_ptr(), extent.value_len) },
        }
    }

    fn apart(self, extent: &Extent) -> Option<NonNull<u8>> {
        if self.flags() & APART == 0 {
            return None;
        }
        let mut address = [0; ADDRESS];
        address.copy_from_slice(self.slice(extent.value, extent.value + ADDRESS));
        NonNull::new(std::ptr::with_exposed_provenance_mut(usize::from_ne_bytes(
            address,
        )))
    }

    /// The allocation of a value that lies apart.
    #[inline(always)]
    pub(crate) fn value_apart(self) -> Option<NonNull<u8>> {
        if self.flags() & APART == 0 {
            return None; // Does not read the lengths.
        }
        self.apart(&self.extent())
    }

    /// Sets the new address of a value that lies apart.
    ///
    /// # Safety
    /// The same bytes must be at `to`, in an allocation that is the entry's, and nothing may be borrowed from the old
    /// one.
    pub(crate) unsafe fn move_value(self, to: NonNull<u8>) {
        let address = to.as_ptr().expose_provenance().to_ne_bytes();
        // SAFETY: the address lies there; by the caller's promise the old one is not used.
        unsafe {
            let at = self.ptr.as_ptr().add(self.extent().value);
            at.copy_from_nonoverlapping(address.as_ptr(), ADDRESS);
        }
    }

    pub(crate) fn key(self) -> &'a [u8] {
        let extent = self.extent();
        self.slice(extent.key, extent.value)
    }

    fn flags(self) -> u8 {
        self.read::<1>(FLAGS)[0]
    }

    fn set_flags(self, flags: u8) {
        self.write(FLAGS, [flags]);
    }

    pub(crate) fn created_ms(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..LENGTHS - CREATED].copy_from_slice(&self.read::<{ LENGTHS - CREATED }>(CREATED));
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn set_created_ms(self, ms: u64) {
        self.write(CREATED, created(ms));
    }

    fn has_grace(self) -> bool {
        self.flags() & HAS_GRACE != 0
    }

    /// The time for which it may be served as stale, ms.
    #[inline(always)]
    pub(crate) fn grace_ms(self) -> u64 {
        #[cold]
        fn stored(entry: Entry<'_>) -> u64 {
            entry.extent().grace_ms
        }
        if self.has_grace() { stored(self) } else { 0 }
    }

    /// Whether it was written with a TTL.
    pub(crate) fn has_ttl(self) -> bool {
        self.flags() & HAS_TTL != 0
    }

    pub(crate) fn set_has_ttl(self, has_ttl: bool) {
        self.set_flags(if has_ttl {
            self.flags() | HAS_TTL
        } else {
            self.flags() & !HAS_TTL
        });
    }

    /// Its slot in the index; `None` before it is indexed and after it was unlinked.
    pub(crate) fn slot(self) -> Option<Slot> {
        (self.flags() & INDEXED != 0).then(|| Slot(u32::from_le_bytes(self.read(ID))))
    }

    /// Makes `free` ignore it: the index may still refer to it, since its removal failed.
    pub(crate) fn leak(self) {
        self.set_flags(self.flags() | LEAKED);
    }

    pub(crate) fn set_indexed(self, slot: Slot) {
        self.write(ID, slot.0.to_le_bytes());
        self.set_flags(self.flags() | INDEXED);
    }

    pub(crate) fn set_unlinked(self) {
        self.set_flags(self.flags() & !INDEXED);
    }

    /// Replaces its parts by others of the same lengths, in the same place, under the same key and in the same slot.
    ///
    /// # Safety
    /// The extent must be its own, and that of the parts. Nothing that was borrowed from the entry may be used
    /// afterwards, and the value must not be borrowed from it.
    #[inline(always)]
    pub(crate) unsafe fn overwrite(self, extent: Extent, parts: &Parts<'_>) {
        let apart = self.value_apart();
        self.set_has_ttl(parts.has_ttl);
        self.set_created_ms(parts.created_ms);
        let (value, len) = (NonNull::from(parts.value).cast(), parts.value.len());
        // SAFETY: the old value has this length, and by the caller's promise the new one lies elsewhere.
        unsafe {
            let old = apart.unwrap_or_else(|| self.ptr.add(extent.value));
            old.copy_from_nonoverlapping(value, len);
        }
    }

    /// The same for parts of any length, whose size is `size`.
    ///
    /// # Safety
    /// The extent must be its own, its allocations must be made for that size, and its value must lie apart if and only
    /// if that of the parts is to. Nothing that was borrowed from the entry may be used afterwards, and the value must
    /// not be borrowed from it.
    pub(crate) unsafe fn rewrite(self, extent: Extent, parts: &Parts<'_>, size: Allocated) {
        let (apart, key_len) = (self.value_apart(), extent.key_len());
        let last = apart.map_or(parts.value.len(), |_| ADDRESS);
        let (from, to) = (extent.key, size.entry - last - key_len);
        let flags = self.flags() & (INDEXED | LEAKED);
        // SAFETY: there is room, and by the caller's promise the value lies elsewhere.
        unsafe {
            if from != to {
                self.ptr.add(to).copy_from(self.ptr.add(from), key_len);
            }
            parts.write(key_len, flags, self.ptr, apart);
        }
    }

    /// Its parts, apart from the key.
    pub(crate) fn parts(self) -> Parts<'a> {
        Parts {
            value: self.value(),
            created_ms: self.created_ms(),
            has_ttl: self.has_ttl(),
            grace_ms: self.grace_ms(),
        }
    }

    /// The bytes that it uses of its allocations.
    #[inline(always)]
    pub(crate) fn allocated(self, extent: Extent) -> Allocated {
        let is_apart = self.flags() & APART != 0;
        let (value, len) = (extent.value, extent.value_len);
        Allocated {
            entry: value + if is_apart { ADDRESS } else { len },
            value: is_apart.then_some(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values, of which some lie apart.
    fn values() -> impl Strategy<Value = Vec<u8>> {
        let around = |len: usize| proptest::collection::vec(any::<u8>(), len - 20..=len);
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            around(512),
            around(1024)
        ]
    }

    #[test]
    fn there_are_four_size_classes_per_power_of_two() {
        let sizes = [256, 257, 320, 321, 400, 512, 513, 640, 641];
        let classes = [256, 320, 320, 384, 448, 512, 640, 640, 768];
        assert_eq!(sizes.map(class), classes);
    }

    #[test]
    fn a_value_is_stored_apart_where_that_takes_less_memory() {
        let of = |value| Allocated::of(26, value).value;
        assert_eq!(
            [100, 500, 1_000, 4_000].map(of),
            [None, Some(500), Some(1_000), None]
        );
        let step = if cfg!(miri) { 500 } else { 1 };
        for head in (13..600).step_by(11) {
            for value in (0..2_100).step_by(step) {
                let together = class(head + value);
                let apart = class(head + ADDRESS) + class(value.max(64));
                let expected = if together >= apart + 32 {
                    (head + ADDRESS, Some(value))
                } else {
                    (head + value, None)
                };
                let size = Allocated::of(head, value);
                assert_eq!((size.entry, size.value), expected, "{head} and {value}");
            }
        }
    }

    #[test]
    fn a_handle_is_the_pointer_to_its_entry() {
        let new = NewEntry::new(b"key", &PLAIN);
        let handle = new.handle();
        let pointer = handle.as_raw();
        assert_eq!(pointer, handle.0.as_ptr().cast());
        assert_eq!(Handle::from_raw(pointer), Some(handle));
        assert_eq!(Handle::from_raw(std::ptr::null_mut()), None);
    }

    #[test]
    fn setting_a_flag_twice_keeps_it_and_changes_no_other() {
        let new = NewEntry::new(b"key", &PLAIN);
        let entry = new.as_entry();
        for _ in 0..2 {
            entry.set_has_ttl(true);
            entry.set_indexed(Slot(7));
            assert_eq!((entry.has_ttl(), entry.slot()), (true, Some(Slot(7))));
        }
        for _ in 0..2 {
            entry.leak();
            assert_eq!(entry.flags(), HAS_TTL | INDEXED | LEAKED);
        }
        entry.set_flags(0); // Otherwise it would be leaked.
    }

    const PLAIN: Parts<'_> = Parts {
        value: b"value",
        created_ms: 1,
        has_ttl: false,
        grace_ms: 0,
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]
        #[test]
        fn an_entry_returns_the_parts_it_was_made_of(
            key in proptest::collection::vec(any::<u8>(), 0..300),
            value in values(),
            created_ms in 0_u64..(1 << 48), has_ttl in any::<bool>(), slot in any::<u32>(),
            grace_ms in prop_oneof![Just(0), 1_u64..(1 << 48)],
        ) {
            let parts = Parts { value: &value, created_ms, has_ttl, grace_ms };
            let new = NewEntry::new(&key, &parts);
            let entry = new.as_entry();
            let check = || {
                prop_assert_eq!((entry.key(), entry.value()), (&key[..], &value[..]));
                prop_assert_eq!((entry.created_ms(), entry.grace_ms()), (created_ms, grace_ms));
                prop_assert_eq!(entry.allocated(entry.extent()), parts.size(key.len()));
                Ok(())
            };
            check()?;
            prop_assert_eq!((entry.has_ttl(), entry.slot()), (has_ttl, None));
            entry.set_indexed(Slot(slot));
            entry.set_has_ttl(!has_ttl);
            check()?;
            prop_assert_eq!((entry.has_ttl(), entry.slot()), (!has_ttl, Some(Slot(slot))));
            entry.set_unlinked();
            check()?;
            prop_assert_eq!((entry.has_ttl(), entry.slot()), (!has_ttl, None));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]
        #[test]
        fn a_rewritten_entry_keeps_only_its_slot(
            key in proptest::collection::vec(any::<u8>(), 0..300),
            values in proptest::array::uniform2(values()),
            graces in proptest::array::uniform2(prop_oneof![Just(0), 1_u64..(1 << 48)]),
            has_ttl in any::<bool>(), slot in proptest::option::of(any::<u32>()),
        ) {
            let parts = |at: usize| Parts {
                value: &values[at], created_ms: at as u64, has_ttl: has_ttl == (at == 0), grace_ms: graces[at],
            };
            let new = NewEntry::new(&key, &parts(0));
            let entry = new.as_entry();
            let slot = slot.map(Slot).inspect(|&slot| entry.set_indexed(slot));
            let room = entry.allocated(entry.extent());
            let has_room = |size: Allocated| size.entry <= room.entry && match (size.value, room.value) {
                (None, None) => true,
                (Some(value), Some(room)) => value <= room,
                _ => false,
            };
            let size = parts(1).size(key.len());
            if has_room(size) {
                // SAFETY: nothing is borrowed from the entry here, and the room is what it was allocated with.
                unsafe { entry.rewrite(entry.extent(), &parts(1), size) };
            }
            let now = parts(usize::from(has_room(size)));
            prop_assert_eq!((entry.key(), entry.value()), (&key[..], now.value));
            prop_assert_eq!((entry.created_ms(), entry.grace_ms()), (now.created_ms, now.grace_ms));
            prop_assert_eq!((entry.has_ttl(), entry.slot()), (now.has_ttl, slot));
        }
    }

    #[test]
    fn the_header_of_a_small_entry_is_thirteen_bytes() {
        let parts = Parts {
            value: &[b'v'; 100],
            created_ms: 1,
            has_ttl: true,
            grace_ms: 0,
        };
        assert_eq!(parts.size(13).entry, 13 + 13 + 100);
    }
}
