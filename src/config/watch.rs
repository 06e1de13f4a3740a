//! Following a file.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::fingerprint::Looks;
use super::registry::{Inner, Registry};
use crate::sync::lock;

/// Time between two looks at the file.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a file that has changed must still be the same.
const AT_REST: Duration = Duration::from_millis(500);

impl Registry {
    /// Follows the file: looks at it each second, and [reloads](Self::reload) it when it has changed. Ends when
    /// the last handle of the registry is dropped; without a file, at once.
    ///
    /// A change is applied within 2 s, once the file has stayed the same for 500 ms, so that a file that is being
    /// written is not read. Every way of replacing a file is noticed: writing, renaming another one over it,
    /// deleting and creating it, and swapping a symbolic link on its path.
    ///
    /// Each change leads to one [`Event::Config`](crate::Event::Config). After a mistake the former settings stay
    /// in force; so do they while there is no file. A file that cannot be read is tried again, and reported once.
    ///
    /// The file is read on the thread that polls the future.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the looks.
    pub fn watch(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        follow(Arc::downgrade(&self.inner))
    }
}

async fn follow(registry: Weak<Inner>) {
    let mut looks = Looks::default();
    // The file that could not be read, as has been reported. Reading it is tried again.
    let mut unreadable = None;
    loop {
        let sleep = {
            let Some(inner) = registry.upgrade() else {
                return;
            };
            let Some(now) = inner.fingerprint() else {
                return;
            };
            let seen = *lock(&inner.seen);
            if looks.is_due(seen, now) {
                // A file that changed while it was read is looked at again.
                if let Some(content) = inner.read(Some(now)) {
                    let is_known = content.is_unreadable() && unreadable == Some(now);
                    unreadable = content.is_unreadable().then_some(now);
                    if !is_known {
                        // Reported by an event.
                        let _ = inner.load(content);
                    }
                }
            }
            let clock = &inner.base.clock;
            let wait = match looks.is_changing() {
                true => AT_REST,
                false => INTERVAL,
            };
            clock.sleep_until(clock.now() + wait)
        };
        sleep.await;
    }
}
