//! Admission.

use super::inner::Inner;
use super::permit::Permit;
use super::state::Decision;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer};
use crate::instant::Instant;
use crate::life::Life;
use crate::policy::OnUnwind;
use crate::sync::Ordering;

impl Inner {
    /// Admits a call or rejects it.
    #[inline]
    pub(super) fn admit(
        &self,
        now: Instant,
        life: Life,
        listener: Option<&dyn Observer>,
    ) -> Result<Permit<'_>, Rejected> {
        let decision = self.state.decide(now, || self.rng.unit());
        match decision {
            Decision::Pass => {}
            Decision::Probe { last } => self.report_probe(now, last, listener),
            Decision::Refuse => self.reject(now, listener)?,
        }
        let is_probe = matches!(decision, Decision::Probe { .. });
        let slice = self.state.begin(now);
        Ok(Permit::new(self, slice, is_probe, life))
    }

    /// Reports a probe that took the place of one at `last`. If an observer panics the probe is not made, so
    /// another call may be one.
    #[cold]
    fn report_probe(&self, now: Instant, last: u64, listener: Option<&dyn Observer>) {
        let guard = OnUnwind::new(|| self.state.withdraw_probe(now, last));
        let event = Event::ProbeForced {
            policy: self.base.name,
            pipeline: None,
            sequence: 0,
        };
        self.base.tell(event, listener);
        guard.disarm();
    }

    /// In shadow mode the call goes on.
    #[cold]
    fn reject(&self, now: Instant, listener: Option<&dyn Observer>) -> Result<(), Rejected> {
        // Relaxed: a number for people.
        self.rejected.fetch_add(1, Ordering::Relaxed);
        if self.settings.count_refused && !self.base.shadow {
            self.state.record(false, now);
        }
        let rejected = Rejected::new(self.base.name, Reason::Throttled);
        self.base.reject(rejected, listener)
    }
}
