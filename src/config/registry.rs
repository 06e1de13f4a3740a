//! Named clients whose settings come from a file.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::clients::{Clients, FileSettings};
use super::error::{LoadError, SettingsError};
use super::fingerprint::Fingerprint;
use super::source::{Seen, Source, until_at_rest};
use super::value::Value;
use crate::base::{Base, Setup};
use crate::error::ConfigError;
use crate::event::{ConfigEvent, Event, Observer};
use crate::forms::interned;
use crate::standard::{Config, Standard};
use crate::sync::lock;

/// Named [`Standard`] stacks whose settings come from a file. See the [module page](super).
///
/// Cheap to clone; clones share all state.
#[derive(Clone)]
pub struct Registry {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) base: Base,
    /// The observer of the clients' calls.
    observer: Option<Arc<dyn Observer>>,
    pub(super) source: Option<Source>,
    clients: Mutex<InForce>,
    /// Number of loads begun. The number of a load is its turn: the later load has the greater one.
    turns: AtomicU64,
    last_error: Mutex<Option<Arc<LoadError>>>,
    /// The file as last read.
    pub(super) seen: Mutex<Option<Seen>>,
}

/// The clients in force, and the turn of the load that they come from.
#[derive(Default)]
struct InForce {
    clients: Arc<Clients>,
    turn: u64,
}

/// The content of the file, and the turn of the load that has read it.
pub(super) struct Content {
    turn: u64,
    file: Result<Value, LoadError>,
}

impl Content {
    pub(super) const fn is_unreadable(&self) -> bool {
        matches!(self.file, Err(LoadError::Read(_)))
    }
}

/// What a reload has changed, by the names of clients. Returned by [`Registry::reload`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// New clients.
    pub added: Vec<String>,
    /// Clients that were reconfigured in place.
    pub changed: Vec<String>,
    /// Clients that are no longer in the registry. Their handles keep their last settings, until the client comes back.
    pub removed: Vec<String>,
}

impl Reloaded {
    /// Returns the number of clients that were added, changed, or removed.
    pub fn len(&self) -> usize {
        self.added.len() + self.changed.len() + self.removed.len()
    }

    /// Returns whether no client was added, changed, or removed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Builds a [`Registry`].
///
/// | setting | default |
/// |---|---|
/// | [`name`](Self::name) | `clients` |
/// | [`observer`](Self::observer) | none |
/// | [`clock`](Self::clock) | tokio's |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open` or `build`"]
pub struct RegistryBuilder {
    setup: Setup,
}

const NAME: &str = "clients";

impl Registry {
    /// Returns a builder with the default settings.
    pub const fn builder() -> RegistryBuilder {
        RegistryBuilder {
            setup: Setup::new(NAME),
        }
    }

    /// Reads a file, on tokio's clock. `parse` converts its text, for example `|text| toml::from_str(text)`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or parsed, or settings are wrong.
    #[cfg(feature = "tokio")]
    pub fn open<E: Into<Box<dyn StdError + Send + Sync>>>(
        path: impl Into<PathBuf>,
        parse: impl Fn(&str) -> Result<Value, E> + Send + Sync + 'static,
    ) -> Result<Self, LoadError> {
        Self::builder().open(path, parse)
    }

    /// Returns the stack of a client. A reload changes it in place, so the handle can be kept.
    pub fn get(&self, name: &str) -> Option<Standard> {
        let clients = self.inner.clients();
        clients.all.get(name).map(|client| client.standard.clone())
    }

    /// Returns the names of all clients, in order.
    pub fn names(&self) -> Vec<String> {
        self.inner.clients().all.keys().cloned().collect()
    }

    /// Returns the settings in force, defaults included. Serialized, they make a file with the same clients.
    pub fn settings(&self) -> FileSettings {
        let clients = self.inner.clients();
        let clients = clients.all.iter();
        let effective = clients.map(|(name, client)| (name.clone(), client.settings.effective()));
        FileSettings {
            defaults: None,
            clients: effective.collect(),
        }
    }

    /// Returns the error of the last reload; `None` if it succeeded.
    pub fn last_error(&self) -> Option<Arc<LoadError>> {
        lock(&self.inner.last_error).clone()
    }

