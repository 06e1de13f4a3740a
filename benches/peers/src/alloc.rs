//! Counts what each thread allocates and frees.
//!
//! The one unsafe block of the repository: the package is a bench of its own, the crate has none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

thread_local! {
    // Per thread, so that counting costs the candidates no shared write.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// How many allocations this thread has made so far.
pub fn count() -> u64 {
    ALLOCATIONS.get()
}

/// How many bytes this thread has allocated and not freed. Below zero when it has freed what others
/// allocated.
pub fn held() -> i64 {
    HELD.get()
}

fn hold(more: usize, less: usize) {
    HELD.set(HELD.get() + more as i64 - less as i64);
}

// SAFETY: every call goes to the system's allocator with its arguments unchanged.
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
