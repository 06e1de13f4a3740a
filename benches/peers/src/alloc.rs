//! Counts the allocations of each thread.
//!
//! The only unsafe block of the repository. This package is a separate bench; the crate has none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

thread_local! {
    // Per thread, so that counting adds no shared write.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// Returns the number of allocations this thread has made.
pub fn count() -> u64 {
    ALLOCATIONS.get()
}

/// Returns the bytes this thread has allocated and not freed. Negative if it freed allocations of other
/// threads.
pub fn held() -> i64 {
    HELD.get()
}

fn hold(more: usize, less: usize) {
    HELD.set(HELD.get() + more as i64 - less as i64);
}

// SAFETY: forwards every call to the system allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        hold(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        hold(0, layout.size());
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        hold(new_size, layout.size());
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}
