//! The current quotas of a limiter.

use super::state::{Quota, queue_bound};

/// The current quotas.
#[derive(Debug, Default)]
pub(super) struct QuotasInForce {
    quotas: Box<[Quota]>,
    /// The largest sum of the costs of all waiters, if a quota bounds it.
    bound: Option<u64>,
    changed: bool,
}

impl QuotasInForce {
    pub(super) fn new(quotas: Vec<Quota>) -> Self {
        Self {
            bound: queue_bound(&quotas),
            quotas: quotas.into(),
            changed: false,
        }
    }

    pub(super) fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    pub(super) fn replace(&mut self, quotas: &[Quota]) {
        self.bound = queue_bound(quotas);
        self.quotas = quotas.into();
        self.changed = true;
    }

    pub(super) const fn bound(&self) -> Option<u64> {
        self.bound
    }

    pub(super) const fn is_changed(&self) -> bool {
        self.changed
    }
}
