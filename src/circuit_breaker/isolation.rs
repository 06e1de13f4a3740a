//! What keeps a circuit isolated, and the breakers that replace it.

use std::sync::{Arc, Mutex, Weak};

use crate::event::Panics;
use crate::sync::lock;

/// An isolation, shared by all breakers that it isolates. It ends with the last handle.
#[derive(Default)]
pub(super) struct Hold {
    /// Ends the isolation of one breaker.
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
        for end in std::mem::take(&mut *lock(&self.ends)) {
            panics.run(end);
        }
        panics.resume();
    }
}

/// The isolations of a breaker that have not ended.
#[derive(Default)]
pub(super) struct Isolations(Vec<Weak<Hold>>);

impl Isolations {
    pub(super) fn add(&mut self, hold: &Arc<Hold>) {
        self.0.retain(|hold| hold.strong_count() > 0);
        self.0.push(Arc::downgrade(hold));
    }

    pub(super) fn active(&self) -> Vec<Arc<Hold>> {
        self.0.iter().filter_map(Weak::upgrade).collect()
    }
}
