//! Admission of calls by a throttle.

use super::inner::Inner;
use super::permit::Permit;
use super::state::Admission;
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
        observer: Option<&dyn Observer>,
    ) -> Result<Permit<'_>, Rejected> {
        let admission = self.state.admit(now, || self.rng.unit());
        match admission {
            Admission::Admitted => {}
            Admission::Probe { last_admitted } => self.report_probe(now, last_admitted, observer),
            Admission::Rejected => self.reject(now, observer)?,
        }
        let is_probe = matches!(admission, Admission::Probe { .. });
        let slice = self.state.start(now);
        Ok(Permit::new(self, slice, is_probe, life))
    }

    /// Reports a probe. If an observer panics, the probe is withdrawn, so that another call can be one.
    #[cold]
    fn report_probe(&self, now: Instant, last_admitted: u64, observer: Option<&dyn Observer>) {
        let guard = OnUnwind::new(|| self.state.withdraw_probe(now, last_admitted));
        let event = Event::ProbeForced {
            policy: self.base.name,
            pipeline: None,
            sequence: 0,
        };
        self.base.report(event, observer);
        guard.disarm();
    }

    /// Counts and reports a rejection. Returns `Ok` in shadow mode.
    #[cold]
    fn reject(&self, now: Instant, observer: Option<&dyn Observer>) -> Result<(), Rejected> {
        // Relaxed: the counter orders nothing else.
        self.rejections.fetch_add(1, Ordering::Relaxed);
        if self.settings.count_rejected && !self.base.shadow {
            self.state.record(false, now);
        }
        let rejected = Rejected::new(self.base.name, Reason::Throttled);
        self.base.reject(rejected, observer)
    }
}