    /// Reads the file again and applies it like [`apply`](Self::apply), for example on a signal.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or parsed, or settings are wrong, or if the file changed each of the 100 times that it
    /// was read. The former settings stay in force.
    pub fn reload(&self) -> Result<Reloaded, LoadError> {
        let read = || self.inner.read(self.inner.fingerprint(), None);
        while let Some(content) = until_at_rest(read) {
            if let Some(result) = self.inner.load(content) {
                return result;
            }
        }
        let error = std::io::Error::other("changed each time it was read");
        self.inner.finish(Err(self.inner.unreadable(error)))
    }

    /// Applies settings: checks all of them, then changes all clients in place.
    ///
    /// Limiters keep their tokens, breakers their windows, budgets what they have counted. Calls in flight end
    /// under the settings they started with. A layer that appears or vanishes is in effect from the next call
    /// on. [`Standard::reconfigure`] has the details. Of concurrent changes, the one that began last is in force
    /// at the end.
    ///
    /// # Errors
    ///
    /// All mistakes. The former settings stay in force.
    pub fn apply(&self, file: &Value) -> Result<Reloaded, LoadError> {
        let turn = self.inner.next_turn();
        let applied = self.inner.apply(file, turn);
        // A later change was faster: the effect is as if this change had come first.
        let applied = applied.map(Option::unwrap_or_default);
        self.inner.finish(applied.map_err(LoadError::Settings))
    }
}

impl RegistryBuilder {
    setters! {
        in setup;
        /// Sets the observer of all clients, as [`StandardBuilder::observer`](crate::standard::StandardBuilder::observer)
        /// does, and of reloads.
        observer;
        /// Sets the name in events.
        name;
        /// Sets the clock of all clients and of [`watch`](Registry::watch).
        clock;
    }

    /// Reads a file. `parse` converts its text, for example `|text| toml::from_str(text)`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or parsed, or settings are wrong.
    pub fn open<E: Into<Box<dyn StdError + Send + Sync>>>(
        self,
        path: impl Into<PathBuf>,
        parse: impl Fn(&str) -> Result<Value, E> + Send + Sync + 'static,
    ) -> Result<Registry, LoadError> {
        let source = Source::new(path.into(), parse);
        let registry = self.empty(Some(source))?;
        registry.reload()?;
        Ok(registry)
    }

    /// Builds a registry without a file from these settings.
    ///
    /// # Errors
    ///
    /// All mistakes in the settings.
    pub fn build(self, file: &Value) -> Result<Registry, LoadError> {
        let registry = self.empty(None)?;
        registry.apply(file)?;
        Ok(registry)
    }

    fn empty(self, source: Option<Source>) -> Result<Registry, LoadError> {
        let observer = self.setup.observer.clone();
        let base = self.setup.build(NAME).map_err(|error| {
            let mut scope = super::scope::Scope::default();
            scope.at(error.setting(), |at| at.report(error.rule(), None));
            SettingsError {
                problems: scope.into_problems(),
            }
        })?;
        Ok(Registry {
            inner: Arc::new(Inner {
                base,
                observer,
                source,
                clients: Mutex::default(),
                turns: AtomicU64::new(0),
                last_error: Mutex::default(),
                seen: Mutex::default(),
            }),
        })
    }
}

impl Inner {
    pub(super) fn clients(&self) -> Arc<Clients> {
        lock(&self.clients).clients.clone()
    }

    /// Begins a load.
    fn next_turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        Some(self.source.as_ref()?.fingerprint())
    }

    pub(super) fn status_time(&self) -> Option<(i64, i64)> {
        self.source.as_ref()?.status_time()
    }

    /// Reads and parses the file, whose fingerprint is `now`. Returns `None` if the file changed meanwhile, or if it is
    /// as it was when `known` was read.
    pub(super) fn read(&self, now: Option<Fingerprint>, known: Option<Seen>) -> Option<Content> {
        let turn = self.next_turn();
        let Some(source) = &self.source else {
            let error = std::io::Error::other("the registry has no file");
            let file = Err(LoadError::Read(error));
            return Some(Content { turn, file });
        };
        let text = source.read();
        if self.fingerprint() != now {
            return None;
        }
        let seen = now.map(|now| Seen::new(now, text.as_deref().unwrap_or_default()));
        if known.is_some() && (text.is_err() || seen == known) {
            return None;
        }
        // A file that exists but cannot be read may become readable with the same fingerprint.
        if text.is_ok() || now == Some(Fingerprint::Missing) {
            *lock(&self.seen) = seen;
        }
        let text = text.map_err(|error| self.unreadable(error));
        let file = text.and_then(|text| source.parse(&text));
        Some(Content { turn, file })
    }

