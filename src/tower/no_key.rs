//! Requests without a key.

use crate::error::{Reason, Rejected};

/// The behavior for requests without a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoKey<K> {
    /// Rejects them, with [`Reason::Custom`] by the policy `no key`; over HTTP, with status 400.
    #[default]
    Reject,
    /// Admits them without a policy.
    Admit,
    /// Applies the policy of this key to all of them.
    Share(K),
}

impl<K: Clone> NoKey<K> {
    /// Returns the key of a request; `None` admits it without one.
    pub(super) fn resolve(&self, key: Option<K>) -> Result<Option<K>, Rejected> {
        match (key, self) {
            (Some(key), _) => Ok(Some(key)),
            (None, Self::Reject) => Err(no_key()),
            (None, Self::Admit) => Ok(None),
            (None, Self::Share(key)) => Ok(Some(key.clone())),
        }
    }
}

/// Name of the policy in rejections of requests without a key.
pub(super) const NO_KEY: &str = "no key";

fn no_key() -> Rejected {
    Rejected::new(NO_KEY, Reason::Custom)
}
