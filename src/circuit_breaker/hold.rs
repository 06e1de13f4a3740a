//! Isolations and suspensions of probes, which last until a guard is dropped, also in breakers that replace this one.

use std::sync::{Arc, Mutex, Weak};

use crate::event::Panics;
use crate::sync::lock;

/// An isolation, or a suspension of probes, shared by all breakers that it applies to. It ends with the last handle.
#[derive(Default)]
pub(super) struct Hold {
    /// Ends it for one breaker.
    ends: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl Hold {
    pub(super) fn on_end(&self, end: impl FnOnce() + Send + 'static) {
        lock(&self.ends).push(Box::new(end));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        // A statement of its own, so that the lock is released before user code runs.
        let ends = std::mem::take(&mut *lock(&self.ends));
        for end in ends {
            panics.run(end);
        }
        panics.resume();
    }
}

/// The holds of one kind on a breaker that have not ended.
#[derive(Default)]
pub(super) struct Holds(Vec<Weak<Hold>>);

impl Holds {
    /// Adds a hold. Returns `false` if it has been added before.
    pub(super) fn add(&mut self, hold: &Arc<Hold>) -> bool {
        self.0.retain(|hold| hold.strong_count() > 0);
        let new = Arc::downgrade(hold);
        let is_new = !self.0.iter().any(|hold| hold.ptr_eq(&new));
        if is_new {
            self.0.push(new);
        }
        is_new
    }

    pub(super) fn active(&self) -> Vec<Arc<Hold>> {
        self.0.iter().filter_map(Weak::upgrade).collect()
    }
}
