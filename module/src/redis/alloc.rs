//! Rust's allocator is the server's, so that `used_memory`, `maxmemory` and eviction see every byte of the module.

use std::alloc::{GlobalAlloc, Layout, System};

use redis_module::raw;

/// The server's allocator once the module API is there, the system's before (nothing allocated before is freed after:
/// `load` initialises the API first).
struct ServerAllocator;

#[global_allocator]
static ALLOCATOR: ServerAllocator = ServerAllocator;

/// What the server's allocator aligns to at least.
const ALIGNED: usize = 16;

// SAFETY: the server's functions are malloc, calloc, realloc and free; layouts that want more than their alignment
// are over-allocated by none and therefore refused (null), as `GlobalAlloc` allows.
unsafe impl GlobalAlloc for ServerAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the function pointer is set once, before any other thread exists.
        match unsafe { raw::RedisModule_Alloc } {
            _ if layout.align() > ALIGNED => std::ptr::null_mut(),
            // SAFETY: any size may be asked for.
            Some(alloc) => unsafe { alloc(layout.size()).cast() },
            // SAFETY: the caller's promises are the same.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        match unsafe { raw::RedisModule_Calloc } {
            _ if layout.align() > ALIGNED => std::ptr::null_mut(),
            // SAFETY: as in `alloc`.
            Some(calloc) => unsafe { calloc(1, layout.size()).cast() },
            // SAFETY: as in `alloc`.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `alloc`.
        match unsafe { raw::RedisModule_Realloc } {
            // SAFETY: `ptr` came from the same allocator.
            Some(realloc) => unsafe { realloc(ptr.cast(), size).cast() },
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
