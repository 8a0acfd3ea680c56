//! Rust's allocator is the server's, so that `used_memory`, `maxmemory` and eviction see every byte of the module.

use std::alloc::{GlobalAlloc, Layout};

/// Nothing allocates before `load` has initialised the module API.
struct ServerAllocator;

#[global_allocator]
static ALLOCATOR: ServerAllocator = ServerAllocator;

/// The largest alignment that the server's allocator can be made to keep: that of malloc.
const ALIGNED: usize = 16;

/// The size to ask for so that a layout's alignment is kept. The jemalloc of Redis aligns only multiples of 16 to 16,
/// since the addresses of each class are multiples of its size.
const fn aligned_size(size: usize, align: usize) -> usize {
    (size + align - 1) & !(align - 1)
}

// SAFETY: the server's functions are malloc, calloc, realloc and free. Alignments up to 16 are kept by asking for a
// multiple. Larger ones are refused (null), as `GlobalAlloc` allows.
unsafe impl GlobalAlloc for ServerAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > ALIGNED {
            return std::ptr::null_mut();
        }
        let size = aligned_size(layout.size(), layout.align());
        // SAFETY: any size is allowed.
        unsafe { api!(RedisModule_Alloc(size)).cast() }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let size = aligned_size(size, layout.align());
        // SAFETY: `ptr` came from the same allocator.
        unsafe { api!(RedisModule_Realloc(ptr.cast(), size)).cast() }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, _layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { api!(RedisModule_Free(ptr.cast())) };
    }
}
