//! The local limit of a lease during an outage of the store.

use super::super::local::{LocalBucket, LocalLimit};
use super::{Lease, Local, Outage};
use crate::instant::Instant;

impl Lease {
    /// Enters local mode for the outage of this number, or changes its limit.
    pub(super) fn limit_locally(&mut self, now: Instant, number: u64) {
        let before = self.local.limit();
        if let Some(limit) = before {
            self.keep(limit);
        }
        let share = self.share();
        let mut limit = LocalLimit::new(&self.rules, now, self.insurance, share, self.level);
        if self.rules.outage == Outage::OwnShare {
            limit.count_spent(now, before, self.spent);
        }
        self.local = Local::On { number, limit };
    }

    /// Keeps the bucket of [`Outage::Local`] for the next outage.
    pub(super) const fn keep(&mut self, limit: LocalLimit) {
        if let (Outage::Local(_), LocalLimit::Bucket(bucket)) = (self.rules.outage, limit) {
            self.insurance = Some(bucket);
        }
    }

    /// Drops the debt that has refilled since the last call, if no call has come to debit it.
    pub(super) fn forgive(&mut self, now: Instant, bucket: &LocalBucket) {
        let idle = now.as_nanos().saturating_sub(self.spent_at.as_nanos());
        if idle > self.rules.life {
            self.spent = self.spent.saturating_sub(bucket.earned(idle) as u64);
        }
    }
}
