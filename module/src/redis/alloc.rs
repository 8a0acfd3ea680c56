//! Rust's allocator is the server's, so that `used_memory`, `maxmemory` and eviction see every byte of the module.

use std::alloc::{GlobalAlloc, Layout, System};

use redis_module::raw;

/// The server's allocator once the module API is there, the system's before (nothing allocated before is freed after:
/// `load` initialises the API first).
struct ServerAllocator;

#[global_allocator]
static ALLOCATOR: ServerAllocator = ServerAllocator;

/// The most that the server's allocator can be made to align to: malloc's own alignment.
const ALIGNED: usize = 16;

/// The size to ask for so that a layout's alignment is kept: the jemalloc that Redis brings along aligns only multiples of
/// 16 to 16, since each class lies at multiples of its size.
const fn aligned_size(size: usize, align: usize) -> usize {
    if align > 8 {
        size.next_multiple_of(align)
    } else {
        size
    }
}

// SAFETY: the server's functions are malloc, calloc, realloc and free. Alignments up to 16 are kept by asking for a
// multiple, larger ones are refused (null), as `GlobalAlloc` allows.
unsafe impl GlobalAlloc for ServerAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the function pointer is set once, when the server loads the module; no other thread runs the module's
        // code by then.
        match unsafe { raw::RedisModule_Alloc } {
            _ if layout.align() > ALIGNED => std::ptr::null_mut(),
            // SAFETY: any size may be asked for.
            Some(alloc) => unsafe { alloc(aligned_size(layout.size(), layout.align())).cast() },
            // SAFETY: the caller's promises are the same.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `alloc`.
        match unsafe { raw::RedisModule_Realloc } {
            // SAFETY: `ptr` came from the same allocator.
            Some(realloc) => unsafe {
                realloc(ptr.cast(), aligned_size(size, layout.align())).cast()
            },
            // SAFETY: as in `alloc`.
            None => unsafe { System.realloc(ptr, layout, size) },
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        match unsafe { raw::RedisModule_Free } {
            // SAFETY: `ptr` came from the same allocator.
            Some(free) => unsafe { free(ptr.cast()) },
            // SAFETY: as in `alloc`.
            None => unsafe { System.dealloc(ptr, layout) },
        }
    }
}