    /// Returns the error of a file that could not be read, with its path.
    fn unreadable(&self, error: std::io::Error) -> LoadError {
        LoadError::Read(match &self.source {
            Some(source) => source.named(&error),
            None => error,
        })
    }

    /// Applies what was read. `None` if a later load was faster: it may have read an earlier content, so the file
    /// has to be read again.
    pub(super) fn load(&self, content: Content) -> Option<Result<Reloaded, LoadError>> {
        let applied = content
            .file
            .and_then(|file| Ok(self.apply(&file, content.turn)?));
        let Some(applied) = applied.transpose() else {
            // Makes a watch read the file again, even if it has not changed.
            *lock(&self.seen) = None;
            return None;
        };
        Some(self.finish(applied))
    }

    /// Stores the error of a reload, and reports its end to the observer.
    fn finish(&self, result: Result<Reloaded, LoadError>) -> Result<Reloaded, LoadError> {
        let (event, error) = match &result {
            Ok(reloaded) => {
                let event = ConfigEvent::Applied {
                    clients: self.clients().all.len(),
                    changed: reloaded.len(),
                };
                (event, None)
            }
            Err(error) => {
                let problems = error.problems().len();
                (
                    ConfigEvent::Rejected { problems },
                    Some(Arc::new(error.copied())),
                )
            }
        };
        *lock(&self.last_error) = error;
        let event = Event::Config {
            policy: self.base.name,
            pipeline: None,
            event,
            sequence: 0,
        };
        self.base.report(event, None);
        result
    }

    fn make(&self, name: &str, config: Config) -> Result<Standard, ConfigError> {
        let builder = Standard::builder().config(config).name(interned(name));
        let builder = builder.clock(self.base.clock.clone());
        match &self.observer {
            Some(observer) => builder.observer(observer.clone()).build(),
            None => builder.build(),
        }
    }

    /// Applies settings. `None` if the clients in force come from a later load.
    fn apply(&self, file: &Value, turn: u64) -> Result<Option<Reloaded>, SettingsError> {
        // Clients are built and changed without a lock, because clocks and observers may be the user's code.
        // So another reload may come first; then its clients are taken over.
        loop {
            let before = self.clients();
            let next = before.next(file, &self.base.clock, |name, config| {
                self.make(name, config)
            })?;
            let next = Arc::new(next);
            {
                let mut current = lock(&self.clients);
                if current.turn > turn {
                    return Ok(None);
                }
                if !Arc::ptr_eq(&current.clients, &before) {
                    continue;
                }
                *current = InForce {
                    clients: next.clone(),
                    turn,
                };
            }
            self.bring_up_to_date();
            return Ok(Some(difference(&before, &next)));
        }
    }

    /// Reconfigures all clients, until no reload has replaced them meanwhile. So the last of several concurrent
    /// reloads takes effect.
    fn bring_up_to_date(&self) {
        loop {
            let clients = self.clients();
            for client in clients.all.values() {
                if client.standard.config() != client.config {
                    let changed = client.standard.reconfigure(client.config.clone());
                    // Building them has checked the settings.
                    debug_assert_eq!(changed, Ok(()));
                }
            }
            if Arc::ptr_eq(&clients, &self.clients()) {
                return;
            }
        }
    }
}

/// Returns the changes between two versions of the clients.
fn difference(before: &Clients, after: &Clients) -> Reloaded {
    let mut reloaded = Reloaded::default();
    for (name, client) in &after.all {
        match before.all.get(name) {
            None => reloaded.added.push(name.clone()),
            // A default that is given now changes nothing.
            Some(old)
                if old.config != client.config
                    && old.settings.effective() != client.settings.effective() =>
            {
                reloaded.changed.push(name.clone());
            }
            Some(_) => {}
        }
    }
    let is_gone = |name: &&String| !after.all.contains_key(*name);
    reloaded.removed = before.all.keys().filter(is_gone).cloned().collect();
    reloaded
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("name", &self.inner.base.name)
            .field("clients", &self.names())
            .finish_non_exhaustive()
    }
}
