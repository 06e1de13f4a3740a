//! The builder of keyed sets.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use super::Keyed;
use super::evictable::Evictable;
use super::inner::{Inner, Template};
use super::overflow::Overflow;
use crate::debug::DebugLimit;
use crate::error::ConfigError;

const NAME: &str = "keyed";
const MAX_KEYS: usize = 100_000;

impl<K, P> Keyed<K, P>
where
    K: Hash + Eq,
    P: Evictable + Clone,
{
    /// Creates policies with `template`, with the default settings.
    ///
    /// Two calls with the same new key may run the template at the same time; both get the same policy.
    pub fn new(template: impl Fn(&K) -> P + Send + Sync + 'static) -> Self {
        Self::builder(template).build_with(None)
    }

    /// Like [`try_builder`](Self::try_builder), with the default settings.
    ///
    /// # Errors
    ///
    /// If the template fails.
    pub fn try_new(
        template: impl Fn() -> Result<P, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        Self::try_builder(template).build()
    }

    /// Returns a builder of a set that creates policies with `template`.
    pub fn builder(template: impl Fn(&K) -> P + Send + Sync + 'static) -> KeyedBuilder<K, P> {
        KeyedBuilder::new(Arc::new(move |key: &K| Some(template(key))), None)
    }

    /// Returns a builder of a set whose template can fail. [`build`](KeyedBuilder::build) calls the template once and
    /// returns its error. If it fails later, the key gets the shared policy. The template is the same for all keys.
    pub fn try_builder(
        template: impl Fn() -> Result<P, ConfigError> + Send + Sync + 'static,
    ) -> KeyedBuilder<K, P> {
        let template = Arc::new(template);
        let of_shared = template.clone();
        let shared = move || {
            let policy = of_shared()?;
            policy.share_among_keys();
            Ok(policy)
        };
        KeyedBuilder::new(
            Arc::new(move |_: &K| template().ok()),
            Some(Arc::new(shared)),
        )
    }
}

/// Creates the shared policy of a set whose template can fail.
type Shared<P> = dyn Fn() -> Result<P, ConfigError> + Send + Sync;

/// Builds a [`Keyed`]. The [page](super) lists the defaults.
#[must_use = "a builder does nothing until `build`"]
pub struct KeyedBuilder<K, P> {
    template: Arc<Template<K, P>>,
    shared: Option<Arc<Shared<P>>>,
    max_keys: usize,
    overflow: Overflow,
    name: &'static str,
}

impl<K, P> KeyedBuilder<K, P> {
    fn new(template: Arc<Template<K, P>>, shared: Option<Arc<Shared<P>>>) -> Self {
        Self {
            template,
            shared,
            max_keys: MAX_KEYS,
            overflow: Overflow::Shared,
            name: NAME,
        }
    }

    /// Sets the most keys with a policy of their own. Bounds below 1024 are exact; larger ones are split into 16
    /// parts, one of which may be full before the others.
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// Sets what happens to new keys while the set is full. [`Overflow`] explains which to choose.
    pub const fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    setters! {
        /// Sets the name in snapshots.
        name;
    }

    /// Builds the set with this policy for keys that find it full; `None` if the first of them creates it.
    fn build_with(self, shared: Option<P>) -> Keyed<K, P> {
        let inner = Inner::new(
            self.name,
            self.template,
            shared,
            self.max_keys,
            self.overflow,
        );
        Keyed {
            inner: Arc::new(inner),
        }
    }

    /// Builds the set.
    ///
    /// # Errors
    ///
    /// If `max_keys` is 0, or the template fails.
    pub fn build(self) -> Result<Keyed<K, P>, ConfigError> {
        if self.max_keys == 0 {
            return Err(ConfigError::new(NAME, "max_keys", "must be at least 1"));
        }
        let shared = self.shared.as_ref().map(|shared| shared()).transpose()?;
        Ok(self.build_with(shared))
    }
}

impl<K, P> Clone for KeyedBuilder<K, P> {
    fn clone(&self) -> Self {
        Self {
            template: self.template.clone(),
            shared: self.shared.clone(),
            ..*self
        }
    }
}

impl<K, P> fmt::Debug for KeyedBuilder<K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBuilder")
            .field("name", &self.name)
            .field("max_keys", &DebugLimit(&self.max_keys))
            .field("overflow", &self.overflow)
            .finish_non_exhaustive()
    }
}
