//! The limit of one key.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;

use super::inner::Inner;

/// The limit of one key, as a policy. Returned by [`KeyedRateLimiter::get`](super::KeyedRateLimiter::get).
///
/// The key type is not a type parameter, but derived from `Q`. So a key type with a lifetime, such as `&'static str`,
/// appears only once in the type, and calls through it can be spawned.
pub struct Limited<'a, Q: ToOwned + ?Sized> {
    pub(super) inner: &'a Inner<Q::Owned>,
    pub(super) hash: u64,
    pub(super) key: &'a Q,
    /// Whether the call has not used the limiter yet, so that a full table is counted.
    pub(super) is_new_call: bool,
}

impl<'a, Q> Limited<'a, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    pub(super) fn new(inner: &'a Inner<Q::Owned>, key: &'a Q) -> Self {
        Self {
            inner,
            hash: inner.secret.hash(key),
            key,
            is_new_call: true,
        }
    }

    /// Returns tokens if the key is still in the table.
    pub(super) fn give(&self, tokens: u64) {
        if tokens > 0 {
            self.inner.give(self.hash, self.key, tokens);
        }
    }
}

impl<Q: ToOwned + ?Sized> Clone for Limited<'_, Q> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Q: ToOwned + ?Sized> Copy for Limited<'_, Q> {}

impl<Q> fmt::Debug for Limited<'_, Q>
where
    Q: ToOwned + fmt::Debug + ?Sized,
    Q::Owned: Borrow<Q>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limited")
            .field("limiter", &self.inner.base.name)
            .field("key", &self.key)
            .finish()
    }
}
