//! Watching a file for changes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::error::LoadError;
use super::fingerprint::ChangeDetector;
use super::registry::{Inner, Registry, Reloaded};
use super::source::SecondLook;
use crate::sync::lock;

/// Interval between checks of the file.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time for which a changed file must stay the same before it is read.
const AT_REST: Duration = Duration::from_millis(500);

impl Registry {
    /// Watches the file: checks it each second, and [reloads](Self::reload) it when it has changed. The future ends
    /// when the last handle of the registry is dropped, or at once if there is no file.
    ///
    /// A change is applied within 2 s, once the file has stayed the same for 500 ms, so that a half-written file is
    /// not read. Every way of replacing a file is noticed: writing, renaming another file over it, deleting and
    /// creating it, and swapping a symbolic link on its path.
    ///
    /// Each change leads to one [`Event::Config`](crate::Event::Config). The former settings stay in force after a
    /// mistake, and while there is no file. An unreadable file is tried again, but reported only once.
    ///
    /// The file is read on the thread that polls the future. A second after a change was applied, it is read once more:
    /// another change of equal size may have been written within the same tick of the file system's clock. On Unix it is
    /// also read once more when its status has changed, because programs such as `cp -p` and `tar` restore modification
    /// times.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the checks.
    pub fn watch(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.watch_with(|_| ())
    }

    /// Like [`watch`](Self::watch), and calls `report` with the result of each reload that it made, for example to log
    /// the mistakes: an event has only their number. `report` runs after the event, and outside locks.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::config::{LoadError, Registry};
    ///
    /// async fn run(path: &std::path::Path) -> Result<(), LoadError> {
    ///     let clients = Registry::open(path, |text| toml::from_str(text))?;
    ///     tokio::spawn(clients.watch_with(|reload| match reload {
    ///         Ok(reloaded) => println!("changed: {:?}", reloaded.changed),
    ///         Err(error) => eprintln!("{error}"),
    ///     }));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// A panic of `report`, of the function that parses the file, or of an observer ends the future. The registry can be
    /// watched again.
    ///
    /// # Cancel safety
    ///
    /// As for [`watch`](Self::watch).
    pub fn watch_with<F>(&self, report: F) -> impl Future<Output = ()> + Send + 'static + use<F>
    where
        F: FnMut(&Result<Reloaded, LoadError>) + Send + 'static,
    {
        follow(Arc::downgrade(&self.inner), report)
    }
}

async fn follow(registry: Weak<Inner>, mut report: impl FnMut(&Result<Reloaded, LoadError>)) {
    let mut changes = ChangeDetector::default();
    let mut second_look = SecondLook::default();
    // Fingerprint of the unreadable file that was reported last. Reading it is tried again.
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
            // A file that changed while it was read is checked again.
            let content = if changes.is_due(seen.map(|seen| seen.fingerprint), now) {
                inner.read(Some(now), None)
            } else if changes.is_changing() {
                None
            } else {
                let seen = seen.filter(|seen| second_look.is_due(*seen, inner.status_time()));
                seen.and_then(|seen| inner.read(Some(now), Some(seen)))
            };
            if let Some(content) = content {
                let is_known = content.is_unreadable() && unreadable == Some(now);
                unreadable = content.is_unreadable().then_some(now);
                let loaded = if is_known { None } else { inner.load(content) };
                if let Some(reload) = loaded {
                    report(&reload);
                }
            }
            let clock = &inner.base.clock;
            let wait = match changes.is_changing() {
                true => AT_REST,
                false => INTERVAL,
            };
            clock.sleep_until(clock.now() + wait)
        };
        sleep.await;
    }
}
