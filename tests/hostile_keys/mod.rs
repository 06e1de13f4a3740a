//! Keys whose code panics or calls back.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;

thread_local! {
    /// Number of operations of user code until one panics; zero for never.
    static FUSE: Cell<u32> = const { Cell::new(0) };
    /// Runs in each operation, but not inside itself.
    pub(crate) static HOOK: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
}

/// An operation of user code: runs the hook, and panics if the fuse says so.
pub(crate) fn operate() {
    let hook = HOOK.take();
    if let Some(hook) = hook {
        hook();
        HOOK.set(Some(hook));
    }
    let fuse = FUSE.get();
    FUSE.set(fuse.saturating_sub(1));
    if fuse == 1 && !thread::panicking() {
        panic!("user code panics");
    }
}

/// Runs `call`, in which the operation with number `fuse` panics. Returns `None` if it did.
pub(crate) fn with_fuse<R>(fuse: u32, call: impl FnOnce() -> R) -> Option<R> {
    FUSE.set(fuse);
    let result = catch_unwind(AssertUnwindSafe(call)).ok();
    FUSE.set(0);
    result
}

/// Prints no message for the panics of [`operate`].
pub(crate) fn silence_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"user code panics") {
                default(info);
            }
        }));
    });
}

/// A key whose `Clone`, `Eq`, `Hash`, and `Drop` are operations.
#[derive(Debug)]
pub(crate) struct Key(pub(crate) u64);

impl Clone for Key {
    fn clone(&self) -> Self {
        operate();
        Self(self.0)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        operate();
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        operate();
        // Few values, so that keys are compared.
        (self.0 % 3).hash(state);
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        operate();
    }
}
